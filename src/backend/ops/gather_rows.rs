//! `gather_rows`: an embedding lookup.

use super::{DeviceTensor, DeviceWeight, Result, Runtime, check};
use crate::tensor::{DType, Weight};

/// The arguments of [`GatherRowsOp::gather_rows`].
#[derive(Debug)]
pub struct GatherRowsArgs<'a, T, W> {
    /// `[V, D]`.
    pub table: &'a W,
    /// U32 `[…]`.
    pub ids: &'a T,
}

impl<T: DeviceTensor, W: DeviceWeight<2>> GatherRowsArgs<'_, T, W> {
    /// Checks the arguments; returns the output's shape `[…, D]`.
    pub fn check(&self) -> Result<Vec<usize>> {
        let op = "gather_rows";
        let [_, width] = self.table.dims();
        check::not_empty(op, "the ids", self.ids.shape())?;
        check::typed(op, "the ids", self.ids.dtype(), DType::U32)?;
        Ok([self.ids.shape(), &[width]].concat())
    }
}

/// Embedding lookups.
pub trait GatherRowsOp: Runtime {
    /// A table `[V, D]` on the device.
    type Table: DeviceWeight<2>;

    /// Uploads a table `[V, D]` in its stored type, floating or quantised.
    fn upload_table(&self, table: &Weight<'_>) -> impl Future<Output = Result<Self::Table>> {
        async move {
            check::matrix("upload_table", "the table", table)?;
            self.run_upload_table(table).await
        }
    }

    /// `out[i] = table[ids[i]]`. `table` `[V, D]`, `ids` U32 `[…]`; returns `[…, D]`.
    fn gather_rows(&self, table: &Self::Table, ids: &Self::Tensor) -> Result<Self::Tensor> {
        let args = GatherRowsArgs { table, ids };
        let shape = args.check()?;
        self.run_gather_rows(args, &shape)
    }

    /// Runs [`GatherRowsOp::upload_table`] on a checked table.
    fn run_upload_table(&self, table: &Weight<'_>) -> impl Future<Output = Result<Self::Table>>;

    /// Runs [`GatherRowsOp::gather_rows`] on checked arguments.
    fn run_gather_rows(
        &self,
        args: GatherRowsArgs<'_, Self::Tensor, Self::Table>,
        shape: &[usize],
    ) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Sizes, f32s, gives, rejects, u32s};
    use super::*;

    #[test]
    fn ids_must_be_of_their_type() {
        let check = |ids| GatherRowsArgs { table: &Sizes([9, 4]), ids: &ids }.check();
        gives(check(u32s(&[2, 3])), [2, 3, 4]);
        rejects(check(u32s(&[2, 0])), "gather_rows", &["the ids must not be empty", "[2, 0]"]);
        rejects(check(f32s(&[2])), "gather_rows", &["the ids must be U32, not F32"]);
    }
}
