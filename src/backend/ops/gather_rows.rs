//! `gather_rows`: an embedding lookup.

use super::{DeviceTensor, Result, Runtime, check};
use crate::tensor::Weight;

/// The arguments of [`GatherRowsOp::gather_rows`].
#[derive(Debug)]
pub struct GatherRowsArgs<'a, T> {
    /// `[V, D]`, as stored.
    pub table: &'a T,
    /// U32 `[…]`.
    pub ids: &'a T,
}

impl<T: DeviceTensor> GatherRowsArgs<'_, T> {
    /// Checks the arguments; returns the output's shape `[…, D]`.
    pub fn check(&self) -> Result<Vec<usize>> {
        let op = "gather_rows";
        let [_, width] = check::floats(op, "the table", self.table)?;
        check::not_empty(op, "the ids", self.ids.shape())?;
        check::typed(op, "the ids", self.ids.dtype(), crate::tensor::DType::U32)?;
        Ok([self.ids.shape(), &[width]].concat())
    }
}

/// Embedding lookups.
pub trait GatherRowsOp: Runtime {
    /// Uploads a floating table `[V, D]` in its stored type.
    fn upload_table(&self, table: &Weight<'_>) -> impl Future<Output = Result<Self::Tensor>> {
        async move {
            check::matrix("upload_table", "the table", table)?;
            self.run_upload_table(table).await
        }
    }

    /// `out[i] = table[ids[i]]`. `table` `[V, D]` as stored, `ids` U32 `[…]`; returns `[…, D]`.
    fn gather_rows(&self, table: &Self::Tensor, ids: &Self::Tensor) -> Result<Self::Tensor> {
        let args = GatherRowsArgs { table, ids };
        let shape = args.check()?;
        self.run_gather_rows(args, &shape)
    }

    /// Runs [`GatherRowsOp::upload_table`] on a checked table.
    fn run_upload_table(&self, table: &Weight<'_>) -> impl Future<Output = Result<Self::Tensor>>;

    /// Runs [`GatherRowsOp::gather_rows`] on checked arguments.
    fn run_gather_rows(&self, args: GatherRowsArgs<'_, Self::Tensor>, shape: &[usize]) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{f32s, gives, rejects, u32s};
    use super::*;

    #[test]
    fn ids_and_table_must_be_of_their_types() {
        let check = |table, ids| GatherRowsArgs { table: &table, ids: &ids }.check();
        gives(check(f32s(&[9, 4]), u32s(&[2, 3])), [2, 3, 4]);
        rejects(check(f32s(&[9]), u32s(&[2])), "gather_rows", &["the table", "[9]"]);
        rejects(check(u32s(&[9, 4]), u32s(&[2])), "gather_rows", &["the table must be of a floating type, not U32"]);
        rejects(check(f32s(&[9, 4]), u32s(&[2, 0])), "gather_rows", &["the ids must not be empty", "[2, 0]"]);
        rejects(check(f32s(&[9, 4]), f32s(&[2])), "gather_rows", &["the ids must be U32, not F32"]);
    }
}
