//! `guide_and_step`: guidance, its norm cap, and the Euler step.

use super::rows::table_row;
use super::{Cpu, CpuTensor};
use crate::backend::{DeviceTensor, GuideAndStepArgs, GuideAndStepOp};
use crate::error::Result;

impl GuideAndStepOp for Cpu {
    fn run_guide_and_step(&self, args: GuideAndStepArgs<'_, CpuTensor>) -> Result<()> {
        let GuideAndStepArgs { latents, prediction, table, step } = args;
        let item = latents.shape()[1..].iter().product();
        let counter = step.memory();
        self.update(latents, [prediction, table], move |[prediction, table], latents| {
            let table = table.f32()?;
            let row = table_row("guide_and_step", &table, 3, &counter.read())?.try_into().unwrap_or([0.0; 3]);
            guide_and_step(latents, &prediction.f32()?, row, item);
            counter.write().u32_mut().iter_mut().for_each(|step| *step += 1);
            Ok(())
        })
    }
}

/// Applies one row of the table of steps to every item of `item` values; see the op's definition.
fn guide_and_step(latents: &mut [f32], prediction: &[f32], row: [f32; 3], item: usize) {
    let [delta, guidance, cap] = row;
    let (positive, negative) = prediction.split_at(latents.len());
    for (b, latents) in latents.chunks_exact_mut(item).enumerate() {
        let p = &positive[b * item..][..item];
        if negative.is_empty() {
            latents.iter_mut().zip(p).for_each(|(x, p)| *x += delta * p);
            continue;
        }
        let q = &negative[b * item..][..item];
        let mut guided: Vec<f32> = p.iter().zip(q).map(|(p, q)| p + guidance * (p - q)).collect();
        let (length, limit) = (norm(&guided), norm(p) * cap);
        if cap > 0.0 && length > limit {
            guided.iter_mut().for_each(|v| *v *= limit / length);
        }
        latents.iter_mut().zip(&guided).for_each(|(x, v)| *x += delta * v);
    }
}

/// The Euclidean length, summed in f64 so that it does not depend on the order.
fn norm(values: &[f32]) -> f32 {
    values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32
}
