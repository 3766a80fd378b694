//! Launches the gemv kernel, `kernels/gemm/gemv.cuh`, for products with few rows.

use crate::backend::cuda::driver::program::{File, Program};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::kernel::Grid;
use crate::error::Result;

/// The most rows of a CTA; gemms of more rows are tiled.
pub(crate) const MAX_ROWS: usize = 8;
/// Output columns of a CTA.
const COLUMNS: usize = 8;
/// Threads of a CTA.
const THREADS: usize = 128;

/// One product `[m, k]·[n, k]ᵀ` with an op's epilogue.
pub(crate) struct Gemv<'a> {
    pub op: &'static str,
    pub file: File,
    /// The name of the kernel.
    pub entry: &'static str,
    pub constants: &'a [(&'static str, usize)],
    pub m: usize,
    pub n: usize,
    /// Bytes of shared memory of a CTA.
    pub shared: usize,
    pub args: &'a [Arg<'a>],
}

impl Gemv<'_> {
    /// Launches it.
    pub(crate) fn launch(self, gpu: &Gpu) -> Result<()> {
        let rows = self.m.next_power_of_two().min(MAX_ROWS);
        let ctas = [self.n.div_ceil(COLUMNS), self.m.div_ceil(rows), 1];
        let grid = Grid { ctas, threads: THREADS, shared: self.shared };
        gpu.launch(&program(self.op, self.file, rows, self.constants), self.entry, grid, self.args)
    }
}

fn program(op: &'static str, file: File, rows: usize, constants: &[(&'static str, usize)]) -> Program {
    Program::new(op, file).with("ROWS", rows).with_all(constants.iter().copied())
}

/// The kernel around `file` for one row and for the most.
pub(crate) fn programs(op: &'static str, file: File, constants: &[(&'static str, usize)]) -> Vec<Program> {
    [1, MAX_ROWS].map(|rows| program(op, file, rows, constants)).to_vec()
}
