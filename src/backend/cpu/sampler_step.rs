//! `sampler_step`: guidance, its norm cap, and one step of a linear multistep sampler.

use super::rows::{or, table_row};
use super::{Cpu, CpuTensor};
use crate::backend::{DeviceTensor, SamplerRow, SamplerState, SamplerStepArgs, SamplerStepOp};
use crate::error::Result;

impl SamplerStepOp for Cpu {
    fn run_sampler_step(&self, args: SamplerStepArgs<'_, CpuTensor>, slots: usize) -> Result<()> {
        let SamplerStepArgs { latents, prediction, sampler, step } = args;
        let SamplerState { table, history, noise } = sampler;
        let item = latents.shape()[1..].iter().product();
        let columns = SamplerRow::COLUMNS + slots;
        let counter = step.memory();
        let history = history.map(|history| history.memory());
        let has_noise = noise.is_some();
        self.update(latents, [prediction, table, or(noise, table)], move |[prediction, table, noise], latents| {
            let table = table.f32()?;
            let row = table_row("sampler_step", &table, columns, &counter.read())?;
            let index = counter.read().u32()[0] as usize;
            let mut guard = history.as_ref().map(|history| history.write());
            let history = match &mut guard {
                Some(history) => history.f32_mut()?,
                None => &mut [],
            };
            let noise = noise.f32()?;
            let is_read = has_noise && row[NOISE] != 0.0;
            let noise = if is_read { &noise[index * latents.len()..][..latents.len()] } else { &[] };
            sampler_step(Step { row, index, noise, item }, latents, &prediction.f32()?, history);
            counter.write().u32_mut().iter_mut().for_each(|step| *step += 1);
            Ok(())
        })
    }
}

/// The column of the noise's coefficient.
const NOISE: usize = 4;

/// One step: its row, its index, its noise (empty for a coefficient of 0), and the values of an
/// item.
struct Step<'a> {
    row: &'a [f32],
    index: usize,
    noise: &'a [f32],
    item: usize,
}

/// Applies a step as the op defines it. `history` has one slot per history coefficient of the row.
fn sampler_step(step: Step<'_>, latents: &mut [f32], prediction: &[f32], history: &mut [f32]) {
    let Step { row, index, noise, item } = step;
    let [guidance, cap, a, b, d, e, f] = std::array::from_fn(|column| row[column]);
    let past = &row[SamplerRow::COLUMNS..];
    let slots = past.len();
    let batch = latents.len();
    let (positive, negative) = prediction.split_at(batch);
    let mut velocity = vec![0.0; item];
    for (i, latents) in latents.chunks_exact_mut(item).enumerate() {
        let at = i * item..(i + 1) * item;
        guided(&positive[at.clone()], negative.get(at.clone()), guidance, cap, &mut velocity);
        for (n, (x, v)) in at.zip(latents.iter_mut().zip(&velocity)) {
            let mut next = a * *x + b * v;
            for (j, &c) in (1..).zip(past).filter(|(_, c)| **c != 0.0) {
                next += c * history[(index + slots - j) % slots * batch + n];
            }
            if let Some(noise) = noise.get(n) {
                next += d * noise;
            }
            if slots > 0 {
                history[index % slots * batch + n] = e * *x + f * v;
            }
            *x = next;
        }
    }
}

/// `v = p + g·(p − q)` with its norm capped, or `p` without negatives.
fn guided(p: &[f32], q: Option<&[f32]>, guidance: f32, cap: f32, v: &mut [f32]) {
    let Some(q) = q else { return v.copy_from_slice(p) };
    v.iter_mut().zip(p.iter().zip(q)).for_each(|(v, (p, q))| *v = p + guidance * (p - q));
    let length = norm(v);
    let limit = norm(p) * cap;
    if cap > 0.0 && length > limit {
        v.iter_mut().for_each(|v| *v *= limit / length);
    }
}

/// The Euclidean length, summed in F64 so that it does not depend on the order.
fn norm(values: &[f32]) -> f32 {
    values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32
}
