//! `swiglu`: the first half of a gated feed-forward layer.

use super::matrix::{Panel, StoredMatrix, View, ViewMut, product};
use super::parallel::*;
use super::simd::silu;
use super::{Cpu, CpuTensor};
use crate::backend::{DeviceWeight, SwiGluArgs, SwiGluOp};
use crate::error::Result;
use crate::reserve::zeros;
use crate::tensor::Weight;
use multiversion::multiversion;
use std::slice;

/// The two matrices of a gated feed-forward layer.
#[derive(Debug, Clone)]
pub struct CpuSwiGlu {
    gate: StoredMatrix,
    up: StoredMatrix,
}

impl DeviceWeight<2> for CpuSwiGlu {
    fn dims(&self) -> [usize; 2] {
        self.gate.dims()
    }
}

impl SwiGluOp for Cpu {
    type SwiGlu = CpuSwiGlu;

    async fn run_upload_swiglu(&self, gate: &Weight<'_>, up: &Weight<'_>, dims: [usize; 2]) -> Result<CpuSwiGlu> {
        let gate = StoredMatrix::upload(slice::from_ref(gate), dims).await?;
        let up = StoredMatrix::upload(slice::from_ref(up), dims).await?;
        Ok(CpuSwiGlu { gate, up })
    }

    fn run_swiglu(&self, args: SwiGluArgs<'_, CpuTensor, CpuSwiGlu>, shape: &[usize]) -> Result<CpuTensor> {
        let w = args.w.clone();
        self.fill(shape, [args.x], move |[x], out| swiglu(&x.f32()?, &w.gate, &w.up, out))
    }
}

/// `out = SiLU(x·Gᵀ) ⊙ (x·Uᵀ)`; `x` `[M, K]`, `gate` and `up` `[F, K]`, `out` `[M, F]`. The two
/// gemm results of a weight panel are freed before the next panel.
fn swiglu(x: &[f32], gate: &StoredMatrix, up: &StoredMatrix, out: &mut [f32]) -> Result<()> {
    let [hidden, width] = gate.dims();
    let m = x.len() / width;
    let x = View::new(x, m, width, width);
    for (g, u) in gate.panels().zip(up.panels()) {
        let (Panel { first, rows, values: g }, Panel { values: u, .. }) = (g?, u?);
        let times = |panel: &[f32]| -> Result<Vec<f32>> {
            let mut out = zeros(m * rows, "a gated feed-forward layer")?;
            let view = ViewMut { data: &mut out, rows: m, cols: rows, row_stride: rows };
            product(view, x, View::new(panel, rows, width, width).t(), true);
            Ok(out)
        };
        let g = times(&g)?;
        let u = times(&u)?;
        out.par_chunks_mut(hidden).zip(g.par_chunks(rows)).zip(u.par_chunks(rows)).for_each(|((out, g), u)| {
            gated(&mut out[first..first + rows], g, u);
        });
    }
    Ok(())
}

/// `out = SiLU(gate) ⊙ up`.
#[multiversion(targets = "simd")]
fn gated(out: &mut [f32], gate: &[f32], up: &[f32]) {
    out.iter_mut().zip(gate).zip(up).for_each(|((out, &gate), &up)| *out = silu(gate) * up);
}
