//! Tiles on cooperative matrices.

use super::tile::BUSY_TILES;
use crate::backend::webgpu::driver::variant::Cooperative;
use crate::backend::webgpu::launch::program::Program;

/// Rows of tiles that are made before the next ones.
const BAND: usize = 16;
/// Bytes of a vector of eight F16 values in workgroup memory.
const VEC8_BYTES: usize = 16;

/// The tile of a workgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CooperativeTile {
    /// Subgroups down and across.
    subgroups: [usize; 2],
    /// Matrices of each subgroup, down and across.
    pub(super) matrices: [usize; 2],
    /// Vectors of eight of K in workgroup memory.
    k_steps: usize,
}

/// A tile and the products that take it: those of `op` (`None`: of every op) with at least so many
/// columns.
struct Choice {
    op: Option<&'static str>,
    columns: usize,
    tile: CooperativeTile,
}

/// The tiles, the fastest first. The last one takes every product that is too small for the others.
/// Measured on an H100.
const CHOICES: [Choice; 4] = [
    Choice { op: Some("linear"), columns: 1024, tile: CooperativeTile::new([2, 4], [4, 4]) },
    Choice { op: None, columns: 0, tile: CooperativeTile::new([2, 4], [4, 2]) },
    Choice { op: None, columns: 0, tile: CooperativeTile::new([2, 2], [2, 2]) },
    Choice { op: None, columns: 0, tile: CooperativeTile::new([1, 4], [2, 2]) },
];

impl CooperativeTile {
    const fn new(subgroups: [usize; 2], matrices: [usize; 2]) -> Self {
        Self { subgroups, matrices, k_steps: 4 }
    }

    /// Every result of [`CooperativeTile::for_size`].
    pub(super) fn all() -> impl Iterator<Item = Self> {
        CHOICES.into_iter().map(|choice| choice.tile)
    }

    /// The first tile of [`CHOICES`] that fits workgroup memory and keeps every SM busy.
    pub(super) fn for_size(op: &str, m: usize, n: usize, cooperative: Cooperative) -> Self {
        let [.., Choice { tile: smallest, .. }] = CHOICES;
        let fits = |choice: &Choice| {
            let [rows, columns] = choice.tile.size(cooperative.side);
            choice.op.is_none_or(|name| name == op)
                && n >= choice.columns
                && m.div_ceil(rows) * n.div_ceil(columns) >= BUSY_TILES
                && choice.tile.memory(cooperative.side, 1) <= cooperative.memory
        };
        CHOICES.into_iter().find(fits).map_or(smallest, |choice| choice.tile)
    }

    /// Rows and columns.
    pub(super) fn size(self, side: usize) -> [usize; 2] {
        [0, 1].map(|i| self.subgroups[i] * self.matrices[i] * side)
    }

    /// Buffers of operands in workgroup memory: two if they fit.
    fn buffers(self, Cooperative { side, memory, .. }: Cooperative) -> usize {
        if self.memory(side, 2) <= memory { 2 } else { 1 }
    }

    /// Bytes of workgroup memory with so many buffers, as the shader declares it.
    fn memory(self, side: usize, buffers: usize) -> usize {
        let operands = self.size(side).iter().sum::<usize>() * (self.k_steps + 1) * VEC8_BYTES;
        let sums = self.subgroups.iter().product::<usize>() * side * side * size_of::<f32>();
        buffers * operands + sums
    }

    /// Sets the constants of `gemm/cooperative.wgsl`.
    pub(super) fn configure(self, program: Program, cooperative: Cooperative) -> Program {
        let Self { subgroups: [gm, gn], matrices: [fm, fn_], k_steps } = self;
        let threads = gm * gn * cooperative.lanes;
        let loads = |rows: usize| rows * k_steps / threads;
        let [rows, columns] = self.size(cooperative.side);
        matrix_size(program, cooperative)
            .with("GM", gm)
            .with("GN", gn)
            .with("FM", fm)
            .with("FN", fn_)
            .with("BK8", k_steps)
            .with("KF", 8 * k_steps / cooperative.side)
            .with("LANES", cooperative.lanes)
            .with("LOADS_A", loads(rows))
            .with("LOADS_B", loads(columns))
            .with("SHARE", cooperative.side.pow(2) / cooperative.lanes)
            .with("BUFFERS", self.buffers(cooperative))
            .with("BAND", BAND)
    }
}

/// Chooses the size of cooperative matrices in `shared/cooperative.wgsl`.
pub(crate) fn matrix_size(program: Program, cooperative: Cooperative) -> Program {
    if cooperative.side == 8 { program.define("SIDE_8") } else { program }
}
