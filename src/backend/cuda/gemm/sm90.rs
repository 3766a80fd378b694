//! Launches Hopper's product, `kernels/sm90/product.cuh`: which tile, how many blocks side by side, and the tensor maps.

use crate::backend::cuda::driver::program::{File, Program, kernel};
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::recording::{Arg, Grid};
use crate::backend::cuda::launch::tensor_map::TensorMap;
use crate::backend::cuda::matrix::Matrix;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR};
use crate::error::Result;
use std::ops::Range;

/// Rows of a consumer, and of the boxes that bring them.
pub(crate) const BOX: usize = 64;
/// Rows of the tiles of blocks that read alone.
pub(crate) const TILE_M: usize = 128;
/// Rows of the tiles that stand beside each other.
pub(crate) const BESIDE_M: usize = Plan::BESIDE.tile.m();
/// Values of k in a stage.
const STEP: usize = 64;
/// Rows and columns of a place on the way out, of which each consumer has some.
const BUFFER: usize = 64 * 64;

/// What a block makes: consumers with 64 rows each, columns of its tile, stages of its ring, and places on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    consumers: usize,
    n: usize,
    stages: usize,
    buffers: usize,
}

impl Tile {
    /// From the widest to the narrowest, with as many stages as shared memory holds.
    const ALL: [Tile; 5] = [
        Tile { consumers: 3, n: 192, stages: 4, buffers: 1 },
        Tile { consumers: 2, n: 256, stages: 4, buffers: 2 },
        Tile { consumers: 2, n: 192, stages: 5, buffers: 1 },
        Tile { consumers: 2, n: 128, stages: 6, buffers: 2 },
        Tile { consumers: 2, n: 64, stages: 8, buffers: 2 },
    ];

    /// Rows.
    const fn m(self) -> usize {
        self.consumers * BOX
    }

    /// Bytes of shared memory.
    fn shared(self) -> usize {
        2 * (self.stages * (self.m() + self.n) * STEP + self.consumers * self.buffers * BUFFER)
    }
}

/// How blocks share what they read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Each reads alone.
    Alone,
    /// Pairs share, whose tiles stand one below the other, where that is faster.
    Fastest,
    /// Pairs share, whose tiles stand beside each other: [`Plan::BESIDE`].
    Beside,
}

/// A tile, how many blocks work side by side and share what they read, and whether their tiles stand beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    tile: Tile,
    cluster: usize,
    beside: bool,
}

impl Plan {
    /// The plan of [`Sharing::Beside`].
    const BESIDE: Plan = Plan { tile: Tile::ALL[0], cluster: 2, beside: true };

    /// The plans of one of the other kinds. Blocks that read alone have tiles of [`TILE_M`] rows.
    fn all(sharing: Sharing) -> impl Iterator<Item = Self> {
        let plans = Tile::ALL.into_iter().flat_map(|tile| [2, 1].map(|cluster| Plan { tile, cluster, beside: false }));
        plans.filter(move |plan| if plan.cluster == 2 { sharing == Sharing::Fastest } else { plan.tile.m() == TILE_M })
    }

    /// The plan that is done first on a GPU of so many multiprocessors. A round of tiles takes as long as a tile is large, and
    /// what 4500 values take more; blocks that read alone wait for the L2 (measured on an H100).
    fn for_size(m: usize, n: usize, processors: usize, sharing: Sharing) -> Self {
        if sharing == Sharing::Beside {
            return Self::BESIDE;
        }
        let usable = Self::all(sharing).filter(|plan| plan.cluster == 1 || m > plan.tile.m());
        let time = |plan: &Plan| {
            let rounds = plan.places(m, n).div_ceil((processors / plan.cluster).max(1));
            rounds * (plan.tile.m() * plan.tile.n + 4500) * if plan.cluster == 1 { 11 } else { 10 }
        };
        usable.min_by_key(time).unwrap_or(Plan { tile: Tile::ALL[4], cluster: 1, beside: false })
    }

    /// Clusters' worth of tiles, as the kernel counts them.
    fn places(self, m: usize, n: usize) -> usize {
        let (tiles_m, tiles_n) = (m.div_ceil(self.tile.m()), n.div_ceil(self.tile.n));
        if self.beside {
            return tiles_m * tiles_n.div_ceil(self.cluster);
        }
        let last = if tiles_m.is_multiple_of(self.cluster) { 0 } else { tiles_n.div_ceil(self.cluster) };
        tiles_m / self.cluster * tiles_n + last
    }

