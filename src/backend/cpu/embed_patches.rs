//! `embed_patches`: latents to tokens.

use super::linear::CpuLinear;
use super::patches::Patches;
use super::{Cpu, CpuTensor};
use crate::backend::{DeviceTensor, EmbedPatchesArgs, EmbedPatchesOp};
use crate::error::Result;
use crate::reserve::zeros;

impl EmbedPatchesOp for Cpu {
    fn run_embed_patches(
        &self,
        args: EmbedPatchesArgs<'_, CpuTensor, CpuLinear>,
        shape: [usize; 3],
    ) -> Result<CpuTensor> {
        let EmbedPatchesArgs { latents, patch, w, pad, tokens, .. } = args;
        let [channels, height, width] = [1, 2, 3].map(|dim| latents.shape()[dim]);
        let w = w.clone();
        self.fill(&shape, [latents, pad], move |[latents, pad], out| {
            let grid = Patches { channels, height, width, patch };
            embed_patches(&latents.f32()?, grid, &w, &pad.f32()?, tokens, out)
        })
    }
}

/// `out[b, t] = W·patch + bias` for the patches of every item, then `pad` up to `tokens`; the batch
/// is repeated until `out` is full.
fn embed_patches(
    latents: &[f32],
    grid: Patches,
    w: &CpuLinear,
    pad: &[f32],
    tokens: usize,
    out: &mut [f32],
) -> Result<()> {
    let item = grid.channels * grid.height * grid.width;
    let mut values = zeros(grid.count() * grid.values(), "the patches of a picture")?;
    let (first, copies) = out.split_at_mut(latents.len() / item * tokens * pad.len());
    for (latents, out) in latents.chunks_exact(item).zip(first.chunks_exact_mut(tokens * pad.len())) {
        for (t, patch) in values.chunks_exact_mut(grid.values()).enumerate() {
            patch.iter_mut().enumerate().for_each(|(i, value)| *value = latents[grid.at(t, i)]);
        }
        let (image, padding) = out.split_at_mut(grid.count() * pad.len());
        w.apply(&values, image)?;
        padding.chunks_exact_mut(pad.len()).for_each(|row| row.copy_from_slice(pad));
    }
    copies.chunks_exact_mut(first.len()).for_each(|copy| copy.copy_from_slice(first));
    Ok(())
}
