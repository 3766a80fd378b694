//! `project_qkv`: projections that tiles cut between heads and inside heads, with the norms and
//! rotations of `qk_norm_rope`.

use super::linear::gemm_flop;
use super::qk_norm_rope::{QkNormRopeCase, SMALL, SMALL_NORM, SMALL_ROTATION};
use super::rejection::Attempt;
use super::{
    Backend, Call, Compute, DType, Entry, FP8_GEMM, FP8_PROJECTION, Feature, Inputs, NORMED_GEMM, Op, OpCase, Operand,
    Rejection, Result, Stored, Tolerance, Zeros, expect_ready, fp8_matrix, fp8_projection_zeros, fp8_rejection, named,
    quantized_cases, rejections_with, returns, zeros,
};
use crate::backend::{Heads, QkNormRope, RopePairs};
use crate::tensor::Format;

/// The projection of `x` `[batch, tokens, width]` to heads. `heads.scale` is the scale of `x`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProjectQkvCase {
    pub width: usize,
    pub heads: QkNormRopeCase,
    pub bias: bool,
    pub stored: Stored,
    /// [`Operand::Native`] or [`Operand::Fp8Rows`].
    pub x: Operand,
    /// The type of the result.
    pub output: Compute,
}

impl OpCase for ProjectQkvCase {
    const OP: &'static str = "project_qkv";
    const TOLERANCE: Tolerance = NORMED_GEMM;

    fn tolerance(&self) -> Tolerance {
        match (self.output, self.x.compute()) {
            (Compute::Fp8, _) => FP8_PROJECTION,
            (Compute::Native, Compute::Fp8) => FP8_GEMM,
            (Compute::Native, Compute::Native) => Self::TOLERANCE,
        }
    }

    fn compute(&self) -> Compute {
        if self.output == Compute::Fp8 { Compute::Fp8 } else { self.x.compute() }
    }

    fn sizes(&self) -> String {
        let Self { width, heads: QkNormRopeCase { tokens, heads, .. }, .. } = self;
        let n = heads.fused_width();
        let fp8 = if self.output == Compute::Fp8 { ", to FP8" } else { "" };
        format!("[{tokens}, {width}] · [{n}, {width}]ᵀ, heads of {} normed and rotated{fp8}", heads.dim)
    }