    fn program(self, verb: &'static str, file: File, constants: &[(&'static str, usize)]) -> Program {
        let files = [kernel!("sm90/instructions.cuh"), kernel!("sm90/product.cuh"), file];
        let program = Program::new(verb, &files)
            .with("SM90", 1usize)
            .with("CONSUMERS", self.tile.consumers)
            .with("TILE_N", self.tile.n)
            .with("STAGES", self.tile.stages)
            .with("BUFFERS", self.tile.buffers)
            .with("CLUSTER", self.cluster)
            .with("BESIDE", self.beside);
        constants.iter().fold(program, |program, (name, value)| program.with(name, *value))
    }

    fn grid(self, m: usize, n: usize, processors: usize) -> Grid {
        let clusters = self.places(m, n).min((processors / self.cluster).max(1));
        Grid {
            blocks: [clusters * self.cluster, 1, 1],
            threads: 128 * (self.tile.consumers + 1),
            shared: self.tile.shared(),
        }
    }
}

/// One product on Hopper.
pub(crate) struct Product<'a> {
    /// The verb, which is also the name of its file.
    pub verb: &'static str,
    pub file: File,
    pub constants: &'a [(&'static str, usize)],
    /// Rows of the product, among them those that only fill the last tiles.
    pub m: usize,
    pub weights: &'a Matrix,
    /// The rows of the matrix that are multiplied by.
    pub columns: Range<usize>,
    /// Where rows of A come from, in boxes of 64 of them.
    pub left: TensorMap,
    /// Where rows of the output go, in boxes as large.
    pub out: TensorMap,
    pub sharing: Sharing,
}

impl Product<'_> {
    /// Launches it. The kernel takes the maps of A and of the matrix, then `between`, the map of the output, and `numbers`.
    pub(crate) fn run(self, gpu: &Gpu, between: &[Arg<'_>], numbers: &[Arg<'_>]) -> Result<()> {
        let (n, [_, k], stride) = (self.columns.len(), self.weights.dims(), self.weights.stride());
        let processors = gpu.device.processors;
        let plan = Plan::for_size(self.m, n, processors, self.sharing);
        let half = plan.tile.n / 2;
        let (memory, start) = (self.weights.memory(), self.columns.start * stride);
        let weights = TensorMap::part(self.verb, memory, start, &[k, n], &[stride], &[STEP, half]);
        let mut args = vec![Arg::Map(&self.left), Arg::Map(&weights)];
        args.extend(between);
        args.push(Arg::Map(&self.out));
        args.extend(numbers);
        let program = plan.program(self.verb, self.file, self.constants);
        gpu.launch(&program, "hopper", plan.grid(self.m, n, processors), &args)
    }
}

/// Whether the copy engine takes rows of these widths.
pub(crate) fn takes(gpu: &Gpu, widths: [usize; 2]) -> bool {
    gpu.device.hopper && widths.iter().all(|width| width.is_multiple_of(VECTOR))
}

/// The map of a matrix `[rows, width]` whose boxes are 64 rows of `columns`.
pub(crate) fn rows(verb: &'static str, x: &CudaTensor, [rows, width]: [usize; 2], columns: usize) -> TensorMap {
    TensorMap::new(verb, x.memory(), &[width, rows], width, &[columns, BOX])
}

/// The product around `file` in every plan of this kind.
pub(crate) fn programs(
    verb: &'static str,
    file: File,
    constants: &[(&'static str, usize)],
    sharing: Sharing,
) -> Vec<Program> {
    let plans = if sharing == Sharing::Beside { vec![Plan::BESIDE] } else { Plan::all(sharing).collect() };
    plans.into_iter().map(|plan| plan.program(verb, file, constants)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_fill_the_device() {
        let plan = |m, n| {
            let Plan { tile, cluster, .. } = Plan::for_size(m, n, 132, Sharing::Fastest);
            (tile.m(), tile.n, cluster)
        };
        // The transformer at 1024×1024 with 128 caption tokens, one picture and two.
        assert_eq!(
            [plan(4224, 11_520), plan(4224, 3840), plan(4224, 20_480)],
            [(192, 192, 2), (128, 192, 2), (192, 192, 2)]
        );
        assert_eq!(
            [plan(8448, 11_520), plan(8448, 3840), plan(8448, 20_480)],
            [(192, 192, 2), (192, 192, 2), (192, 192, 2)]
        );
        // The text encoder with 128 tokens.
        assert_eq!([plan(128, 6144), plan(128, 2560), plan(128, 19_456)], [(128, 64, 1), (128, 64, 1), (128, 192, 1)]);
        assert!(Tile::ALL.iter().all(|tile| tile.shared() + 1024 <= 227 << 10));
    }

    #[test]
    fn every_tile_has_its_place() {
        let tile = Tile::ALL[1];
        // 33 rows of tiles are 16 pairs and one row, whose tiles pair with their neighbours.
        let places = |m, n, cluster| Plan { tile, cluster, beside: false }.places(m, n);
        assert_eq!((places(4224, 11_520, 2), places(4224, 11_520, 1)), (16 * 45 + 23, 33 * 45));
        assert_eq!((places(1, 1, 2), places(1, 1, 1)), (1, 1));
        // 22 rows of 30 pairs of tiles.
        assert_eq!((Plan::BESIDE.places(4224, 11_520), Plan::BESIDE.places(193, 385)), (22 * 30, 2 * 2));
    }
}
