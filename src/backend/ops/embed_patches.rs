//! `embed_patches`: latents to tokens.

use super::{DeviceTensor, DeviceWeight, LinearOp, Result, check};
use crate::tensor::DType;

/// The arguments of [`EmbedPatchesOp::embed_patches`].
#[derive(Debug)]
pub struct EmbedPatchesArgs<'a, T, W> {
    /// F32 `[B, C, H, W]`.
    pub latents: &'a T,
    /// The side of a patch in latent pixels.
    pub patch: usize,
    /// The embedder, `[D, p·p·C]`.
    pub w: &'a W,
    /// The pad token, `[D]`.
    pub pad: &'a T,
    /// Rows of the output per item.
    pub tokens: usize,
    /// Number of copies of the batch.
    pub copies: usize,
}

impl<T: DeviceTensor, W: DeviceWeight<2>> EmbedPatchesArgs<'_, T, W> {
    /// Checks the arguments; returns the output's shape `[copies·B, tokens, D]`.
    pub fn check(&self) -> Result<[usize; 3]> {
        let op = "embed_patches";
        let Self { patch, tokens, copies, .. } = *self;
        let [b, c, height, width] = check::exactly(op, "the latents", self.latents, DType::F32)?;
        let w = check::native(op, "w", self.w)?;
        check::ensure(patch > 0 && height.is_multiple_of(patch) && width.is_multiple_of(patch), op, || {
            format!("{height}×{width} latents have no whole patches of {patch}")
        })?;
        check::ensure(w[1] == patch * patch * c, op, || {
            format!("a matrix {w:?} does not take patches of {patch}·{patch}·{c}")
        })?;
        check::vector(op, "the pad token", self.pad, w[0])?;
        let patches = (height / patch) * (width / patch);
        check::ensure(tokens >= patches, op, || format!("{patches} patches do not fit {tokens} tokens"))?;
        check::ensure(copies > 0, op, || format!("{copies} copies of {:?} are no batch", self.latents.shape()))?;
        Ok([copies * b, tokens, w[0]])
    }
}

/// The patch embedder of the diffusion transformer.
pub trait EmbedPatchesOp: LinearOp {
    /// Latents to tokens: `out[b, y·(W/p) + x] = Wₑ·patch + bₑ`. A patch lists its `p·p·C` values
    /// by (row, column, channel). Rows from the picture's end up to `tokens` are `pad` `[D]`. The
    /// batch is repeated `copies` times. `latents` F32 `[B, C, H, W]`; returns `[copies·B, tokens,
    /// D]`.
    fn embed_patches(
        &self,
        latents: &Self::Tensor,
        patch: usize,
        w: &Self::Linear,
        pad: &Self::Tensor,
        tokens: usize,
        copies: usize,
    ) -> Result<Self::Tensor> {
        let args = EmbedPatchesArgs { latents, patch, w, pad, tokens, copies };
        let shape = args.check()?;
        self.run_embed_patches(args, shape)
    }

    /// Runs [`EmbedPatchesOp::embed_patches`] on checked arguments.
    fn run_embed_patches(
        &self,
        args: EmbedPatchesArgs<'_, Self::Tensor, Self::Linear>,
        shape: [usize; 3],
    ) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Fake, Fp8Sizes, Sizes, f32s, gives, rejects};
    use super::*;

    fn check(
        latents: &[usize],
        patch: usize,
        w: [usize; 2],
        pad: usize,
        tokens: usize,
        copies: usize,
    ) -> Result<[usize; 3]> {
        let (latents, pad) = (f32s(latents), f32s(&[pad]));
        EmbedPatchesArgs { latents: &latents, patch, w: &Sizes(w), pad: &pad, tokens, copies }.check()
    }

    #[test]
    fn patches_must_fill_the_picture() {
        let op = "embed_patches";
        gives(check(&[2, 3, 4, 6], 2, [5, 12], 5, 8, 2), [4, 8, 5]);
        gives(check(&[2, 3, 4, 6], 2, [5, 12], 5, 6, 1), [2, 6, 5]);
        rejects(check(&[2, 3, 5, 6], 2, [5, 12], 5, 8, 1), op, &["5×6", "2"]);
        rejects(check(&[2, 3, 4, 7], 2, [5, 12], 5, 8, 1), op, &["4×7", "2"]);
        rejects(check(&[2, 3, 4, 6], 0, [5, 12], 5, 8, 1), op, &["4×6", "0"]);
        rejects(check(&[2, 3, 4, 6], 2, [5, 13], 5, 8, 1), op, &["[5, 13]", "2·2·3"]);
        rejects(check(&[2, 3, 4, 6], 2, [5, 12], 6, 8, 1), op, &["the pad token", "[5]", "[6]"]);
        rejects(check(&[2, 3, 4, 6], 2, [5, 12], 5, 5, 1), op, &["6 patches", "5 tokens"]);
        rejects(check(&[2, 3, 4, 6], 2, [5, 12], 5, 8, 0), op, &["0 copies"]);
    }

    #[test]
    fn latents_must_be_f32() {
        let (latents, pad) = (Fake::new(DType::Bf16, &[1, 1, 2, 2]), f32s(&[5]));
        let args = EmbedPatchesArgs { latents: &latents, patch: 2, w: &Sizes([5, 4]), pad: &pad, tokens: 1, copies: 1 };
        rejects(args.check(), "embed_patches", &["the latents must be F32, not BF16"]);
    }

    #[test]
    fn the_matrix_must_not_be_fp8() {
        let (latents, pad, w) = (f32s(&[1, 4, 4, 4]), f32s(&[5]), Fp8Sizes([5, 16]));
        let args = EmbedPatchesArgs { latents: &latents, patch: 2, w: &w, pad: &pad, tokens: 4, copies: 1 };
        rejects(args.check(), "embed_patches", &["w must not be computed in FP8"]);
    }
}
