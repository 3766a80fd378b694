//! `gather_rows`: an embedding lookup, one CTA per row.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::convert::type_number;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::{CudaTensor, vector};
use crate::backend::{DeviceTensor, GatherRowsArgs, GatherRowsOp};
use crate::error::Result;
use crate::tensor::{DType, Weight};

/// Threads of a CTA.
const THREADS: usize = 128;

fn program(type_number: usize, vector: usize) -> Program {
    Program::new("gather_rows", &[kernel!("gather_rows.cu")]).with("TYPE", type_number).with("VECTOR", vector)
}

impl GatherRowsOp for Cuda {
    async fn run_upload_table(&self, table: &Weight<'_>) -> Result<CudaTensor> {
        self.gpu.upload_table("upload_table", table).await
    }

    fn run_gather_rows(&self, args: GatherRowsArgs<'_, CudaTensor>, shape: &[usize]) -> Result<CudaTensor> {
        let op = "gather_rows";
        let gpu = &self.gpu;
        let GatherRowsArgs { table, ids } = args;
        let [rows, width] = table.dims();
        let program = program(type_number(table.dtype()), vector(width));
        let out = gpu.output(op, shape, DType::Bf16)?;
        let args = [Arg::Read(table), Arg::Read(ids), Arg::Write(&out), Arg::U32(rows), Arg::U32(width)];
        gpu.launch(&program, op, Grid::linear(ids.len(), THREADS), &args)?;
        Ok(out)
    }
}

/// Programs for every type, with and without vectors.
pub(crate) fn programs() -> Vec<Program> {
    [1, 8].into_iter().flat_map(|vector| [0, 1, 2].map(|number| program(number, vector))).collect()
}
