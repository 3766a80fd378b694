//! `linear`: the widths of Z-Image, sizes that no tile divides, stacked parts, biases, large
//! activations.

use super::streamed::StreamedLinears;
use super::{
    Backend, Call, Compute, DType, Entry, FP8_GATED_GEMM, FP8_GEMM, Feature, GEMM, Inputs, Op, OpCase, Operand,
    Rejection, Result, Stored, Tolerance, Zeros, expect_ready, fp8_matrix, fp8_projection_zeros, fp8_rejection,
    fp8_zeros, in_pieces, named, quantized_cases, quantized_zeros, rejections_with, returns, upload_rejection, zeros,
};
use crate::backend::{DeviceTensor, Heads};
use crate::tensor::{Format, HostTensor, StreamSource, Weight};

/// The floating-point operations of `[m, k]` times `[k, n]`.
pub(crate) fn gemm_flop(m: usize, n: usize, k: usize) -> f64 {
    2.0 * m as f64 * n as f64 * k as f64
}

/// `x` `[1, tokens, k]` times one matrix `[n, k]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinearCase {
    pub tokens: usize,
    pub k: usize,
    pub n: usize,
    pub stored: Stored,
    pub bias: bool,
    pub scale: f32,
    /// `x` is `[tokens, k]`.
    pub flat: bool,
    pub x: Operand,
}

impl LinearCase {
    pub(crate) const PLAIN: Self = Self {
        tokens: 33,
        k: 256,
        n: 128,
        stored: Stored::Plain(DType::Bf16),
        bias: false,
        scale: 1.0,
        flat: false,
        x: Operand::Native,
    };

    /// FP8 operands.
    const fn fp8(x: Operand, tokens: usize, k: usize, n: usize) -> Self {
        Self { tokens, k, n, stored: Stored::RowScales(Format::F8E4m3), x, ..Self::PLAIN }
    }
}

impl OpCase for LinearCase {
    const OP: &'static str = "linear";
    const TOLERANCE: Tolerance = GEMM;

    fn tolerance(&self) -> Tolerance {
        match self.x {
            Operand::Native => Self::TOLERANCE,
            Operand::Fp8Rows => FP8_GEMM,
            Operand::Fp8Blocks | Operand::Fp8UnevenBlocks => FP8_GATED_GEMM,
        }
    }

    fn compute(&self) -> Compute {
        self.x.compute()
    }

    fn sizes(&self) -> String {
        let Self { tokens, k, n, .. } = self;
        format!("[{tokens}, {k}] · [{n}, {k}]ᵀ")
    }

    fn flop(&self) -> Option<f64> {
        Some(gemm_flop(self.tokens, self.n, self.k))
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { tokens, k, n, stored, bias, scale, flat, x } = *self;
        let shape = [1, tokens, k];
        let compute = x.compute();
        let x = inputs.operand(x, shape, scale)?;
        let x = if flat { x.reshaped(&shape[1..])? } else { x };
        let w = inputs.linear_computed_in(compute, stored, [n, k], bias)?;
        returns(move |b: &B| Ok([b.linear(&x, &w)?]))
    }
}

/// Stacked parts such as q, k and v: of unequal height, whole or in pieces, with and without
/// biases.
#[derive(Debug, Clone, Copy)]
struct StackedCase {
    width: usize,
    q: Stored,
    k: Stored,
    v: Stored,
    /// The bytes per piece of a part.
    pieces: Option<u64>,
    /// The scale of v relative to q and k.
    scale_of_v: f32,
}

impl StackedCase {
    const fn of(stored: Stored, width: usize, pieces: u64) -> Self {
        // A backend that derives its f16 scale from the first piece overflows.
        Self { width, q: stored, k: stored, v: stored, pieces: Some(pieces), scale_of_v: 8.0 }
    }
}

