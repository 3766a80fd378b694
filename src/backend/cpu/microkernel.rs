//! The inner loop of the gemms: a tile of sums in vector registers.
//!
//! `tile[r][c] = Σₖ left[r, k]·panel[k, c]` for up to [`ROWS`] rows and the columns of one panel. A
//! value of the left matrix is broadcast and multiplied by a row of the panel, whose values are
//! contiguous. The left matrix is read where it lies: nothing is packed during a gemm.
//!
//! Every sum adds its products in the order of k, so a result depends neither on the number of
//! threads nor on how rows are cut into tiles.

use pulp::{Arch, NullaryFnOnce, Scalar128b, Simd, WithSimd};

/// Columns of a panel of the right matrix.
pub(super) const COLUMNS: usize = 32;
/// The columns of a last panel are a multiple of this.
pub(super) const COLUMN_STEP: usize = 16;
/// The most rows of a tile.
pub(super) const ROWS: usize = 12;

/// The sums of one tile. Rows and columns that the call does not have are unspecified.
#[repr(align(64))]
pub(super) struct Tile(pub [[f32; COLUMNS]; ROWS]);

impl Tile {
    pub(super) fn new() -> Self {
        Self([[0.0; COLUMNS]; ROWS])
    }
}

/// The left matrix of a gemm. Row `r` has `segments` pieces of `length` contiguous values: piece
/// `s` starts at `r·row_stride + s·segment_stride`. A plain matrix has one piece a row; the pixels
/// under the kernel of a convolution have one for each row of the kernel.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub row_stride: usize,
    pub segments: usize,
    pub segment_stride: usize,
    pub length: usize,
}

impl<'a> Left<'a> {
    /// `rows` rows of `depth` values, `row_stride` apart.
    pub(super) fn matrix(data: &'a [f32], rows: usize, depth: usize, row_stride: usize) -> Self {
        Self { data, rows, row_stride, segments: 1, segment_stride: 0, length: depth }
    }

    /// The values of a row.
    pub(super) fn depth(&self) -> usize {
        self.segments * self.length
    }

    /// One more than the index of the last value.
    fn end(&self) -> usize {
        match self.rows == 0 || self.depth() == 0 {
            true => 0,
            false => (self.rows - 1) * self.row_stride + (self.segments - 1) * self.segment_stride + self.length,
        }
    }
}

/// The sums of rows `first..first + rows` of `left` with a panel of `columns` columns, whose rows
/// are contiguous.
pub(super) fn sums(left: Left<'_>, first: usize, rows: usize, panel: &[f32], columns: usize, tile: &mut Tile) {
    assert!((1..=ROWS).contains(&rows) && first + rows <= left.rows && left.end() <= left.data.len());
    assert!(columns == COLUMNS || columns == COLUMN_STEP, "a panel has 16 or 32 columns");
    assert!(left.depth() * columns <= panel.len(), "a panel is as deep as the left matrix");
    let start = if left.end() == 0 { 0 } else { first * left.row_stride };
    let of = Operands { left: Left { data: &left.data[start..], rows, ..left }, panel, columns };
    sums_with(Arch::new(), of, tile);
}

/// As [`sums`], with the instructions of `arch`.
fn sums_with(arch: Arch, of: Operands<'_>, tile: &mut Tile) {
    match arch {
        Arch::Scalar => narrow(of, tile),
        arch => arch.dispatch(Wide { of, tile }),
    }
}

/// The operands of [`sums`], checked: all values of the left rows are inside its data, and the
/// panel has a row for each value of a left row.
#[derive(Clone, Copy)]
struct Operands<'a> {
    left: Left<'a>,
    panel: &'a [f32],
    columns: usize,
}

/// Without vector instructions that are detected at run time: vectors of four values, for which the
/// compiler uses those of its target.
fn narrow(of: Operands<'_>, tile: &mut Tile) {
    /// Vectors of a row of sums, and rows, that fit 16 registers.
    const VECTORS: usize = 2;
    const HEIGHT: usize = 4;
    cut::<Scalar128b, VECTORS, HEIGHT, false>(Scalar128b, of, tile);
}

