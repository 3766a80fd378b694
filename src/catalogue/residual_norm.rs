//! `residual_norm`: every kind of branch, with the norm of the new stream.

use super::residual::{ResidualCase, branch_rejections};
use super::{
    Backend, Call, Compute, DType, Entry, FP8_NORM, Feature, Inputs, NORM, Op, OpCase, Rejection, Result, Tolerance,
    Written, Zeros, named, rejections,
};
use crate::backend::{Branch, Modulation, RmsNorm};

/// A residual addition and the norm of the sum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResidualNormCase {
    pub residual: ResidualCase,
    /// The stored type of the norm's weight.
    pub weight: DType,
    /// The type of the norm's result.
    pub output: Compute,
}

/// The row of the modulation table with the scale of the norm.
const SCALE: usize = 2;

impl OpCase for ResidualNormCase {
    const OP: &'static str = "residual_norm";
    const TOLERANCE: Tolerance = NORM;

    fn tolerance(&self) -> Tolerance {
        if self.output == Compute::Fp8 { FP8_NORM } else { Self::TOLERANCE }
    }

    fn compute(&self) -> Compute {
        self.output
    }

    fn sizes(&self) -> String {
        let ResidualCase { tokens, width, table, .. } = self.residual;
        format!("[{tokens}, {width}]{}", if table > 0 { ", modulated" } else { "" })
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let output = self.output;
        let stream = self.residual.stream(inputs, 2)?;
        let weight = inputs.norm_weight(self.weight, self.residual.width)?;
        Ok(Box::new(move |b: &B| {
            let norm = RmsNorm { weight: &weight, scale: stream.row(SCALE), eps: ResidualCase::EPS, output };
            let mut x = stream.x.clone();
            let h = b.residual_norm(&mut x, stream.branch(), norm)?;
            Ok(Written { changed: vec![x], new: vec![h] })
        }))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    let with_norm = |residual| ResidualNormCase { residual, weight: DType::F32, output: Compute::Native };
    let mut cases = named(ResidualCase::cases().map(|(name, residual)| (name, with_norm(residual))));
    // The new stream's mean square is as small as eps.
    let small = ResidualCase { scale: 3e-3, branch: 3e-3, ..ResidualCase::PLAIN };
    cases.push(with_norm(small).named("eps-decides-for-the-next"));
    const GATED: ResidualCase = ResidualCase::GATED;
    let fp8 = [
        ("fp8", GATED),
        ("fp8-one-token", ResidualCase { tokens: 1, ..ResidualCase::PLAIN }),
        ("fp8-width-3840", ResidualCase { tokens: 17, width: 3840, batch: 2, ..GATED }),
        ("fp8-width-48", ResidualCase { tokens: 257, width: 48, ..GATED }),
        ("fp8-activations-1e6", ResidualCase { scale: 1e6, branch: 1e6, ..GATED }),
        ("full-fp8", ResidualCase { batch: 2, tokens: 4224, width: 3840, ..GATED }),
    ];
    let in_fp8 = |residual| ResidualNormCase { output: Compute::Fp8, ..with_norm(residual) };
    cases.extend(named(fp8.map(|(name, residual)| (name, in_fp8(residual)))));
    let features = &[
        Feature::Eps,
        Feature::NormScale,
        Feature::ModulationRow,
        Feature::Branch,
        Feature::Accumulates,
        Feature::BeyondF16,
    ];
    Entry { op: Op { name: ResidualNormCase::OP, features }, cases, rejections: norm_rejections() }
}

fn norm_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const OP: &str = ResidualNormCase::OP;
    const X: Zeros = Zeros::Activation(&[1, 1, 4]);
    const WEIGHT: Zeros = Zeros::F32(&[4]);
    // The branch is checked before the norm, so that any tensor can be the weight.
    let mut all = branch_rejections(OP, |b: &B, x, branch: Branch<'_, B::Tensor>| {
        let norm = RmsNorm { weight: branch.y, scale: None, eps: ResidualCase::EPS, output: Compute::Native };
        b.residual_norm(x, branch, norm).map(drop)
    });
    let call = |b: &B, [mut x, y, weight, table]: [B::Tensor; 4]| {
        let branch = Branch { y: &y, norm: None, gate: None, eps: ResidualCase::EPS };
        let scale = Some(Modulation { table: &table, row: 0 });
        let norm = RmsNorm { weight: &weight, scale, eps: ResidualCase::EPS, output: Compute::Native };
        b.residual_norm(&mut x, branch, norm).map(drop)
    };
    all.extend(rejections(
        OP,
        call,
        [
            ("size-of-weight", [X, X, Zeros::F32(&[5]), X]),
            ("type-of-weight", [X, X, Zeros::U32(&[4]), X]),
            ("width-of-scale", [X, X, WEIGHT, Zeros::Activation(&[1, 1, 5])]),
            ("type-of-scale", [X, X, WEIGHT, Zeros::U32(&[1, 1, 4])]),
            ("weight-in-place", [X, X, Zeros::Alias(&[4]), X]),
            ("scale-in-place", [X, X, WEIGHT, Zeros::Alias(&[1, 1, 4])]),
        ],
    ));
    all
}
