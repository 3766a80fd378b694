//! `gather_rows`: an embedding lookup, one CTA per row.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::convert::type_number;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::matrix::quantized::{self, QuantizedRows};
use crate::backend::cuda::memory::arena::Home;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR, vector};
use crate::backend::{DeviceTensor, DeviceWeight, GatherRowsArgs, GatherRowsOp};
use crate::error::Result;
use crate::tensor::{DType, Weight};

/// Threads of a CTA.
const THREADS: usize = 128;

fn program(dtype: DType, vector: usize) -> Program {
    Program::new("gather_rows", kernel!("gather_rows.cu")).with("TYPE", type_number(dtype)).with("VECTOR", vector)
}

fn quantized_program() -> Program {
    Program::new("gather_rows", kernel!("gather_quantized.cu"))
}

/// A table as it is stored.
#[derive(Debug)]
pub struct CudaTable(Table);

#[derive(Debug)]
enum Table {
    /// `[rows, width]` of a floating type.
    Dense(CudaTensor),
    Quantized(QuantizedRows),
}

impl DeviceWeight<2> for CudaTable {
    fn dims(&self) -> [usize; 2] {
        match &self.0 {
            Table::Dense(table) => table.dims(),
            Table::Quantized(table) => table.dims(),
        }
    }
}

impl GatherRowsOp for Cuda {
    type Table = CudaTable;

    async fn run_upload_table(&self, table: &Weight<'_>) -> Result<CudaTable> {
        let (gpu, op) = (&self.gpu, "upload_table");
        Ok(CudaTable(if QuantizedRows::supports(table) {
            let home = Home::of_table(table);
            Table::Quantized(QuantizedRows::upload(gpu, op, std::slice::from_ref(table), home).await?)
        } else {
            Table::Dense(gpu.upload_table(op, table).await?)
        }))
    }

    fn run_gather_rows(&self, args: GatherRowsArgs<'_, CudaTensor, CudaTable>, shape: &[usize]) -> Result<CudaTensor> {
        let op = "gather_rows";
        let gpu = &self.gpu;
        let GatherRowsArgs { table, ids } = args;
        let [rows, width] = table.dims();
        let grid = Grid::linear(ids.len(), THREADS);
        let out = gpu.output(op, shape, DType::Bf16)?;
        let others = [Arg::Read(ids), Arg::Write(&out), Arg::U32(rows), Arg::U32(width)];
        match &table.0 {
            Table::Dense(table) => {
                let args = [&[Arg::Read(table)], &others[..]].concat();
                gpu.launch(&program(table.dtype(), vector(width)), op, grid, &args)?;
            }
            Table::Quantized(table) => {
                let args = [&table.args()[..], &others].concat();
                gpu.launch(&table.specialized(quantized_program()), "gather_quantized", grid, &args)?;
            }
        }
        Ok(out)
    }
}

/// Programs for every type and quantised format, with and without vectors.
pub(crate) fn programs() -> Vec<Program> {
    let dtypes = [DType::F32, DType::Bf16, DType::F16];
    let dense = [1, VECTOR].into_iter().flat_map(|vector| dtypes.map(|dtype| program(dtype, vector)));
    dense.chain(quantized::specialized_for_all(&quantized_program())).collect()
}
