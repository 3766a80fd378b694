//! `swiglu`: the first half of a gated feed-forward layer.

use super::activation::silu;
use super::matrix::{StoredMatrix, View, ViewMut, product};
use super::parallel::*;

/// `out = SiLU(x·Gᵀ) ⊙ (x·Uᵀ)`; `x` `[M, K]`, `gate` and `up` `[F, K]`, `out` `[M, F]`. The two products live only for
/// as long as a panel of the weights.
pub(super) fn swiglu(x: &[f32], gate: &StoredMatrix, up: &StoredMatrix, out: &mut [f32]) {
    let [hidden, width] = gate.dims();
    let m = x.len() / width;
    let x = View::new(x, m, width, width);
    for ((first, rows, g), (_, _, u)) in gate.panels().zip(up.panels()) {
        let times = |panel: &[f32]| {
            let mut out = vec![0.0; m * rows];
            let view = ViewMut { data: &mut out, rows: m, cols: rows, row_stride: rows };
            product(view, x, View::new(panel, rows, width, width).t(), true);
            out
        };
        let (g, u) = (times(&g), times(&u));
        out.par_chunks_mut(hidden).zip(g.par_chunks(rows)).zip(u.par_chunks(rows)).for_each(|((out, g), u)| {
            for ((o, &g), &u) in out[first..first + rows].iter_mut().zip(g).zip(u) {
                *o = silu(g) * u;
            }
        });
    }
}
