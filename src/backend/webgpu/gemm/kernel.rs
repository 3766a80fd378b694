//! The gemm kernels, and the choice of one by size.

use super::cooperative::CooperativeTile;
use super::tile::{DIRECT_THREADS, TILE_THREADS, Tile};
use super::{GemmOp, UseGemv};
use crate::backend::webgpu::driver::variant::{Cooperative, Variant};
use crate::backend::webgpu::launch::program::Program;

/// Most rows of the gemv kernel.
pub(super) const GEMV_ROWS: usize = 8;
/// Columns of a workgroup of the gemv kernel.
const GEMV_COLUMNS: usize = 16;

/// A kernel with its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// `gemm/gemv.wgsl` for so many rows at a time.
    Gemv(usize),
    /// `gemm/tile.wgsl`.
    Tile(Tile),
    /// `gemm/direct.wgsl`.
    Direct(Tile),
    /// `gemm/cooperative.wgsl`.
    Cooperative(Cooperative, CooperativeTile),
}

impl Kernel {
    /// The kernel for `m` rows and `n` columns.
    pub(super) fn choose(variant: Variant, op: GemmOp, m: usize, n: usize) -> Self {
        if op.gemv == UseGemv::Always || op.gemv == UseGemv::FewRows && m <= GEMV_ROWS {
            return Kernel::Gemv(m.next_power_of_two().min(GEMV_ROWS));
        }
        match variant {
            Variant::Cooperative(cooperative) if op.f16 => {
                Kernel::Cooperative(cooperative, CooperativeTile::for_size(op.name, m, n, cooperative))
            }
            Variant::Direct if !op.prologue => Kernel::Direct(Tile::for_columns(n, op.paired)),
            _ => Kernel::Tile(Tile::for_size(m, n, op.paired)),
        }
    }

    /// Rows and columns of one workgroup.
    pub(super) fn tile(self) -> [usize; 2] {
        match self {
            Kernel::Gemv(rows) => [rows, GEMV_COLUMNS],
            Kernel::Tile(tile) => tile.of_workgroup(TILE_THREADS),
            Kernel::Direct(tile) => tile.of_workgroup(DIRECT_THREADS),
            Kernel::Cooperative(cooperative, tile) => tile.size(cooperative.side),
        }
    }

    /// Chooses this kernel in `program`, and sets its constants.
    pub(super) fn configure(self, program: Program, paired: bool) -> Program {
        let outputs = |columns: usize| if paired { columns / 2 } else { columns };
        match self {
            Kernel::Gemv(rows) => program.define("GEMV").with("MR", rows),
            Kernel::Tile(tile) => program.with("TM", tile.rows).with("TN", tile.columns).with("BK4", tile.k_steps()),
            Kernel::Direct(tile) => program
                .define("GEMM_DIRECT")
                .with("TM", tile.rows)
                .with("TN", tile.columns)
                .with("GX", DIRECT_THREADS)
                .with("GY", DIRECT_THREADS)
                .with("OUTPUTS", outputs(tile.columns)),
            Kernel::Cooperative(cooperative, tile) => {
                let program = tile.configure(program, cooperative);
                program.define("GEMM_COOPERATIVE").with("OUTPUTS", outputs(tile.matrices[1]))
            }
        }
    }
}
