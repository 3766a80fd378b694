//! `swiglu`: both feed-forward widths, and gates so large that an exponential overflows.

use super::linear::{gemm_flop, matrix_rejections};
use super::streamed::StreamedSwiGlus;
use super::{
    Backend, Call, Compute, DType, Entry, FP8_GATED_GEMM, Feature, GATED_GEMM, Inputs, Op, OpCase, Operand, Rejection,
    Result, Stored, Tolerance, expect_ready, fp8_matrix, fp8_rejection, in_pieces, named, quantized_cases, returns,
    upload_rejection, zeros,
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
    /// [`Operand::Native`] or [`Operand::Fp8Rows`].
    pub x: Operand,
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
            x: Operand::Native,
        }
    }

    /// FP8 operands.
    const fn fp8(tokens: usize, k: usize, f: usize) -> Self {
        let stored = Stored::RowScales(Format::F8E4m3);
        Self { x: Operand::Fp8Rows, ..Self::new(tokens, k, f).stored(stored, stored) }
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

    fn tolerance(&self) -> Tolerance {
        if self.compute() == Compute::Fp8 { FP8_GATED_GEMM } else { Self::TOLERANCE }
    }

    fn compute(&self) -> Compute {
        self.x.compute()
    }

    fn sizes(&self) -> String {
        let Self { tokens, k, f, .. } = self;
        format!("[{tokens}, {k}] · 2 × [{f}, {k}]ᵀ")
    }

    fn flop(&self) -> Option<f64> {
        Some(gemm_flop(self.tokens, 2 * self.f, self.k))
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { tokens, k, f, gate, up, pieces, scale, x } = *self;
        let compute = x.compute();
        let x = inputs.operand(x, [1, tokens, k], scale)?;
        let gate = in_pieces(inputs.stored(gate, f, k), pieces).computed_in(compute);
        let up = in_pieces(inputs.stored(up, f, k), pieces).computed_in(compute);
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
        ("fp8-one-token", SwiGluCase::fp8(1, 256, 384)),
        ("fp8-33-tokens", SwiGluCase::fp8(33, 256, 272)),
        ("fp8-slice-width-3840", SwiGluCase::fp8(65, 3840, 160)),
        ("fp8-in-pieces", SwiGluCase { pieces: Some(3000), ..SwiGluCase::fp8(19, 128, 48) }),
        ("fp8-scale-1e4", SwiGluCase { scale: 1e4, ..SwiGluCase::fp8(64, 384, 256) }),
        ("fp8-600-tokens", SwiGluCase::fp8(600, 208, 528)),
        ("full-fp8", SwiGluCase::fp8(4224, 3840, 10_240)),
        ("full-q4_k", new(4224, 3840, 10_240).stored(q4_k, q4_k)),
    ]));
    use StreamSource::{Files, Memory};
    let streamed =
        |source, tokens, stored, hidden| StreamedSwiGlus { tokens, source, stored, hidden, x: Operand::Native };
    let fp8_rows = Stored::RowScales(Format::F8E4m3);
    let fp8 = |source| StreamedSwiGlus { x: Operand::Fp8Rows, ..streamed(source, 33, [fp8_rows; 2], 144) };
    cases.extend(named([
        ("streamed-bf16", streamed(Memory, 33, [bf16, bf16], 130)),
        ("streamed-q4_k-and-q6_k", streamed(Memory, 3, [q4_k, q6_k], 66)),
        ("streamed-from-files-bf16", streamed(Files, 9, [bf16, bf16], 130)),
        ("streamed-from-files-q4_k", streamed(Files, 3, [q4_k, q4_k], 66)),
        ("fp8-streamed", fp8(Memory)),
        ("fp8-streamed-from-files", fp8(Files)),
    ]));
    cases.extend(quantized_cases(|stored, k| new(33, k, 66).stored(stored, stored)));
    let matrices =
        |b: &B| expect_ready(b.upload_swiglu(&zeros(DType::F32, &[7, 5]).into(), &zeros(DType::F32, &[7, 5]).into()));
    let mut rejections = matrix_rejections(SwiGluCase::OP, matrices, |b: &B, w, x| b.swiglu(&x, w).map(drop));
    rejections.extend(upload_rejections());
    rejections.extend(fp8_rejections());
    Entry {
        op: Op { name: SwiGluCase::OP, features: &[Feature::Pieces, Feature::Fp8Matrix, Feature::BeyondF16] },
        cases,
        rejections,
    }
}

/// An activation for matrices in FP8, and a width that their output cannot have.
fn fp8_rejections<B: Backend + 'static>() -> [Rejection<B>; 2] {
    let pair = |b: &B, shape| expect_ready(b.upload_swiglu(&fp8_matrix(shape), &fp8_matrix(shape)));
    [
        fp8_rejection(SwiGluCase::OP, "activation-for-fp8-matrices", move |b: &B| {
            let w = pair(b, [16, 16])?;
            let x = b.upload(&zeros(b.activations(), &[1, 2, 16]))?;
            Ok(Box::new(move |b: &B| b.swiglu(&x, &w).map(drop)))
        }),
        fp8_rejection("upload_swiglu", "fp8-width", move |_| Ok(Box::new(move |b: &B| pair(b, [40, 16]).map(drop)))),
    ]
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
