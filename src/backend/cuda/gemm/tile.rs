//! Launches the products: which tile of tensor cores for which sizes, or the kernel for few rows.

use crate::backend::cuda::driver::program::{File, Program, kernel};
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::recording::{Arg, Grid};
use crate::error::Result;

/// Up to so many rows are multiplied by the kernel for few rows.
pub(crate) const FEW: usize = 8;
/// Columns and threads of a block of that kernel.
const FEW_COLUMNS: usize = 8;
const FEW_THREADS: usize = 128;
/// Steps of k in shared memory, and values in each.
const STAGES: usize = 4;
const STEP: usize = 32;

/// What a block of the tiled product makes, and its warps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    m: usize,
    n: usize,
    warps: [usize; 2],
}

impl Tile {
    /// All that [`Tile::for_size`] may answer, the widest first.
    const ALL: [Tile; 4] = [
        Tile { m: 128, n: 128, warps: [2, 4] },
        Tile { m: 128, n: 64, warps: [4, 2] },
        Tile { m: 64, n: 64, warps: [2, 2] },
        Tile { m: 128, n: 16, warps: [4, 1] },
    ];

    /// The tile for a product of `m` rows and `n` columns on a GPU of so many multiprocessors: the largest that keeps
    /// all of them busy and wastes little.
    fn for_size(m: usize, n: usize, processors: usize) -> Self {
        let [large, narrow, small, slim] = Self::ALL;
        let tiles = |tile: Tile| m.div_ceil(tile.m) * n.div_ceil(tile.n);
        if n <= slim.n {
            slim
        } else if n > narrow.n && tiles(large) >= processors {
            large
        } else if tiles(narrow) >= processors {
            narrow
        } else {
            small
        }
    }

    /// Bytes of shared memory: the ring of stages, and behind it in time the tile of the output.
    fn shared(self) -> usize {
        2 * (STAGES * (self.m + self.n) * STEP).max(self.m * (self.n + 8))
    }
}

/// One product `[m, k]·[n, k]ᵀ` and what a verb does around it.
pub(crate) struct Product<'a> {
    /// The verb, which is also the name of its file and of its kernel.
    pub verb: &'static str,
    pub file: File,
    pub m: usize,
    pub n: usize,
    pub args: &'a [Arg<'a>],
}

impl Product<'_> {
    /// Runs the tiled product with these constants.
    pub(crate) fn tiled(self, gpu: &Gpu, constants: &[(&'static str, usize)]) -> Result<()> {
        let tile = Tile::for_size(self.m, self.n, gpu.device.processors);
        let program = tiled(self.verb, self.file, tile, constants);
        let grid = Grid {
            blocks: [self.m.div_ceil(tile.m) * self.n.div_ceil(tile.n), 1, 1],
            threads: 32 * tile.warps[0] * tile.warps[1],
            shared: tile.shared(),
        };
        gpu.launch(&program, self.verb, grid, self.args)
    }

    /// Runs the kernel for few rows; `entry` is its name, and `shared` the bytes that each block wants.
    pub(crate) fn few(
        self,
        gpu: &Gpu,
        entry: &'static str,
        constants: &[(&'static str, usize)],
        shared: usize,
    ) -> Result<()> {
        let rows = self.m.next_power_of_two().min(FEW);
        let program = few(self.verb, self.file, rows, constants);
        let blocks = [self.n.div_ceil(FEW_COLUMNS), self.m.div_ceil(rows), 1];
        gpu.launch(&program, entry, Grid { blocks, threads: FEW_THREADS, shared }, self.args)
    }
}

fn tiled(verb: &'static str, file: File, tile: Tile, constants: &[(&'static str, usize)]) -> Program {
    let program = Program::new(verb, &[kernel!("product.cuh"), file])
        .with("TILE_M", tile.m)
        .with("TILE_N", tile.n)
        .with("WARPS_M", tile.warps[0])
        .with("WARPS_N", tile.warps[1])
        .with("STAGES", STAGES);
    constants.iter().fold(program, |program, (name, value)| program.with(name, *value))
}

fn few(verb: &'static str, file: File, rows: usize, constants: &[(&'static str, usize)]) -> Program {
    let program = Program::new(verb, &[kernel!("rows.cuh"), file]).with("ROWS", rows);
    constants.iter().fold(program, |program, (name, value)| program.with(name, *value))
}

/// The tiled product around `file` in its largest and in its smallest tile.
pub(crate) fn some_tiled(verb: &'static str, file: File, constants: &[(&'static str, usize)]) -> Vec<Program> {
    let [large, .., slim] = Tile::ALL;
    [large, slim].map(|tile| tiled(verb, file, tile, constants)).to_vec()
}

/// The tiled product around `file` in every tile.
pub(crate) fn all_tiled(verb: &'static str, file: File, constants: &[(&'static str, usize)]) -> Vec<Program> {
    Tile::ALL.map(|tile| tiled(verb, file, tile, constants)).to_vec()
}

/// The product for few rows around `file`, for one row and for the most.
pub(crate) fn all_few(verb: &'static str, file: File, constants: &[(&'static str, usize)]) -> Vec<Program> {
    [1, FEW].map(|rows| few(verb, file, rows, constants)).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_products_get_large_tiles_and_small_ones_enough_blocks() {
        let tile = |m, n| {
            let tile = Tile::for_size(m, n, 132);
            (tile.m, tile.n)
        };
        assert_eq!(tile(4224, 11_520), (128, 128));
        assert_eq!(tile(4224, 3840), (128, 128));
        assert_eq!(tile(1 << 20, 128), (128, 128));
        assert_eq!(tile(128, 3840), (64, 64));
        assert_eq!(tile(16_384, 64), (64, 64));
        assert_eq!(tile(1 << 20, 3), (128, 16));
        assert!(Tile::ALL.iter().all(|tile| tile.shared() <= 99 << 10));
    }
}