impl OpCase for StackedCase {
    const OP: &'static str = LinearCase::OP;
    const TOLERANCE: Tolerance = GEMM;

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { width, q, k, v, pieces, scale_of_v } = *self;
        let x = inputs.activation(&[2, 9, width], 1.0)?;
        let parts = [(128, q, 1.0), (32, k, 1.0), (33, v, scale_of_v)];
        let matrices = parts.map(|(n, stored, scale)| {
            in_pieces(inputs.stored_within(stored, n, width, scale * (3.0 / width as f32).sqrt()), pieces)
        });
        let biases = parts.map(|(n, stored, _)| inputs.bias(stored.bias(), n));
        let with = expect_ready(inputs.b.upload_linear(&matrices, &biases))?;
        let without = expect_ready(inputs.b.upload_linear(&matrices, &[]))?;
        returns(move |b: &B| Ok([b.linear(&x, &with)?, b.linear(&x, &without)?]))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    let [bf16, f16, f32] = [DType::Bf16, DType::F16, DType::F32].map(Stored::Plain);
    const PLAIN: LinearCase = LinearCase::PLAIN;
    const ODD: LinearCase = LinearCase { tokens: 19, k: 61, n: 37, bias: true, ..PLAIN };
    let mixed = StackedCase { width: 160, q: bf16, k: f16, v: f32, pieces: None, scale_of_v: 1.0 };
    let mut cases = named([
        ("one-token", LinearCase { tokens: 1, n: 768, ..PLAIN }),
        ("33-tokens", LinearCase { n: 257, bias: true, ..PLAIN }),
        ("257-tokens", LinearCase { tokens: 257, k: 128, n: 130, stored: f16, bias: true, ..PLAIN }),
        ("qkv-slice-width-3840", LinearCase { tokens: 65, k: 3840, n: 384, ..PLAIN }),
        ("down-slice-width-10240", LinearCase { k: 10_240, n: 96, ..PLAIN }),
        ("caption-2560", LinearCase { tokens: 32, k: 2560, n: 240, stored: f32, bias: true, ..PLAIN }),
        ("one-output", LinearCase { tokens: 7, k: 96, n: 1, stored: f32, bias: true, ..PLAIN }),
        ("odd-widths", ODD),
        ("odd-widths-f16", LinearCase { k: 63, n: 35, stored: f16, bias: false, ..ODD }),
        ("narrower-than-a-tile", LinearCase { tokens: 5, k: 3, n: 5, stored: f32, bias: true, ..PLAIN }),
        ("bf16-activations-1e4", LinearCase { tokens: 64, k: 384, n: 256, bias: true, scale: 1e4, ..PLAIN }),
        ("f16-activations-1e5", LinearCase { stored: f16, bias: true, scale: 1e5, ..PLAIN }),
        ("f32-activations-1e9", LinearCase { tokens: 17, stored: f32, bias: true, scale: 1e9, ..PLAIN }),
        ("small-activations", LinearCase { scale: 1e-6, ..PLAIN }),
        // Tiles are computed in pairs, and some pairs have only one tile.
        ("400-tokens", LinearCase { tokens: 400, k: 200, n: 264, bias: true, ..PLAIN }),
        ("600-tokens", LinearCase { tokens: 600, k: 200, n: 520, ..PLAIN }),
        ("full-qkv", LinearCase { tokens: 4224, k: 3840, n: 11_520, ..PLAIN }),
        ("full-down", LinearCase { tokens: 4224, k: 10_240, n: 3840, scale: 1e4, ..PLAIN }),
        ("rank-2-input", LinearCase { tokens: 3, k: 64, n: 64, bias: true, scale: 100.0, flat: true, ..PLAIN }),
    ]);
    cases.extend(named([
        ("stacked-gqa", mixed),
        ("stacked-gqa-in-pieces", StackedCase { pieces: Some(5000), ..mixed }),
        ("stacked-bf16-in-pieces", StackedCase::of(bf16, 61, 1000)),
        ("stacked-f16-in-pieces", StackedCase::of(f16, 63, 1)),
        ("stacked-f32-in-pieces", StackedCase::of(f32, 160, 5000)),
    ]));
    let [q4_k, q6_k, q8_0] = [Format::Q4K, Format::Q6K, Format::Q8_0].map(Stored::Blocks);
    let quantized = StackedCase { width: 512, q: q4_k, k: q6_k, v: q8_0, pieces: None, scale_of_v: 8.0 };
    cases.extend(named([
        ("stacked-quantized", quantized),
        ("stacked-quantized-in-pieces", StackedCase { pieces: Some(5000), ..quantized }),
        ("stacked-quantized-and-f16", StackedCase { k: f16, ..quantized }),
    ]));
    cases.extend(named([
        ("one-token-q4_k", LinearCase { tokens: 1, k: 768, n: 37, stored: q4_k, ..PLAIN }),
        ("200-tokens-q4_k", LinearCase { tokens: 200, k: 512, n: 264, stored: q4_k, bias: true, ..PLAIN }),
        // A gemm that dequantises its matrix may split k, here with a last step that is not whole.
        ("wide-q4_k", LinearCase { tokens: 40, k: 2048, n: 130, stored: q4_k, ..PLAIN }),
        ("wide-q8_0", LinearCase { tokens: 140, k: 2080, n: 131, stored: q8_0, bias: true, ..PLAIN }),
        ("f32-activations-1e9-q8_0", LinearCase { tokens: 17, k: 96, stored: q8_0, scale: 1e9, ..PLAIN }),
        ("full-down-q4_k", LinearCase { tokens: 4224, k: 10_240, n: 3840, stored: q4_k, scale: 1e4, ..PLAIN }),
    ]));
    let rows = [130, 37, 264, 16, 256, 256, 128, 64, 200];
    let fp8_rows = Stored::RowScales(Format::F8E4m3);
    let streamed =
        StreamedLinears { tokens: 19, source: StreamSource::Memory, stored: bf16, k: 256, rows, x: Operand::Native };
    let from_files = StreamedLinears { source: StreamSource::Files, ..streamed };
    cases.extend(named([
        ("streamed-bf16", StreamedLinears { tokens: 33, stored: bf16, ..streamed }),
        ("streamed-f32-one-token", StreamedLinears { tokens: 1, stored: f32, ..streamed }),
        ("streamed-q4_k", StreamedLinears { tokens: 33, stored: q4_k, ..streamed }),
        ("streamed-nvfp4", StreamedLinears { stored: Stored::Nvfp4, ..streamed }),
        ("streamed-from-files-bf16", StreamedLinears { tokens: 33, stored: bf16, ..from_files }),
        ("streamed-from-files-f32", StreamedLinears { stored: f32, ..from_files }),
        ("streamed-from-files-q8_0", StreamedLinears { tokens: 1, stored: q8_0, ..from_files }),
        ("streamed-from-files-nvfp4", StreamedLinears { stored: Stored::Nvfp4, ..from_files }),
        ("fp8-streamed", StreamedLinears { tokens: 33, stored: fp8_rows, x: Fp8Rows, ..streamed }),
        ("fp8-streamed-from-files", StreamedLinears { stored: fp8_rows, x: Fp8Rows, ..from_files }),
        // Rows with padding.
        ("streamed-from-files-odd-bf16", StreamedLinears { stored: bf16, k: 33, ..from_files }),
        ("streamed-from-files-odd-f32", StreamedLinears { stored: f32, k: 47, ..from_files }),
        ("streamed-from-files-odd-fp8", StreamedLinears { stored: fp8_rows, k: 33, ..from_files }),
    ]));
    let fp8 = LinearCase::fp8;
    use Operand::{Fp8Blocks, Fp8Rows, Fp8UnevenBlocks};
    cases.extend(named([
        ("fp8-one-token", fp8(Fp8Rows, 1, 256, 128)),
        ("fp8-33-tokens", LinearCase { bias: true, ..fp8(Fp8Rows, 33, 256, 264) }),
        ("fp8-width-16", fp8(Fp8Rows, 19, 16, 40)),
        ("fp8-width-3840", fp8(Fp8Rows, 65, 3840, 384)),
        ("fp8-scale-1e5", LinearCase { scale: 1e5, ..fp8(Fp8Rows, 64, 384, 256) }),
        ("fp8-tensor-scale", LinearCase { stored: Stored::TensorScale(Format::F8E4m3), ..fp8(Fp8Rows, 33, 256, 128) }),
        ("fp8-without-scales", LinearCase { stored: Stored::Blocks(Format::F8E4m3), ..fp8(Fp8Rows, 33, 256, 128) }),
        ("fp8-400-tokens", fp8(Fp8Rows, 400, 208, 264)),
        ("fp8-blocks-one-token", fp8(Fp8Blocks, 1, 256, 128)),
        ("fp8-blocks-33-tokens", LinearCase { bias: true, ..fp8(Fp8Blocks, 33, 384, 264) }),
        ("fp8-blocks-width-10240", fp8(Fp8Blocks, 33, 10_240, 96)),
        ("fp8-blocks-with-a-narrow-one", fp8(Fp8Blocks, 130, 400, 200)),
        ("fp8-uneven-blocks-33-tokens", LinearCase { bias: true, ..fp8(Fp8UnevenBlocks, 33, 656, 264) }),
        ("fp8-uneven-blocks-600-tokens", fp8(Fp8UnevenBlocks, 600, 1024, 520)),
        ("fp8-blocks-600-tokens", fp8(Fp8Blocks, 600, 256, 520)),
        ("full-fp8-qkv", fp8(Fp8Rows, 4224, 3840, 11_520)),
        ("full-fp8-down", fp8(Fp8Blocks, 4224, 10_240, 3840)),
    ]));
    cases.extend(quantized_cases(|stored, k| LinearCase { k, n: 130, stored, bias: true, ..PLAIN }));
    let features = &[Feature::Bias, Feature::Pieces, Feature::Fp8Matrix, Feature::BeyondF16];
    let mut rejections = matrix_rejections(LinearCase::OP, matrix, |b: &B, w, x| b.linear(&x, w).map(drop));
    rejections.extend(upload_rejections());
    rejections.extend(fp8_rejections());
    Entry { op: Op { name: LinearCase::OP, features }, cases, rejections }
}

