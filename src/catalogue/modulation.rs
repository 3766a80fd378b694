//! `modulation`: the adaLN linears, with and without SiLU before them.

use super::{
    Backend, Call, DType, Entry, Feature, GEMM, Inputs, Op, OpCase, Rejection, Result, Stored, Tolerance, Zeros,
    expect_ready, named, quantized_cases, rejections_with, returns, zeros,
};

/// A timestep embedding `[items, adaln]` to `blocks · rows` rows of `width`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ModulationCase {
    pub items: usize,
    pub adaln: usize,
    /// Matrices, uploaded stacked.
    pub blocks: usize,
    /// Rows of each matrix.
    pub rows: usize,
    pub width: usize,
    pub stored: Stored,
    pub silu: bool,
    pub scale: f32,
}

impl ModulationCase {
    /// One block of Z-Image.
    pub(crate) const PLAIN: Self = Self {
        items: 1,
        adaln: 256,
        blocks: 1,
        rows: 1,
        width: 3840,
        stored: Stored::Plain(DType::Bf16),
        silu: false,
        scale: 1.0,
    };
}

impl OpCase for ModulationCase {
    const OP: &'static str = "modulation";
    const TOLERANCE: Tolerance = GEMM;

    fn sizes(&self) -> String {
        let Self { adaln, blocks, rows, width, .. } = self;
        format!("{adaln} → {blocks} × {rows} × {width}")
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { items, adaln, blocks, rows, width, stored, silu, scale } = *self;
        let t = inputs.activation(&[items, adaln], scale)?;
        let n = rows * width;
        let (matrices, biases): (Vec<_>, Vec<_>) =
            (0..blocks).map(|_| (inputs.stored(stored, n, adaln), inputs.bias(stored.bias(), n))).unzip();
        let w = expect_ready(inputs.b.upload_linear(&matrices, &biases))?;
        returns(move |b: &B| Ok([b.modulation(&t, &w, silu, width)?]))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    const PLAIN: ModulationCase = ModulationCase::PLAIN;
    const SILU: ModulationCase = ModulationCase { silu: true, ..PLAIN };
    let each = ModulationCase { items: 3, adaln: 60, width: 60, rows: 8, stored: DType::F32.into(), ..PLAIN };
    let odd = ModulationCase { items: 2, adaln: 61, width: 7, rows: 3, stored: DType::F16.into(), scale: 4.0, ..SILU };
    let mut cases = named([
        ("three-blocks-of-3840", ModulationCase { rows: 3, ..PLAIN }),
        ("final-3840-silu", SILU),
        ("time-for-each-item", each),
        ("silu-odd-widths", odd),
        ("silu-activations-1e4", ModulationCase { adaln: 64, width: 32, rows: 4, scale: 1e4, ..SILU }),
        ("full", ModulationCase { rows: 128, ..PLAIN }),
    ]);
    let quantized = ModulationCase { items: 2, width: 37, rows: 3, ..SILU };
    cases.extend(quantized_cases(|stored, adaln| ModulationCase { adaln, stored, blocks: 2, ..quantized }));
    let op = Op { name: ModulationCase::OP, features: &[Feature::Bias, Feature::Silu] };
    Entry { op, cases, rejections: table_rejections() }
}

fn table_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const OP: &str = ModulationCase::OP;
    const T: Zeros = Zeros::Activation(&[2, 8]);
    let matrix = |b: &B| expect_ready(b.upload_linear(&[zeros(DType::Bf16, &[12, 8]).into()], &[]));
    let with_width =
        |width| move |b: &B, w: &B::Linear, [t]: [B::Tensor; 1]| b.modulation(&t, w, true, width).map(drop);
    let mut all = rejections_with(
        OP,
        matrix,
        with_width(4),
        [
            ("rank-of-embedding", [Zeros::Activation(&[8])]),
            ("width-of-embedding", [Zeros::Activation(&[2, 7])]),
            ("type-of-embedding", [Zeros::U32(&[2, 8])]),
        ],
    );
    all.extend(rejections_with(OP, matrix, with_width(5), [("width-of-rows", [T])]));
    all.extend(rejections_with(OP, matrix, with_width(0), [("rows-without-width", [T])]));
    all
}
