//! `final_layer`: tokens to a velocity.

use super::linear::CpuLinear;
use super::parallel::*;
use super::patches::Patches;
use super::rows::{ModulationRow, Rows};
use super::{Cpu, CpuTensor};
use crate::backend::{DeviceTensor, DeviceWeight, FinalLayerArgs, FinalLayerOp};
use crate::error::Result;
use crate::reserve::zeros;

impl FinalLayerOp for Cpu {
    fn run_final_layer(&self, args: FinalLayerArgs<'_, CpuTensor, CpuLinear>, shape: [usize; 4]) -> Result<CpuTensor> {
        let FinalLayerArgs { x, scale, eps, w, patch, .. } = args;
        let [_, channels, height, width] = shape;
        let tokens = x.shape()[1];
        let row = ModulationRow::new(scale);
        let w = w.clone();
        self.fill(&shape, [x, scale.table], move |[x, table], out| {
            let grid = Patches { channels, height, width, patch };
            final_layer(&x.f32()?, tokens, row.of(&table.f32()?), eps, &w, grid, out)
        })
    }
}

/// `W·(LN(x)·(1 + scale)) + bias` for the first tokens of every item of `tokens`, put back as
/// patches.
fn final_layer(
    x: &[f32],
    tokens: usize,
    scale: Rows<'_>,
    eps: f32,
    w: &CpuLinear,
    grid: Patches,
    out: &mut [f32],
) -> Result<()> {
    let [_, width] = w.dims();
    let item = grid.channels * grid.height * grid.width;
    let mut normed = zeros(grid.count() * width, "the tokens of a picture")?;
    let mut values = zeros(grid.count() * grid.values(), "the patches of a picture")?;
    for (b, (x, out)) in x.chunks_exact(tokens * width).zip(out.chunks_exact_mut(item)).enumerate() {
        let scale = scale.item(b, width);
        normed.par_chunks_mut(width).zip(x.par_chunks(width)).for_each(|(out, x)| layer_norm(x, scale, eps, out));
        w.apply(&normed, &mut values)?;
        for (t, patch) in values.chunks_exact(grid.values()).enumerate() {
            patch.iter().enumerate().for_each(|(i, &value)| out[grid.at(t, i)] = value);
        }
    }
    Ok(())
}

/// `out = (x − mean)/√(var + eps)·(1 + scale)`.
fn layer_norm(x: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n;
    let factor = 1.0 / (variance + eps).sqrt();
    out.iter_mut().zip(x).zip(scale).for_each(|((o, x), s)| *o = (x - mean) * factor * (1.0 + s));
}