/// With vectors of the width that the CPU has.
struct Wide<'a> {
    of: Operands<'a>,
    tile: &'a mut Tile,
}

impl WithSimd for Wide<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { of, tile } = self;
        // AVX-512 and NEON have 32 registers, AVX2 has 16.
        match S::F32_LANES {
            16 => cut::<S, 2, 12, true>(simd, of, tile),
            8 => cut::<S, 2, 6, true>(simd, of, tile),
            4 => cut::<S, 4, 6, true>(simd, of, tile),
            _ => narrow(of, tile),
        }
    }
}

/// Cuts a tile into blocks of `V` vectors by at most `H` rows, whose sums fit the registers.
#[inline(always)]
fn cut<S: Simd, const V: usize, const H: usize, const FUSED: bool>(simd: S, of: Operands<'_>, tile: &mut Tile) {
    let rows = of.left.rows;
    // Blocks of about the same height: one of few rows would wait for its own sums.
    let blocks = rows.div_ceil(H);
    let mut row = 0;
    for block in 0..blocks {
        let height = (rows - row).div_ceil(blocks - block);
        let mut column = 0;
        while column < of.columns {
            if of.columns - column >= V * S::F32_LANES {
                by_height::<S, V, H, FUSED>(simd, of, row, height, column, tile);
                column += V * S::F32_LANES;
            } else {
                by_height::<S, 1, H, FUSED>(simd, of, row, height, column, tile);
                column += S::F32_LANES;
            }
        }
        row += height;
    }
}

/// Calls a [`Block`] with the height as a constant.
#[inline(always)]
fn by_height<S: Simd, const V: usize, const H: usize, const FUSED: bool>(
    simd: S,
    of: Operands<'_>,
    row: usize,
    height: usize,
    column: usize,
    tile: &mut Tile,
) {
    macro_rules! heights {
        ($($height:literal)*) => {
            match height {
                $($height if $height <= H => {
                    simd.vectorize(Block::<S, V, $height, FUSED> { simd, of, row, column, tile });
                })*
                _ => unreachable!("a block of {height} rows"),
            }
        };
    }
    heights!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// A block of `V` vectors by `M` rows.
struct Block<'a, S, const V: usize, const M: usize, const FUSED: bool> {
    simd: S,
    of: Operands<'a>,
    row: usize,
    column: usize,
    tile: &'a mut Tile,
}

