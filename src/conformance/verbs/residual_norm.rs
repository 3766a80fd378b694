//! `residual` and `residual_norm`: every kind of branch, what is changed in place and what is returned.

use super::super::case::{Suite, steps};
use super::super::tolerance::{NORM, Tolerance};
use crate::backend::{Backend, Branch, Modulation, RmsNorm};
use crate::tensor::DType;

/// What a case has besides the branch's output.
#[derive(Clone, Copy)]
struct Kind {
    batch: usize,
    tokens: usize,
    width: usize,
    /// Whether the branch is normed.
    norm: bool,
    /// Rows of the modulation table; 0: no gate and no scale.
    table: usize,
    /// Scales of x and of the branch's output.
    scales: [f32; 2],
    eps: f32,
}

const PLAIN: Kind = Kind { batch: 1, tokens: 33, width: 256, norm: false, table: 0, scales: [1.0; 2], eps: 1e-5 };
/// As in the image transformer.
const GATED: Kind = Kind { norm: true, table: 1, ..PLAIN };

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    for (name, kind) in [
        ("plain", PLAIN),
        ("gated", GATED),
        ("one-token", Kind { tokens: 1, ..GATED }),
        ("width-3840", Kind { tokens: 17, width: 3840, batch: 2, ..GATED }),
        ("gated-by-item", Kind { batch: 3, tokens: 5, table: 3, ..GATED }),
        ("normed-without-gate", Kind { norm: true, ..PLAIN }),
        ("gated-without-norm", Kind { table: 1, ..PLAIN }),
        ("257-tokens-odd-width", Kind { tokens: 257, width: 61, ..GATED }),
        // The branch is as large as in Z-Image's deep blocks, and the norm brings it back.
        ("branch-1e5", Kind { scales: [1.0, 1e5], ..GATED }),
        ("activations-1e4", Kind { scales: [1e4, 1e4], ..PLAIN }),
        ("activations-1e6", Kind { scales: [1e6, 1e6], ..GATED }),
        ("stream-1e4", Kind { scales: [1e4, 1.0], ..GATED }),
        // The branch's mean square is that of eps.
        ("eps-decides", Kind { scales: [1.0, 5e-3], ..GATED }),
        ("full", Kind { batch: 2, tokens: 4224, width: 3840, ..GATED }),
    ] {
        if suite.wants(name) {
            residual(suite, name, kind, NORM);
            residual_norm(suite, name, kind, NORM);
        }
    }
    // The new stream's mean square is that of eps.
    residual_norm(suite, "eps-decides-for-the-next", Kind { scales: [3e-3, 3e-3], ..PLAIN }, NORM);
}

fn residual<B: Backend + 'static>(suite: &mut Suite<B>, name: &str, kind: Kind, tolerance: Tolerance) {
    let Kind { batch, tokens, width, norm, table, scales, eps } = kind;
    suite.add("residual", name, tolerance, move |s| {
        let (x, y) =
            (s.activation(&[batch, tokens, width], scales[0])?, s.activation(&[batch, tokens, width], scales[1])?);
        let norm = norm.then(|| s.norm_weight(DType::Bf16, width)).transpose()?;
        let table = (table > 0).then(|| s.activation(&[table, 4, width], 1.5)).transpose()?;
        steps(move |b: &B| {
            let gate = table.as_ref().map(|table| Modulation { table, row: 1 });
            let mut x = x.clone();
            b.residual(&mut x, Branch { y: &y, norm: norm.as_ref(), gate, eps })?;
            Ok(vec![x])
        })
    });
}

fn residual_norm<B: Backend + 'static>(suite: &mut Suite<B>, name: &str, kind: Kind, tolerance: Tolerance) {
    let Kind { batch, tokens, width, norm, table, scales, eps } = kind;
    suite.add("residual_norm", name, tolerance, move |s| {
        let (x, y) =
            (s.activation(&[batch, tokens, width], scales[0])?, s.activation(&[batch, tokens, width], scales[1])?);
        let norm = norm.then(|| s.norm_weight(DType::Bf16, width)).transpose()?;
        let table = (table > 0).then(|| s.activation(&[table, 4, width], 1.5)).transpose()?;
        let weight = s.norm_weight(DType::F32, width)?;
        steps(move |b: &B| {
            let row = |row| table.as_ref().map(|table| Modulation { table, row });
            let mut x = x.clone();
            let branch = Branch { y: &y, norm: norm.as_ref(), gate: row(1), eps };
            let h = b.residual_norm(&mut x, branch, RmsNorm { weight: &weight, scale: row(2), eps })?;
            Ok(vec![x, h])
        })
    });
}
