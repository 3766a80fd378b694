//! `gather_rows`: an embedding lookup, one CTA per row.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::convert::type_number;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR, vector};
use crate::backend::{DeviceTensor, DeviceWeight, GatherRowsArgs, GatherRowsOp};
use crate::error::Result;
use crate::tensor::{DType, Weight};

/// Threads of a CTA.
const THREADS: usize = 128;

fn program(dtype: DType, vector: usize) -> Program {
    Program::new("gather_rows", kernel!("gather_rows.cu")).with("TYPE", type_number(dtype)).with("VECTOR", vector)
}

/// A table in the type that it is stored in.
#[derive(Debug)]
pub struct CudaTable {
    tensor: CudaTensor,
}

impl DeviceWeight<2> for CudaTable {
    fn dims(&self) -> [usize; 2] {
        self.tensor.dims()
    }
}

impl GatherRowsOp for Cuda {
    type Table = CudaTable;

    async fn run_upload_table(&self, table: &Weight<'_>) -> Result<CudaTable> {
        Ok(CudaTable { tensor: self.gpu.upload_table("upload_table", table).await? })
    }

    fn run_gather_rows(&self, args: GatherRowsArgs<'_, CudaTensor, CudaTable>, shape: &[usize]) -> Result<CudaTensor> {
        let op = "gather_rows";
        let gpu = &self.gpu;
        let GatherRowsArgs { table: CudaTable { tensor: table }, ids } = args;
        let [rows, width] = table.dims();
        let program = program(table.dtype(), vector(width));
        let out = gpu.output(op, shape, DType::Bf16)?;
        let args = [Arg::Read(table), Arg::Read(ids), Arg::Write(&out), Arg::U32(rows), Arg::U32(width)];
        gpu.launch(&program, op, Grid::linear(ids.len(), THREADS), &args)?;
        Ok(out)
    }
}

/// Programs for every type, with and without vectors.
pub(crate) fn programs() -> Vec<Program> {
    let dtypes = [DType::F32, DType::Bf16, DType::F16];
    [1, VECTOR].into_iter().flat_map(|vector| dtypes.map(|dtype| program(dtype, vector))).collect()
}
