//! `gather_rows`: an embedding lookup.

use super::matrix::StoredRows;
use super::{Cpu, CpuTensor};
use crate::backend::{DeviceWeight, GatherRowsArgs, GatherRowsOp};
use crate::error::{Error, Result};
use crate::tensor::Weight;

/// A table as it is stored.
#[derive(Debug, Clone)]
pub struct CpuTable {
    rows: StoredRows,
    dims: [usize; 2],
}

impl DeviceWeight<2> for CpuTable {
    fn dims(&self) -> [usize; 2] {
        self.dims
    }
}

impl GatherRowsOp for Cpu {
    type Table = CpuTable;

    async fn run_upload_table(&self, table: &Weight<'_>) -> Result<CpuTable> {
        Ok(CpuTable { rows: StoredRows::upload(table).await?, dims: [0, 1].map(|dim| table.shape()[dim]) })
    }

    fn run_gather_rows(&self, args: GatherRowsArgs<'_, CpuTensor, CpuTable>, shape: &[usize]) -> Result<CpuTensor> {
        let table = args.table.clone();
        self.fill(shape, [args.ids], move |[ids], out| gather_rows(&table, &ids.u32(), out))
    }
}

/// `out[i] = table[ids[i]]`; only these rows are widened.
fn gather_rows(table: &CpuTable, ids: &[u32], out: &mut [f32]) -> Result<()> {
    let [rows, width] = table.dims;
    for (&id, out) in ids.iter().zip(out.chunks_exact_mut(width)) {
        let row = id as usize;
        if row >= rows {
            return Err(Error::shape("gather_rows", format!("id {id} is past the table's {rows} rows")));
        }
        table.rows.widen(row, width, out);
    }
    Ok(())
}
