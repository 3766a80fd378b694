//! `gather_rows`: an embedding lookup.

use super::tensor::Elements;
use crate::error::{Error, Result};
use crate::tensor::{DType, widen};

/// `out[i] = table[ids[i]]` for rows of `width`; only the rows that are asked for are widened.
pub(super) fn gather_rows(table: &Elements, rows: usize, width: usize, ids: &[u32], out: &mut [f32]) -> Result<()> {
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
