//! `swiglu`: both feed-forward widths, and gates so large that an exponential overflows.

use super::linear::{gemm_flop, matrix_rejections};
use super::streamed::StreamedSwiGlus;
use super::{
    Backend, Call, DType, Entry, Feature, GATED_GEMM, Inputs, Op, OpCase, Rejection, Result, Stored, Tolerance,
    expect_ready, in_pieces, named, quantized_cases, returns, upload_rejection, zeros,
};
use crate::tensor::{Format, StreamSource};

/// `x` `[1, tokens, k]` times two matrices `[f, k]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SwiGluCase {
    pub tokens: usize,
    pub k: usize,
    pub f: usize,
    pub gate: Stored,
    pub up: Stored,
    /// The bytes per piece of either matrix.
    pub pieces: Option<u64>,
    pub scale: f32,
}

impl SwiGluCase {
    /// BF16 matrices.
    pub(crate) const fn new(tokens: usize, k: usize, f: usize) -> Self {
        Self {
            tokens,
            k,
            f,
            gate: Stored::Plain(DType::Bf16),
            up: Stored::Plain(DType::Bf16),
            pieces: None,
            scale: 1.0,
        }
    }

    const fn stored(self, gate: Stored, up: Stored) -> Self {
        Self { gate, up, ..self }
    }

    const fn in_pieces(k: usize, gate: Stored, up: Stored) -> Self {
        Self { pieces: Some(3000), ..Self::new(19, k, 37).stored(gate, up) }
    }
}

impl OpCase for SwiGluCase {
    const OP: &'static str = "swiglu";
    const TOLERANCE: Tolerance = GATED_GEMM;

    fn sizes(&self) -> String {
        let Self { tokens, k, f, .. } = self;
        format!("[{tokens}, {k}] · 2 × [{f}, {k}]ᵀ")
    }

    fn flop(&self) -> Option<f64> {
        Some(gemm_flop(self.tokens, 2 * self.f, self.k))
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { tokens, k, f, gate, up, pieces, scale } = *self;
        let x = inputs.activation(&[1, tokens, k], scale)?;
        let gate = in_pieces(inputs.stored(gate, f, k), pieces);
        let up = in_pieces(inputs.stored(up, f, k), pieces);
        let w = expect_ready(inputs.b.upload_swiglu(&gate, &up))?;
        returns(move |b: &B| Ok([b.swiglu(&x, &w)?]))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    let [bf16, f16, f32] = [DType::Bf16, DType::F16, DType::F32].map(Stored::Plain);
    let new = SwiGluCase::new;
    let mut cases = named([
        ("one-token", new(1, 256, 384)),
        ("33-tokens", new(33, 256, 682)),
        ("257-tokens", SwiGluCase { scale: 2.0, ..new(257, 64, 130).stored(f16, f16) }),
        ("slice-width-3840", new(65, 3840, 160)),
        ("odd-widths", SwiGluCase { scale: 3.0, ..new(19, 61, 37) }),
        ("odd-widths-f32", new(3, 7, 1).stored(f32, f32)),
        // The result is 1e8, far beyond F16, as in Z-Image's deep blocks.
        ("bf16-activations-1e4", SwiGluCase { scale: 1e4, ..new(64, 384, 256) }),
        ("f32-activations-1e5", SwiGluCase { scale: 1e5, ..new(33, 128, 96).stored(f32, f32) }),
        // Tiles are computed in pairs, and some pairs have only one tile.
        ("400-tokens", new(400, 200, 264)),
        ("600-tokens", new(600, 200, 520)),
        ("full", new(4224, 3840, 10_240)),
        // The pieces have equal or unequal heights, and types that no shader reads together.
        ("in-pieces-bf16", SwiGluCase::in_pieces(61, bf16, bf16)),
        ("in-pieces-f32", SwiGluCase::in_pieces(64, f32, f32)),
        ("in-pieces-mixed", SwiGluCase::in_pieces(96, f32, f16)),
    ]);
    let [q4_k, q6_k, q8_0] = [Format::Q4K, Format::Q6K, Format::Q8_0].map(Stored::Blocks);
    cases.extend(named([
        ("one-token-q4_k", new(1, 256, 38).stored(q4_k, q4_k)),
        ("200-tokens-q4_k", new(200, 512, 264).stored(q4_k, q4_k)),
        ("wide-q6_k", new(70, 2048, 130).stored(q6_k, q6_k)),
        ("quantized-mixed", new(19, 512, 37).stored(q4_k, q6_k)),
        ("quantized-mixed-in-pieces", SwiGluCase::in_pieces(512, q4_k, q8_0)),
        ("quantized-gate-alone", new(19, 512, 37).stored(q6_k, bf16)),
        ("full-q4_k", new(4224, 3840, 10_240).stored(q4_k, q4_k)),
    ]));
    use StreamSource::{Files, Memory};
    cases.extend(named([
        ("streamed-bf16", StreamedSwiGlus { tokens: 33, source: Memory, stored: [bf16, bf16], hidden: 130 }),
        ("streamed-q4_k-and-q6_k", StreamedSwiGlus { tokens: 3, source: Memory, stored: [q4_k, q6_k], hidden: 66 }),
        ("streamed-from-files-bf16", StreamedSwiGlus { tokens: 9, source: Files, stored: [bf16, bf16], hidden: 130 }),
        ("streamed-from-files-q4_k", StreamedSwiGlus { tokens: 3, source: Files, stored: [q4_k, q4_k], hidden: 66 }),
    ]));
    cases.extend(quantized_cases(|stored, k| new(33, k, 66).stored(stored, stored)));
    let matrices =
        |b: &B| expect_ready(b.upload_swiglu(&zeros(DType::F32, &[7, 5]).into(), &zeros(DType::F32, &[7, 5]).into()));
    let mut rejections = matrix_rejections(SwiGluCase::OP, matrices, |b: &B, w, x| b.swiglu(&x, w).map(drop));
    rejections.extend(upload_rejections());
    Entry { op: Op { name: SwiGluCase::OP, features: &[Feature::Pieces, Feature::BeyondF16] }, cases, rejections }
}

fn upload_rejections<B: Backend + 'static>() -> [Rejection<B>; 5] {
    let upload_pair = |name, gate: (DType, &'static [usize]), up: (DType, &'static [usize])| {
        upload_rejection("upload_swiglu", name, move |b: &B| {
            expect_ready(b.upload_swiglu(&zeros(gate.0, gate.1).into(), &zeros(up.0, up.1).into())).map(drop)
        })
    };
    const MATRIX: (DType, &[usize]) = (DType::Bf16, &[3, 5]);
    [
        upload_pair("empty", (DType::Bf16, &[3, 0]), (DType::Bf16, &[3, 0])),
        upload_pair("rank", (DType::Bf16, &[3]), MATRIX),
        upload_pair("type", (DType::U32, &[3, 5]), MATRIX),
        upload_pair("size-of-up", MATRIX, (DType::Bf16, &[2, 5])),
        upload_pair("type-of-up", MATRIX, (DType::U32, &[3, 5])),
    ]
}
