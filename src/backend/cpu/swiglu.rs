//! `swiglu`: the first half of a gated feed-forward layer.

use super::matrix::{Panel, StoredRows, View, ViewMut, is_packed, panels, product, stacked};
use super::microkernel::{COLUMN_STEP, COLUMNS, Left, Tile};
use super::packed::{Panels, each_panel, packed_len, task_rows, transpose};
use super::parallel::*;
use super::simd::silu;
use super::{Cpu, CpuTensor};
use crate::backend::{DeviceWeight, SwiGluArgs, SwiGluOp};
use crate::error::Result;
use crate::reserve::zeros;
use crate::tensor::{Compute, Fp8Scales, Weight};
use futures_util::future::try_join;
use multiversion::multiversion;
use std::ops::Range;
use std::slice;
use std::sync::Arc;

/// The hidden values of a panel of packed weights.
const HIDDEN: usize = COLUMNS / 2;
// A panel has the gates in its first columns and the ups in the others, and is never narrower.
const _: () = assert!(HIDDEN == COLUMN_STEP);

/// The two matrices of a gated feed-forward layer.
#[derive(Debug, Clone)]
pub struct CpuSwiGlu {
    matrices: Matrices,
    dims: [usize; 2],
    compute: Compute,
}

#[derive(Debug, Clone)]
enum Matrices {
    /// Packed panels: [`HIDDEN`] columns of the gate, then as many of up.
    Packed(Arc<Vec<f32>>),
    /// The gate and up as they are stored.
    Stored([StoredRows; 2]),
}

impl DeviceWeight<2> for CpuSwiGlu {
    fn dims(&self) -> [usize; 2] {
        self.dims
    }

    fn compute(&self) -> Compute {
        self.compute
    }
}

impl CpuSwiGlu {
    fn new(gate: StoredRows, up: StoredRows, dims: [usize; 2], compute: Compute) -> Result<Self> {
        let both = [gate, up];
        let matrices = match is_packed(dims) {
            true => Matrices::Packed(Arc::new(pack(&both, dims)?)),
            false => Matrices::Stored(both),
        };
        Ok(Self { matrices, dims, compute })
    }
}

/// The columns of a packed pair of matrices `[F, K]`.
fn packed_columns(hidden: usize) -> usize {
    hidden.div_ceil(HIDDEN) * COLUMNS
}

/// Packs a gate and an up, both `[F, K]`.
fn pack([gate, up]: &[StoredRows; 2], dims @ [hidden, width]: [usize; 2]) -> Result<Vec<f32>> {
    let [gate, up] = [gate, up].map(|part| stacked(slice::from_ref(part), dims));
    let (gate, up) = (gate?, up?);
    let columns = packed_columns(hidden);
    let mut packed = zeros(packed_len(width, columns), "a packed matrix")?;
    each_panel(&mut packed, width, columns, |column, panel_width, out| {
        let first = column / 2;
        let rows = HIDDEN.min(hidden - first);
        for (half, values) in [&gate, &up].into_iter().enumerate() {
            transpose(&values[first * width..], rows, width, (half * HIDDEN, panel_width), width, out);
        }
    });
    Ok(packed)
}

impl SwiGluOp for Cpu {
    type SwiGlu = CpuSwiGlu;

    async fn run_upload_swiglu(&self, gate: &Weight<'_>, up: &Weight<'_>, dims: [usize; 2]) -> Result<CpuSwiGlu> {
        let compute = gate.compute();
        let (gate, up) = try_join(StoredRows::upload(gate), StoredRows::upload(up)).await?;
        CpuSwiGlu::new(gate, up, dims, compute)
    }

    fn run_swiglu(&self, args: SwiGluArgs<'_, CpuTensor, CpuSwiGlu>, shape: &[usize]) -> Result<CpuTensor> {
        let w = args.w.clone();
        self.fill_operand((w.compute, Fp8Scales::Blocks), shape, [args.x], move |[x], out| swiglu(&x.f32()?, &w, out))
    }
}

/// `out = SiLU(x·Gᵀ) ⊙ (x·Uᵀ)`; `x` `[M, K]`, `gate` and `up` `[F, K]`, `out` `[M, F]`.
fn swiglu(x: &[f32], w: &CpuSwiGlu, out: &mut [f32]) -> Result<()> {
    match &w.matrices {
        Matrices::Packed(packed) => packed_swiglu(x, packed, w.dims, out),
        Matrices::Stored(both) => stored_swiglu(x, both, w.dims, out)?,
    }
    Ok(())
}

/// Applies the gate while a tile of both products is in the cache.
fn packed_swiglu(x: &[f32], packed: &[f32], [hidden, width]: [usize; 2], out: &mut [f32]) {
    let columns = packed_columns(hidden);
    let panels = Panels::new(packed, width, columns);
    let task = task_rows(x.len() / width);
    out.par_chunks_mut(task * hidden).zip(x.par_chunks(task * width)).for_each(|(out, x)| {
        panels.product(Left::matrix(x, x.len() / width, width, width), columns, |rows, tile_columns, tile| {
            let first = tile_columns.start / 2;
            gate_tile(tile, rows, first..hidden.min(first + HIDDEN), out, hidden);
        });
    });
}

/// Writes `SiLU(gate) ⊙ up` of a tile to `columns` of `out`, whose rows are `row_stride` apart.
#[multiversion(targets = "simd")]
fn gate_tile(tile: &Tile, rows: Range<usize>, columns: Range<usize>, out: &mut [f32], row_stride: usize) {
    for (row, sums) in rows.zip(&tile.0) {
        let (gate, up) = sums.split_at(HIDDEN);
        let mut gated = [0.0; HIDDEN];
        gated.iter_mut().zip(gate).zip(up).for_each(|((out, &gate), &up)| *out = silu(gate) * up);
        out[row * row_stride..][columns.clone()].copy_from_slice(&gated[..columns.len()]);
    }
}

/// The two gemm results of a weight panel are freed before the next panel.
fn stored_swiglu(x: &[f32], [gate, up]: &[StoredRows; 2], [hidden, width]: [usize; 2], out: &mut [f32]) -> Result<()> {
    let m = x.len() / width;
    let x = View::new(x, m, width, width);
    for (g, u) in panels(slice::from_ref(gate), width).zip(panels(slice::from_ref(up), width)) {
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