/// A matrix `[7, 5]`.
fn matrix<B: Backend>(b: &B) -> Result<B::Linear> {
    expect_ready(b.upload_linear(&[zeros(DType::F32, &[7, 5]).into()], &[]))
}

/// The rejections of an op that multiplies `x` by a matrix `[7, 5]`.
pub(super) fn matrix_rejections<B: Backend + 'static, W: 'static>(
    op: &'static str,
    matrix: impl Fn(&B) -> Result<W> + Copy + 'static,
    call: impl Fn(&B, &W, B::Tensor) -> Result<()> + Copy + 'static,
) -> Vec<Rejection<B>> {
    rejections_with(
        op,
        matrix,
        move |b, w, [x]: [B::Tensor; 1]| call(b, w, x),
        [
            ("rank-of-x", [Zeros::Activation(&[])]),
            ("width-of-x", [Zeros::Activation(&[2, 3, 4])]),
            ("type-of-x", [Zeros::U32(&[2, 3, 5])]),
        ],
    )
}

/// Operands of two types, and matrices that are no operands of FP8 gemms.
fn fp8_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const OP: &str = LinearCase::OP;
    let upload = |name, parts: fn() -> Vec<Weight<'static>>| {
        fp8_rejection("upload_linear", name, move |_: &B| {
            Ok(Box::new(move |b: &B| expect_ready(b.upload_linear(&parts(), &[])).map(drop)))
        })
    };
    vec![
        fp8_rejection(OP, "activation-for-fp8-matrix", |b: &B| {
            let w = expect_ready(b.upload_linear(&[fp8_matrix([7, 16])], &[]))?;
            let x = b.upload(&zeros(b.activations(), &[1, 2, 16]))?;
            Ok(Box::new(move |b: &B| b.linear(&x, &w).map(drop)))
        }),
        fp8_rejection(OP, "fp8-for-native-matrix", |b: &B| {
            let w = expect_ready(b.upload_linear(&[quantized_zeros(Format::F8E4m3, [7, 16])], &[]))?;
            let x = fp8_zeros(b, [1, 2, 16])?;
            Ok(Box::new(move |b: &B| b.linear(&x, &w).map(drop)))
        }),
        fp8_rejection(OP, "fp8-projection", |b: &B| {
            let w = expect_ready(b.upload_linear(&[fp8_matrix([7, 384])], &[]))?;
            let x = fp8_projection_zeros(b, Heads { query: 1, key_value: 1, dim: 128 })?;
            Ok(Box::new(move |b: &B| b.linear(&x, &w).map(drop)))
        }),
        upload("operands-of-two-types", || vec![fp8_matrix([7, 16]), quantized_zeros(Format::F8E4m3, [7, 16])]),
        upload("fp8-width", || vec![fp8_matrix([7, 40])]),
        upload("fp8-format", || vec![quantized_zeros(Format::Q8_0, [7, 32]).computed_in(Compute::Fp8)]),
    ]
}

