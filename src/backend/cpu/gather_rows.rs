//! `gather_rows`: an embedding lookup.

use super::tensor::Elements;
use super::{Cpu, CpuTensor};
use crate::backend::{DeviceTensor, GatherRowsArgs, GatherRowsOp};
use crate::error::{Error, Result};
use crate::tensor::{DType, Weight, widen};

impl GatherRowsOp for Cpu {
    async fn run_upload_table(&self, table: &Weight<'_>) -> Result<CpuTensor> {
        Ok(CpuTensor::stored(&table.whole().await?))
    }

    fn run_gather_rows(&self, args: GatherRowsArgs<'_, CpuTensor>, shape: &[usize]) -> Result<CpuTensor> {
        let [rows, width] = [0, 1].map(|dim| args.table.shape()[dim]);
        self.fill(shape, [args.table, args.ids], move |[table, ids], out| {
            gather_rows(table, rows, width, &ids.u32(), out)
        })
    }
}

/// `out[i] = table[ids[i]]` for rows of `width`; only these rows are widened.
fn gather_rows(table: &Elements, rows: usize, width: usize, ids: &[u32], out: &mut [f32]) -> Result<()> {
    for (&id, out) in ids.iter().zip(out.chunks_exact_mut(width)) {
        let row = id as usize;
        if row >= rows {
            return Err(Error::shape("gather_rows", format!("id {id} is past the table's {rows} rows")));
        }
        match table {
            Elements::Stored(dtype, bytes) if *dtype != DType::U32 => {
                let stride = width * dtype.size();
                widen(*dtype, &bytes[row * stride..(row + 1) * stride], out);
            }
            _ => out.copy_from_slice(&table.f32()?[row * width..(row + 1) * width]),
        }
    }
    Ok(())
}