    fn flop(&self) -> Option<f64> {
        let QkNormRopeCase { batch, tokens, heads, .. } = self.heads;
        Some(gemm_flop(batch * tokens, heads.fused_width(), self.width))
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { width, heads: case, bias, stored, x, output } = *self;
        let heads = case.heads;
        let compute = x.compute();
        let x = inputs.operand(x, [case.batch, case.tokens, width], case.scale)?;
        let w = inputs.linear_computed_in(compute, stored, [heads.fused_width(), width], bias)?;
        let norm_rope = case.norm_rope(inputs)?;
        returns(move |b: &B| Ok([b.project_qkv(&x, &w, heads, norm_rope.args(), output)?]))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    let case = |batch, tokens, [query, key_value, dim]: [usize; 3]| {
        let heads = QkNormRopeCase { batch, tokens, heads: Heads { query, key_value, dim }, ..QkNormRopeCase::PLAIN };
        let stored = Stored::Plain(DType::Bf16);
        ProjectQkvCase { width: 64, heads, bias: false, stored, x: Operand::Native, output: Compute::Native }
    };
    let fp8 = |case: ProjectQkvCase| {
        let stored = Stored::RowScales(Format::F8E4m3);
        ProjectQkvCase { stored, x: Operand::Fp8Rows, ..case }
    };
    // Keys have another scale than queries.
    let fp8_qkv = |case: ProjectQkvCase| {
        let heads = QkNormRopeCase { norms: [1.0, 3.0], ..case.heads };
        ProjectQkvCase { heads, output: Compute::Fp8, ..case }
    };
    let uneven = |case: ProjectQkvCase| ProjectQkvCase { stored: Stored::UnevenRowScales(Format::F8E4m3), ..case };
    let halves = |case: ProjectQkvCase| {
        let heads = QkNormRopeCase { pairs: RopePairs::Halves, ..case.heads };
        ProjectQkvCase { heads, ..case }
    };
    let by_item = |case: ProjectQkvCase| {
        let heads = QkNormRopeCase { rotations: case.heads.batch, ..case.heads };
        ProjectQkvCase { heads, ..case }
    };
    let scaled = |scale| {
        let case = case(1, 200, [3, 3, 128]);
        ProjectQkvCase { heads: QkNormRopeCase { scale, ..case.heads }, ..case }
    };
    let mut cases = named([
        ("one-token", case(1, 1, [3, 3, 128])),
        ("transformer-30-heads", case(1, 33, [30, 30, 128])),
        ("qwen-32-8-heads", halves(case(1, 33, [32, 8, 128]))),
        // More rows than one tile.
        ("257-tokens-by-item", by_item(case(2, 257, [3, 3, 128]))),
        // Queries, keys and values share one tile, or one pair of tiles that is partly empty.
        ("batch-of-one-rotation", case(3, 129, [4, 2, 128])),
        ("two-heads", case(1, 200, [2, 2, 128])),
        ("one-head", ProjectQkvCase { width: 96, ..case(1, 193, [1, 1, 128]) }),
        ("two-queries-a-key", ProjectQkvCase { width: 200, ..case(1, 400, [2, 1, 128]) }),
        ("odd-width", ProjectQkvCase { width: 61, ..case(1, 200, [2, 2, 128]) }),
        ("bias", ProjectQkvCase { bias: true, ..case(1, 200, [3, 3, 128]) }),
        ("halves-200", halves(case(1, 200, [3, 3, 128]))),
        ("head-of-96", case(1, 200, [2, 1, 96])),
        ("activations-1e6", scaled(1e6)),
        ("eps-decides", scaled(5e-3)),
        ("full", ProjectQkvCase { width: 3840, ..by_item(case(2, 4224, [30, 30, 128])) }),
        ("full-refiner", ProjectQkvCase { width: 3840, ..case(1, 4096, [30, 30, 128]) }),
    ]);
    let q4_k = Stored::Blocks(Format::Q4K);
    let full = ProjectQkvCase { width: 3840, stored: q4_k, ..case(1, 4224, [30, 30, 128]) };
    cases.extend(named([
        ("200-tokens-q4_k", ProjectQkvCase { width: 512, stored: q4_k, ..case(1, 200, [3, 3, 128]) }),
        ("full-q4_k", full),
    ]));
    cases.extend(named([
        ("fp8-one-token", fp8(case(1, 1, [3, 3, 128]))),
        ("fp8-257-tokens-by-item", fp8(by_item(case(2, 257, [3, 3, 128])))),
        ("fp8-two-queries-a-key", fp8(ProjectQkvCase { width: 208, ..case(1, 400, [2, 1, 128]) })),
        ("fp8-qwen-32-8-heads", fp8(halves(case(1, 33, [32, 8, 128])))),
        ("fp8-bias", fp8(ProjectQkvCase { bias: true, ..case(1, 200, [3, 3, 128]) })),
        ("full-fp8", fp8(ProjectQkvCase { width: 3840, ..by_item(case(2, 4224, [30, 30, 128])) })),
    ]));
    cases.extend(named([
        ("fp8-qkv-one-token", fp8_qkv(fp8(case(1, 1, [3, 3, 128])))),
        ("fp8-qkv-257-tokens-by-item", fp8_qkv(fp8(by_item(case(2, 257, [3, 3, 128]))))),
        ("fp8-qkv-batch-of-one-rotation", fp8_qkv(fp8(case(3, 129, [4, 2, 128])))),
        ("fp8-qkv-one-head", fp8_qkv(fp8(ProjectQkvCase { width: 96, ..case(1, 193, [1, 1, 128]) }))),
        ("fp8-qkv-two-queries-a-key", fp8_qkv(fp8(ProjectQkvCase { width: 208, ..case(1, 400, [2, 1, 128]) }))),
        ("fp8-qkv-bias", fp8_qkv(fp8(ProjectQkvCase { bias: true, ..case(1, 200, [3, 3, 128]) }))),
        // Heads of values differ by 2¹² in magnitude, and one has zeros.
        ("fp8-qkv-uneven-heads", uneven(fp8_qkv(fp8(case(2, 200, [3, 3, 128]))))),
        ("fp8-qkv-uneven-heads-one-token", uneven(fp8_qkv(fp8(case(1, 1, [3, 3, 128]))))),
        // The last block of an item is short, and the next item begins a block.
        ("fp8-qkv-items-of-65", fp8_qkv(fp8(case(4, 65, [3, 3, 128])))),
        ("fp8-qkv-halves", fp8_qkv(fp8(halves(case(1, 200, [3, 3, 128]))))),
        // The gemm has the backend's own operands.
        ("fp8-qkv-native-one-token", fp8_qkv(case(1, 1, [3, 3, 128]))),
        ("fp8-qkv-native-odd-width", fp8_qkv(ProjectQkvCase { width: 61, ..case(1, 200, [2, 2, 128]) })),
        ("fp8-qkv-native-257-tokens", fp8_qkv(by_item(case(2, 257, [3, 3, 128])))),
        ("fp8-qkv-native-activations-1e6", fp8_qkv(scaled(1e6))),
        ("full-fp8-qkv", fp8_qkv(fp8(ProjectQkvCase { width: 3840, ..by_item(case(2, 4224, [30, 30, 128])) }))),
        ("full-fp8-qkv-native", fp8_qkv(ProjectQkvCase { width: 3840, ..case(1, 4096, [30, 30, 128]) })),
    ]));
    cases.extend(quantized_cases(|stored, width| ProjectQkvCase { width, stored, ..case(1, 33, [2, 1, 128]) }));
    let features = &[Feature::Bias, Feature::Eps, Feature::QkNormRope, Feature::Fp8Matrix, Feature::BeyondF16];
    Entry { op: Op { name: ProjectQkvCase::OP, features }, cases, rejections: projection_rejections() }
}

fn projection_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const OP: &str = ProjectQkvCase::OP;
    const X: Zeros = Zeros::Activation(&[2, 3, 5]);
    let matrix = |b: &B| expect_ready(b.upload_linear(&[zeros(DType::Bf16, &[16, 5]).into()], &[]));
    let with_heads = |heads| {
        move |b: &B, w: &B::Linear, [x, q_norm, k_norm, rotation]: [B::Tensor; 4]| {
            let pairs = RopePairs::Interleaved;
            let args = QkNormRope { q_norm: &q_norm, k_norm: &k_norm, eps: 1e-5, rotation: &rotation, pairs };
            b.project_qkv(&x, w, heads, args, Compute::Native).map(drop)
        }
    };
    let mut all = rejections_with(
        OP,
        matrix,
        with_heads(SMALL),
        [
            ("rank-of-x", [Zeros::Activation(&[6, 5]), SMALL_NORM, SMALL_NORM, SMALL_ROTATION]),
            ("width-of-x", [Zeros::Activation(&[2, 3, 4]), SMALL_NORM, SMALL_NORM, SMALL_ROTATION]),
            ("type-of-x", [Zeros::U32(&[2, 3, 5]), SMALL_NORM, SMALL_NORM, SMALL_ROTATION]),
            ("size-of-query-norm", [X, Zeros::F32(&[5]), SMALL_NORM, SMALL_ROTATION]),
            ("type-of-key-norm", [X, SMALL_NORM, Zeros::U32(&[4]), SMALL_ROTATION]),
            ("tokens-of-rotation", [X, SMALL_NORM, SMALL_NORM, Zeros::F32(&[1, 4, 2, 2])]),
            ("type-of-rotation", [X, SMALL_NORM, SMALL_NORM, Zeros::U32(&[1, 3, 2, 2])]),
        ],
    );
    let more = Heads { query: 4, key_value: 1, dim: 4 };
    let tensors = [X, SMALL_NORM, SMALL_NORM, SMALL_ROTATION];
    all.extend(rejections_with(OP, matrix, with_heads(more), [("heads", tensors)]));
    all.extend(fp8_rejections());
    all
}

