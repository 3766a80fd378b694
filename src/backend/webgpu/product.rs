//! Launches the products: which shader, which tile, one dispatch a piece of the matrix.

use super::gpu::Gpu;
use super::matrix::{Matrix, Piece};
use super::program::{File, Program, wgsl};
use super::recording::Arg;
use super::tensor::WebGpuTensor;
use crate::error::Result;

/// Up to so many rows are multiplied by the shader for few rows.
pub(super) const FEW: usize = 8;
/// Columns that a workgroup of that shader makes.
const FEW_COLUMNS: usize = 16;
/// From so many tiles on, large ones keep a GPU busy.
const BUSY: usize = 256;

/// One product `[M, K]·[N, K]ᵀ` and what a verb does around it.
pub(super) struct Product<'a> {
    /// The verb, which is also the name of its file.
    pub verb: &'static str,
    pub file: File,
    /// What `x4` reads.
    pub x: Arg,
    /// Whether it may be read in fours that are aligned.
    pub aligned: bool,
    pub matrix: &'a Matrix,
    /// Rows of the product, and values in each.
    pub m: usize,
    pub k: usize,
    /// Whether two rows of the matrix make one column.
    pub paired: bool,
    /// Width of a row of the output.
    pub width: usize,
    pub out: &'a WebGpuTensor,
    /// What is bound behind the output.
    pub extra: Vec<Arg>,
    /// Parameters behind those that all products have.
    pub parameters: Vec<u32>,
    pub constants: &'a [(&'static str, bool)],
}

/// Rows and columns of a thread, and steps of four in workgroup memory, of the tiled product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    pub tm: usize,
    pub tn: usize,
}

impl Tile {
    /// All that [`Tile::for_size`] may answer.
    pub(super) const ALL: [Tile; 6] = [
        Tile { tm: 4, tn: 1 },
        Tile { tm: 4, tn: 2 },
        Tile { tm: 4, tn: 4 },
        Tile { tm: 8, tn: 2 },
        Tile { tm: 8, tn: 4 },
        Tile { tm: 8, tn: 8 },
    ];

    /// The tile for a product of `m` rows and `n` columns, in pairs or not.
    fn for_size(m: usize, n: usize, paired: bool) -> Self {
        let tiles = |tile: Tile| m.div_ceil(16 * tile.tm) * n.div_ceil(16 * tile.tn);
        let narrowest = if paired { 2 } else { 1 };
        let tn = [1, 2, 4, 8].into_iter().find(|tn| 16 * tn >= n && *tn >= narrowest).unwrap_or(8);
        let large = Tile { tm: 8, tn: tn.max(2) };
        if tn > 1 && tiles(large) >= BUSY {
            return large;
        }
        Tile { tm: 4, tn: tn.min(4) }
    }

    /// Steps of four of K in workgroup memory: as many as 16 KiB hold, with what a verb needs besides.
    fn steps(self) -> usize {
        if self.tm + self.tn > 10 { 2 } else { 4 }
    }
}

impl Product<'_> {
    fn program(&self, tile: Option<Tile>) -> Program {
        program(self.verb, self.file, self.aligned, self.matrix.stored.file(), self.few(), tile, self.constants)
    }

    /// Rows that the shader for few rows takes at a time.
    fn few(&self) -> usize {
        self.m.next_power_of_two().min(FEW)
    }

    /// Appends the dispatches; with few rows, those of the shader for few rows.
    pub(super) fn run(self, gpu: &Gpu) -> Result<()> {
        let few = self.m <= FEW;
        self.run_as(gpu, few)
    }

    /// Appends the dispatches of the tiled product, or of the one for few rows.
    pub(super) fn run_as(self, gpu: &Gpu, few: bool) -> Result<()> {
        for piece in &self.matrix.pieces {
            let columns = if self.paired { 2 * piece.rows } else { piece.rows };
            let (program, tiles, groups) = if few {
                let tiles = columns.div_ceil(FEW_COLUMNS);
                (self.program(None), tiles, tiles * self.m.div_ceil(self.few()))
            } else {
                let tile = Tile::for_size(self.m, columns, self.paired);
                let tiles = columns.div_ceil(16 * tile.tn);
                (self.program(Some(tile)), tiles, tiles * self.m.div_ceil(16 * tile.tm))
            };
            let mut args = vec![self.x.clone(), piece.arg(), Arg::from(self.out)];
            args.extend(self.extra.iter().cloned());
            gpu.dispatch(&program, &args, self.piece_parameters(piece, tiles), groups)?;
        }
        Ok(())
    }

    fn piece_parameters(&self, piece: &Piece, tiles: usize) -> Vec<u32> {
        let (k4, stride) = (self.matrix.width.div_ceil(4), self.matrix.stride4());
        let mut parameters: Vec<u32> =
            [self.m, piece.rows, self.k, k4, stride, tiles, piece.first, self.width].map(|value| value as u32).to_vec();
        parameters.extend(&self.parameters);
        parameters
    }
}

/// The tiled product around `file` for a `tile`, or the one for `few` rows.
pub(super) fn program(
    verb: &'static str,
    file: File,
    aligned: bool,
    weights: File,
    few: usize,
    tile: Option<Tile>,
    constants: &[(&'static str, bool)],
) -> Program {
    let input = if aligned { wgsl!("input_vec4") } else { wgsl!("input_scalar") };
    let body = if tile.is_some() { wgsl!("product") } else { wgsl!("rows") };
    let mut program = Program::new(verb, &[wgsl!("common"), input, weights, file, body]);
    for (name, value) in constants {
        program = program.with(name, *value);
    }
    match tile {
        Some(tile) => program.with("TM", tile.tm).with("TN", tile.tn).with("BK4", tile.steps()),
        // TN is named by functions that this body does not call.
        None => program.with("MR", few).with("TN", 2),
    }
}
