//! The right matrix of a gemm in the order in which its inner loop reads it, and the walk over the
//! tiles of a product.

use super::microkernel::{COLUMN_STEP, COLUMNS, Left, ROWS, Tile, sums};
use super::parallel::*;
use crate::error::Result;
use crate::reserve::zeros;
use std::ops::Range;

/// A matrix `[depth, columns]` as panels of [`COLUMNS`] columns. A panel has its rows one after the
/// other. The last one has a multiple of [`COLUMN_STEP`] columns, the missing ones zeros.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    values: &'a [f32],
    depth: usize,
    columns: usize,
}

/// The values of `columns` packed columns of `depth` values.
pub(super) fn packed_len(depth: usize, columns: usize) -> usize {
    depth * columns.next_multiple_of(COLUMN_STEP)
}

/// The columns, those of zeros included, of the panel that starts at column `first` of `columns`.
fn panel_width(first: usize, columns: usize) -> usize {
    (columns - first).next_multiple_of(COLUMN_STEP).min(COLUMNS)
}

/// Calls `write` on every panel of `packed` with its first column and its width, on all threads.
pub(super) fn each_panel(
    packed: &mut [f32],
    depth: usize,
    columns: usize,
    write: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
) {
    debug_assert_eq!(packed.len(), packed_len(depth, columns));
    packed.par_chunks_mut((depth * COLUMNS).max(1)).enumerate().for_each(|(panel, out)| {
        let first = panel * COLUMNS;
        write(first, panel_width(first, columns), out);
    });
}

/// Writes `rows` rows of `depth` values, `row_stride` apart, as the columns from `column` on of a
/// panel of `width`, which has room for them.
pub(super) fn transpose(
    data: &[f32],
    rows: usize,
    row_stride: usize,
    (column, width): (usize, usize),
    depth: usize,
    panel: &mut [f32],
) {
    /// Values of a row at a time. The part of the panel that they go to stays in the cache.
    const STEP: usize = 16;
    for first in (0..depth).step_by(STEP) {
        let count = STEP.min(depth - first);
        let out = &mut panel[first * width..(first + count) * width];
        for row in 0..rows {
            let values = &data[row * row_stride + first..][..count];
            for (out, value) in out[column + row..].iter_mut().step_by(width).zip(values) {
                *out = *value;
            }
        }
    }
}

/// A matrix `[N, K]` of weights, packed for products with its transpose.
pub(super) fn packed_rows(values: &[f32], rows: usize, width: usize, what: &str) -> Result<Vec<f32>> {
    let mut packed = zeros(packed_len(width, rows), what)?;
    each_panel(&mut packed, width, rows, |first, panel_width, out| {
        let count = panel_width.min(rows - first);
        transpose(&values[first * width..], count, width, (0, panel_width), width, out);
    });
    Ok(packed)
}

impl<'a> Panels<'a> {
    /// `values` as [`each_panel`] lays them out.
    pub(super) fn new(values: &'a [f32], depth: usize, columns: usize) -> Self {
        debug_assert_eq!(values.len(), packed_len(depth, columns));
        Self { values, depth, columns }
    }

    /// Calls `each` on the tiles of `left·self` in the first `columns` columns, with the rows and
    /// the columns of the tile. `left` may have fewer values a row than the panels have rows: the
    /// rest is not read.
    pub(super) fn product(
        self,
        left: Left<'_>,
        columns: usize,
        mut each: impl FnMut(Range<usize>, Range<usize>, &Tile),
    ) {
        debug_assert!(columns <= self.columns && left.depth() <= self.depth);
        let mut tile = Tile::new();
        for first_column in (0..columns).step_by(COLUMNS) {
            let panel = &self.values[first_column * self.depth..];
            let width = panel_width(first_column, self.columns);
            let tile_columns = first_column..columns.min(first_column + COLUMNS);
            for rows in tile_rows(left.rows) {
                sums(left, rows.start, rows.len(), panel, width, &mut tile);
                each(rows, tile_columns.clone(), &tile);
            }
        }
    }
}

/// Cuts rows into tiles of about the same height.
fn tile_rows(rows: usize) -> impl Iterator<Item = Range<usize>> {
    let tiles = rows.div_ceil(ROWS);
    (0..tiles).map(move |tile| rows * tile / tiles..rows * (tile + 1) / tiles)
}

/// The rows of one task of a product of `rows` rows: whole tiles, few enough for the caches and for
/// an even load of all threads.
pub(super) fn task_rows(rows: usize) -> usize {
    const MOST: usize = 8 * ROWS;
    rows.div_ceil(4 * threads()).next_multiple_of(ROWS).min(MOST)
}

/// `out[r, c] = Σₖ x[r, k]·right[k, c] + bias[c]` for rows of `depth` values, on all threads.
pub(super) fn multiply(x: &[f32], depth: usize, right: Panels<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
    let columns = right.columns;
    let task = task_rows(x.len() / depth);
    out.par_chunks_mut(task * columns).zip(x.par_chunks(task * depth)).for_each(|(out, x)| {
        let left = Left::matrix(x, x.len() / depth, depth, depth);
        right.product(left, columns, |rows, tile_columns, tile| {
            store(tile, rows, tile_columns, bias, out, columns);
        });
    });
}

/// Writes a tile to `out`, whose rows are `row_stride` apart, and adds the bias of its columns.
pub(super) fn store(
    tile: &Tile,
    rows: Range<usize>,
    columns: Range<usize>,
    bias: Option<&[f32]>,
    out: &mut [f32],
    row_stride: usize,
) {
    let bias = bias.map(|bias| &bias[columns.clone()]);
    for (row, sums) in rows.zip(&tile.0) {
        let out = &mut out[row * row_stride + columns.start..][..columns.len()];
        // Loops of a constant length are unrolled.
        match (<&mut [f32; COLUMNS]>::try_from(&mut *out), bias) {
            (Ok(out), None) => *out = *sums,
            (Ok(out), Some(bias)) => {
                out.iter_mut().zip(sums).zip(bias).for_each(|((out, sum), bias)| *out = sum + bias);
            }
            (Err(_), _) => {
                out.copy_from_slice(&sums[..columns.len()]);
                out.iter_mut().zip(bias.unwrap_or_default()).for_each(|(out, bias)| *out += bias);
            }
        }
    }
}
