//! `embed_patches`: pictures of every aspect ratio, padding, copies, more tokens than patches.

use super::{
    Backend, Call, DType, Entry, Feature, GEMM, Inputs, Op, OpCase, Rejection, Result, Tolerance, Zeros, expect_ready,
    named, rejections_with, returns, zeros,
};

/// Latents `[batch, channels, height, width]` to tokens of width `dim`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EmbedPatchesCase {
    pub batch: usize,
    pub channels: usize,
    /// Height and width of the latents.
    pub size: [usize; 2],
    pub patch: usize,
    pub tokens: usize,
    pub copies: usize,
    pub dim: usize,
    /// The stored type of the pad token.
    pub pad: DType,
    pub scale: f32,
}

impl EmbedPatchesCase {
    pub(crate) const PLAIN: Self = Self {
        batch: 1,
        channels: 16,
        size: [2, 2],
        patch: 2,
        tokens: 32,
        copies: 1,
        dim: 64,
        pad: DType::F32,
        scale: 1.0,
    };
}

impl OpCase for EmbedPatchesCase {
    const OP: &'static str = "embed_patches";
    const TOLERANCE: Tolerance = GEMM;

    fn sizes(&self) -> String {
        let Self { tokens, patch, channels, dim, .. } = self;
        format!("{tokens} tokens of {} values, {dim} wide", patch * patch * channels)
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { batch, channels, size: [height, width], patch, tokens, copies, dim, pad, scale } = *self;
        let latents = inputs.latents(&[batch, channels, height, width], scale)?;
        let w = inputs.linear(DType::Bf16, dim, patch * patch * channels, true)?;
        let pad = inputs.vector(pad, dim, 1.0)?;
        returns(move |b: &B| Ok([b.embed_patches(&latents, patch, &w, &pad, tokens, copies)?]))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    const PLAIN: EmbedPatchesCase = EmbedPatchesCase::PLAIN;
    let guided = EmbedPatchesCase { batch: 2, channels: 4, size: [6, 14], copies: 2, dim: 60, ..PLAIN };
    let threes = EmbedPatchesCase { channels: 5, size: [9, 6], patch: 3, tokens: 7, copies: 3, dim: 20, ..PLAIN };
    let cases = named([
        ("z-image-width-3840", EmbedPatchesCase { size: [12, 10], dim: 3840, ..PLAIN }),
        ("one-patch", PLAIN),
        ("no-padding", EmbedPatchesCase { batch: 2, size: [8, 16], dim: 60, ..PLAIN }),
        ("guidance-copies", guided),
        ("tall", EmbedPatchesCase { channels: 4, size: [34, 2], dim: 61, ..PLAIN }),
        ("patch-of-1", EmbedPatchesCase { channels: 3, size: [5, 7], patch: 1, tokens: 35, dim: 33, ..PLAIN }),
        ("patch-of-3", threes),
        ("latents-1e5", EmbedPatchesCase { size: [4, 4], scale: 1e5, ..PLAIN }),
        ("full", EmbedPatchesCase { size: [128, 128], tokens: 4096, dim: 3840, ..PLAIN }),
    ]);
    let op = Op { name: EmbedPatchesCase::OP, features: &[Feature::Bias, Feature::BeyondF16] };
    Entry { op, cases, rejections: patch_rejections() }
}

fn patch_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const OP: &str = EmbedPatchesCase::OP;
    const LATENTS: Zeros = Zeros::F32(&[2, 3, 4, 6]);
    const PAD: Zeros = Zeros::F32(&[5]);
    let matrix = |b: &B| expect_ready(b.upload_linear(&[zeros(DType::Bf16, &[5, 12]).into()], &[]));
    let with = |patch, tokens, copies| {
        move |b: &B, w: &B::Linear, [latents, pad]: [B::Tensor; 2]| {
            b.embed_patches(&latents, patch, w, &pad, tokens, copies).map(drop)
        }
    };
    let mut all = rejections_with(
        OP,
        matrix,
        with(2, 8, 1),
        [
            ("rank-of-latents", [Zeros::F32(&[3, 4, 6]), PAD]),
            ("type-of-latents", [Zeros::U32(&[2, 3, 4, 6]), PAD]),
            ("height-of-latents", [Zeros::F32(&[2, 3, 5, 6]), PAD]),
            ("channels-of-latents", [Zeros::F32(&[2, 4, 4, 6]), PAD]),
            ("size-of-pad", [LATENTS, Zeros::F32(&[6])]),
            ("type-of-pad", [LATENTS, Zeros::U32(&[5])]),
        ],
    );
    all.extend(rejections_with(OP, matrix, with(0, 8, 1), [("patch", [LATENTS, PAD])]));
    all.extend(rejections_with(OP, matrix, with(2, 5, 1), [("tokens", [LATENTS, PAD])]));
    all.extend(rejections_with(OP, matrix, with(2, 8, 0), [("copies", [LATENTS, PAD])]));
    all
}
