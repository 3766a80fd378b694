//! `pad_rows`: the pad token in the rows past each item's length, one CTA per row.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR, vector};
use crate::backend::{PadRowsArgs, PadRowsOp};
use crate::error::Result;

/// Threads of a CTA.
const THREADS: usize = 128;

fn program(vector: usize) -> Program {
    Program::new("pad_rows", kernel!("pad_rows.cu")).with("VECTOR", vector)
}

impl PadRowsOp for Cuda {
    fn run_pad_rows(&self, args: PadRowsArgs<'_, CudaTensor>, shape: [usize; 3]) -> Result<()> {
        let op = "pad_rows";
        let gpu = &self.gpu;
        let PadRowsArgs { x, token, lengths } = args;
        let token = gpu.float(token)?;
        let [items, tokens, width] = shape;
        let args = [Arg::Write(x), Arg::Read(&token), Arg::Read(lengths), Arg::U32(tokens), Arg::U32(width)];
        gpu.launch(&program(vector(width)), op, Grid::linear(items * tokens, THREADS), &args)
    }
}

/// Programs with and without vectors.
pub(crate) fn programs() -> Vec<Program> {
    [1, VECTOR].map(program).to_vec()
}