/// Heads that are not written in FP8, and an input that is no operand.
fn fp8_rejections<B: Backend + 'static>() -> [Rejection<B>; 2] {
    let call = |b: &B, x: B::Tensor, w: B::Linear, dim: usize, output| {
        let norm = b.upload(&zeros(DType::F32, &[dim]))?;
        let rotation = b.upload(&zeros(DType::F32, &[1, 2, dim / 2, 2]))?;
        Ok(Box::new(move |b: &B| {
            let pairs = RopePairs::Interleaved;
            let how = QkNormRope { q_norm: &norm, k_norm: &norm, eps: 1e-5, rotation: &rotation, pairs };
            b.project_qkv(&x, &w, Heads { query: 1, key_value: 1, dim }, how, output).map(drop)
        }) as Attempt<B>)
    };
    [
        fp8_rejection(ProjectQkvCase::OP, "fp8-heads-of-64", move |b: &B| {
            let w = expect_ready(b.upload_linear(&[zeros(DType::Bf16, &[192, 16]).into()], &[]))?;
            call(b, b.upload(&zeros(b.activations(), &[1, 2, 16]))?, w, 64, Compute::Fp8)
        }),
        fp8_rejection(ProjectQkvCase::OP, "fp8-projection", move |b: &B| {
            let w = expect_ready(b.upload_linear(&[fp8_matrix([384, 384])], &[]))?;
            let x = fp8_projection_zeros(b, Heads { query: 1, key_value: 1, dim: 128 })?;
            call(b, x, w, 128, Compute::Native)
        }),
    ]
}