fn upload_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const OP: &str = "upload_linear";
    type Parts = &'static [(DType, &'static [usize])];
    let upload_parts = |name, parts: Parts, biases: Parts| {
        upload_rejection(OP, name, move |b: &B| {
            let host = |parts: Parts| parts.iter().map(|&(dtype, shape)| zeros(dtype, shape)).collect();
            let matrices: Vec<HostTensor> = host(parts);
            let matrices: Vec<Weight<'_>> = matrices.iter().map(Weight::from).collect();
            let biases: Vec<HostTensor> = host(biases);
            expect_ready(b.upload_linear(&matrices, &biases)).map(drop)
        })
    };
    const MATRIX: (DType, &[usize]) = (DType::Bf16, &[3, 5]);
    vec![
        upload_parts("nothing", &[], &[]),
        upload_parts("empty", &[(DType::Bf16, &[0, 5])], &[]),
        upload_parts("rank", &[(DType::Bf16, &[3])], &[]),
        upload_parts("type", &[(DType::U32, &[3, 5])], &[]),
        upload_parts("widths", &[MATRIX, (DType::Bf16, &[2, 4])], &[]),
        upload_parts("type-of-second-part", &[MATRIX, (DType::U8, &[2, 5])], &[]),
        upload_parts("count-of-biases", &[MATRIX, MATRIX], &[(DType::Bf16, &[3])]),
        upload_parts("size-of-bias", &[MATRIX], &[(DType::Bf16, &[2])]),
        upload_parts("type-of-bias", &[MATRIX], &[(DType::U32, &[3])]),
    ]
}
