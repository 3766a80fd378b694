//! `swiglu`: the first half of a gated feed-forward layer.

use super::activation::silu;
use super::matrix::{Panel, StoredMatrix, View, ViewMut, product};
use super::parallel::*;
use crate::error::Result;
use crate::reserve::zeros;

/// `out = SiLU(x·Gᵀ) ⊙ (x·Uᵀ)`; `x` `[M, K]`, `gate` and `up` `[F, K]`, `out` `[M, F]`. The two products live only for
/// as long as a panel of the weights.
pub(super) fn swiglu(x: &[f32], gate: &StoredMatrix, up: &StoredMatrix, out: &mut [f32]) -> Result<()> {
    let [hidden, width] = gate.dims();
    let m = x.len() / width;
    let x = View::new(x, m, width, width);
    for (g, u) in gate.panels().zip(up.panels()) {
        let (Panel { first, rows, values: g }, Panel { values: u, .. }) = (g?, u?);
        let times = |panel: &[f32]| -> Result<Vec<f32>> {
            let mut out = zeros(m * rows, "a product")?;
            let view = ViewMut { data: &mut out, rows: m, cols: rows, row_stride: rows };
            product(view, x, View::new(panel, rows, width, width).t(), true);
            Ok(out)
        };
        let (g, u) = (times(&g)?, times(&u)?);
        out.par_chunks_mut(hidden).zip(g.par_chunks(rows)).zip(u.par_chunks(rows)).for_each(|((out, g), u)| {
            for ((o, &g), &u) in out[first..first + rows].iter_mut().zip(g).zip(u) {
                *o = silu(g) * u;
            }
        });
    }
    Ok(())
}