impl<S: Simd, const V: usize, const M: usize, const FUSED: bool> NullaryFnOnce for Block<'_, S, V, M, FUSED> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "iterators would leave the sums in memory")]
    fn call(self) {
        let Self { simd, of: Operands { left, panel, columns }, row, column, tile } = self;
        assert!(row + M <= ROWS && column + V * S::F32_LANES <= COLUMNS, "a block outside its tile");
        debug_assert!(row + M <= left.rows && column + V * S::F32_LANES <= columns);
        let mut sums = [[simd.splat_f32s(0.0); V]; M];
        // Loops over constants with indices: the compiler unrolls them all and keeps the sums in
        // registers.
        // SAFETY: by the assertions of `sums`, every value of these rows is inside the left data,
        // and the panel has `columns` values for each of the `depth` values of a row. Pointers past
        // those values are formed by `wrapping_add` and not read. The assertion above keeps what is
        // written inside the tile.
        unsafe {
            let left_rows = left.data.as_ptr().wrapping_add(row * left.row_stride);
            let mut right = panel.as_ptr().wrapping_add(column);
            for segment in 0..left.segments {
                let mut value = left_rows.wrapping_add(segment * left.segment_stride);
                for _ in 0..left.length {
                    let mut vectors = [simd.splat_f32s(0.0); V];
                    for v in 0..V {
                        vectors[v] = right.add(v * S::F32_LANES).cast::<S::f32s>().read_unaligned();
                    }
                    for r in 0..M {
                        let left = simd.splat_f32s(*value.add(r * left.row_stride));
                        for v in 0..V {
                            sums[r][v] = match FUSED {
                                true => simd.mul_add_e_f32s(left, vectors[v], sums[r][v]),
                                false => simd.add_f32s(simd.mul_f32s(left, vectors[v]), sums[r][v]),
                            };
                        }
                    }
                    value = value.wrapping_add(1);
                    right = right.wrapping_add(columns);
                }
            }
            let out = tile.0.as_mut_ptr().cast::<f32>().add(row * COLUMNS + column);
            for r in 0..M {
                for v in 0..V {
                    out.add(r * COLUMNS + v * S::F32_LANES).cast::<S::f32s>().write_unaligned(sums[r][v]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::{noise, relative_error};

    /// The instructions that this CPU has, and vectors without any.
    fn archs() -> Vec<Arch> {
        let mut archs = vec![Arch::Scalar, Arch::new()];
        #[cfg(target_arch = "x86_64")]
        archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
        archs
    }

    fn expected(left: Left<'_>, panel: &[f32], columns: usize) -> Vec<f32> {
        let mut out = Vec::new();
        for row in 0..left.rows {
            for column in 0..columns {
                let mut sum = 0.0f64;
                for k in 0..left.depth() {
                    let (segment, i) = (k / left.length, k % left.length);
                    let value = left.data[row * left.row_stride + segment * left.segment_stride + i];
                    sum += f64::from(value) * f64::from(panel[k * columns + column]);
                }
                out.push(sum as f32);
            }
        }
        out
    }

    #[test]
    fn tiles_of_any_height_have_the_sums() {
        for arch in archs() {
            for rows in 1..=ROWS {
                for columns in [COLUMN_STEP, COLUMNS] {
                    for (segments, length) in [(1, 1), (1, 37), (3, 5)] {
                        // Rows that overlap, as those of a convolution do.
                        let (row_stride, segment_stride) = (2, 41);
                        let data = noise(1, (rows - 1) * row_stride + (segments - 1) * segment_stride + length);
                        let left = Left { data: &data, rows, row_stride, segments, segment_stride, length };
                        let panel = noise(2, segments * length * columns);
                        let mut tile = Tile([[f32::NAN; COLUMNS]; ROWS]);
                        sums_with(arch, Operands { left, panel: &panel, columns }, &mut tile);
                        let found: Vec<f32> = tile.0[..rows].iter().flat_map(|row| &row[..columns]).copied().collect();
                        let error = relative_error(&found, &expected(left, &panel, columns));
                        assert!(error < 1e-6, "{arch:?}: {rows} rows, {columns} columns, {segments}×{length}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn sums_do_not_depend_on_the_height() {
        let (depth, rows) = (300, ROWS);
        let (data, panel) = (noise(3, rows * depth), noise(4, depth * COLUMNS));
        let left = Left::matrix(&data, rows, depth, depth);
        let [mut whole, mut part] = [(); 2].map(|()| Tile::new());
        sums(left, 0, rows, &panel, COLUMNS, &mut whole);
        for first in 0..rows {
            for count in 1..=rows - first {
                sums(left, first, count, &panel, COLUMNS, &mut part);
                assert_eq!(part.0[..count], whole.0[first..first + count], "{count} rows from {first} on");
            }
        }
    }

    #[test]
    #[should_panic(expected = "left.end() <= left.data.len()")]
    fn rows_past_the_data_are_not_read() {
        sums(Left::matrix(&[0.0; 11], 3, 4, 4), 0, 2, &[0.0; 128], COLUMNS, &mut Tile::new());
    }

    #[test]
    #[should_panic(expected = "as deep as the left matrix")]
    fn a_shallow_panel_is_not_read() {
        sums(Left::matrix(&[0.0; 12], 3, 4, 4), 0, 3, &[0.0; 127], COLUMNS, &mut Tile::new());
    }
}
