//! `residual`: every kind of branch, added in place.

use super::{
    Backend, Call, DType, Entry, Feature, Inputs, NORM, Op, OpCase, Rejection, Result, Tolerance, Zeros, changes,
    named, rejections,
};
use crate::backend::{Branch, Modulation};

/// A residual stream `[batch, tokens, width]` and a branch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResidualCase {
    pub batch: usize,
    pub tokens: usize,
    pub width: usize,
    /// The branch is normed.
    pub norm: bool,
    /// Items of the modulation table; 0 for no gate and no scale.
    pub table: usize,
    /// The scale of the residual stream.
    pub scale: f32,
    /// The scale of the branch's output.
    pub branch: f32,
}

impl ResidualCase {
    pub(crate) const PLAIN: Self =
        Self { batch: 1, tokens: 33, width: 256, norm: false, table: 0, scale: 1.0, branch: 1.0 };
    /// The branch of an image transformer block.
    pub(crate) const GATED: Self = Self { norm: true, table: 1, ..Self::PLAIN };
    /// Added to every mean square.
    pub(super) const EPS: f32 = 1e-5;
    /// The row of the table with the gate.
    const GATE: usize = 1;

    /// Uploads the stream and the branch; a call reads `rows` rows of the modulation table.
    pub(super) fn stream<B: Backend>(&self, inputs: &mut Inputs<'_, B>, rows: usize) -> Result<Stream<B>> {
        let Self { batch, tokens, width, norm, table, scale, branch } = *self;
        let x = inputs.activation_in_place(&[batch, tokens, width], scale)?;
        let y = inputs.activation(&[batch, tokens, width], branch)?;
        let norm = norm.then(|| inputs.norm_weight(DType::Bf16, width)).transpose()?;
        let table = (table > 0).then(|| inputs.modulation([table, 4, width], rows, 1.5)).transpose()?;
        Ok(Stream { x, y, norm, table })
    }

    /// The cases that `residual` and `residual_norm` share.
    pub(super) fn cases() -> [(&'static str, Self); 14] {
        const PLAIN: ResidualCase = ResidualCase::PLAIN;
        const GATED: ResidualCase = ResidualCase::GATED;
        [
            ("plain", PLAIN),
            ("gated", GATED),
            ("one-token", Self { tokens: 1, ..GATED }),
            ("width-3840", Self { tokens: 17, width: 3840, batch: 2, ..GATED }),
            ("gated-by-item", Self { batch: 3, tokens: 5, table: 3, ..GATED }),
            ("normed-without-gate", Self { norm: true, ..PLAIN }),
            ("gated-without-norm", Self { table: 1, ..PLAIN }),
            ("257-tokens-odd-width", Self { tokens: 257, width: 61, ..GATED }),
            // The branch is as large as in Z-Image's deep blocks; the norm rescales it.
            ("branch-1e5", Self { branch: 1e5, ..GATED }),
            ("activations-1e4", Self { scale: 1e4, branch: 1e4, ..PLAIN }),
            ("activations-1e6", Self { scale: 1e6, branch: 1e6, ..GATED }),
            ("stream-1e4", Self { scale: 1e4, ..GATED }),
            // The branch's mean square is as small as eps.
            ("eps-decides", Self { branch: 5e-3, ..GATED }),
            ("full", Self { batch: 2, tokens: 4224, width: 3840, ..GATED }),
        ]
    }
}

/// The tensors of a [`ResidualCase`].
pub(super) struct Stream<B: Backend> {
    pub x: B::Tensor,
    y: B::Tensor,
    norm: Option<B::Tensor>,
    table: Option<B::Tensor>,
}

impl<B: Backend> Stream<B> {
    pub(super) fn branch(&self) -> Branch<'_, B::Tensor> {
        Branch { y: &self.y, norm: self.norm.as_ref(), gate: self.row(ResidualCase::GATE), eps: ResidualCase::EPS }
    }

    /// A row of the modulation table, or `None` without a table.
    pub(super) fn row(&self, row: usize) -> Option<Modulation<'_, B::Tensor>> {
        self.table.as_ref().map(|table| Modulation { table, row })
    }
}

impl OpCase for ResidualCase {
    const OP: &'static str = "residual";
    const TOLERANCE: Tolerance = NORM;

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let stream = self.stream(inputs, 1)?;
        changes(move |b: &B| {
            let mut x = stream.x.clone();
            b.residual(&mut x, stream.branch())?;
            Ok([x])
        })
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    let features = &[Feature::Eps, Feature::ModulationRow, Feature::Branch, Feature::Accumulates, Feature::BeyondF16];
    let rejections = branch_rejections(ResidualCase::OP, |b: &B, x, branch| b.residual(x, branch));
    Entry { op: Op { name: ResidualCase::OP, features }, cases: named(ResidualCase::cases()), rejections }
}

/// The rejections of an op that adds a branch to the residual stream `[1, 1, 4]`.
pub(super) fn branch_rejections<B: Backend + 'static>(
    op: &'static str,
    call: impl Fn(&B, &mut B::Tensor, Branch<'_, B::Tensor>) -> Result<()> + Copy + 'static,
) -> Vec<Rejection<B>> {
    const X: Zeros = Zeros::Activation(&[1, 1, 4]);
    const NORM: Zeros = Zeros::F32(&[4]);
    const TABLE: Zeros = Zeros::Activation(&[1, 1, 4]);
    let with_row = |row| {
        move |b: &B, [mut x, y, norm, table]: [B::Tensor; 4]| {
            let gate = Some(Modulation { table: &table, row });
            call(b, &mut x, Branch { y: &y, norm: Some(&norm), gate, eps: ResidualCase::EPS })
        }
    };
    let mut all = rejections(
        op,
        with_row(0),
        [
            ("rank-of-x", [Zeros::Activation(&[1, 4]), X, NORM, TABLE]),
            ("type-of-x", [Zeros::U32(&[1, 1, 4]), X, NORM, TABLE]),
            ("size-of-branch", [X, Zeros::Activation(&[1, 1, 5]), NORM, TABLE]),
            ("type-of-branch", [X, Zeros::U32(&[1, 1, 4]), NORM, TABLE]),
            ("size-of-norm", [X, X, Zeros::F32(&[5]), TABLE]),
            ("type-of-norm", [X, X, Zeros::U32(&[4]), TABLE]),
            ("width-of-gate", [X, X, NORM, Zeros::Activation(&[1, 1, 5])]),
            ("type-of-gate", [X, X, NORM, Zeros::U32(&[1, 1, 4])]),
            ("branch-in-place", [X, Zeros::Alias(&[1, 1, 4]), NORM, TABLE]),
            ("norm-in-place", [X, X, Zeros::Alias(&[4]), TABLE]),
            ("gate-in-place", [X, X, NORM, Zeros::Alias(&[1, 1, 4])]),
        ],
    );
    all.extend(rejections(op, with_row(1), [("row-of-gate", [X, X, NORM, TABLE])]));
    all
}
