//! Rows of device tables: the modulation row of an item, and the table row of a step.

use super::CpuTensor;
use super::tensor::Elements;
use crate::backend::{DeviceTensor, Modulation};
use crate::error::{Error, Result};
use crate::reserve::with_room;

/// The position of a modulation row, without its table.
#[derive(Clone, Copy)]
pub(super) struct ModulationRow {
    shared: bool,
    rows: usize,
    row: usize,
}

impl ModulationRow {
    pub(super) fn new(modulation: Modulation<'_, CpuTensor>) -> Self {
        let [items, rows] = [0, 1].map(|dim| modulation.table.shape()[dim]);
        Self { shared: items == 1, rows, row: modulation.row }
    }

    /// The rows of `width` of all items in the elements of their table, each value through `f`.
    pub(super) fn mapped(self, table: &[f32], width: usize, f: impl Fn(f32) -> f32) -> Result<ItemRows> {
        let items = table.chunks_exact(self.rows * width);
        let mut rows = with_room(items.len() * width, "a modulation row")?;
        rows.extend(items.flat_map(|item| &item[self.row * width..][..width]).map(|&value| f(value)));
        Ok(ItemRows { rows, width, shared: self.shared })
    }

    /// The row in the elements of its table.
    pub(super) fn of(self, table: &[f32]) -> Rows<'_> {
        Rows { table, at: self }
    }
}

/// A row of its own for every item, or one for all.
pub(super) struct ItemRows {
    rows: Vec<f32>,
    width: usize,
    shared: bool,
}

impl ItemRows {
    /// The values for batch item `item`.
    pub(super) fn item(&self, item: usize) -> &[f32] {
        let r = if self.shared { 0 } else { item };
        &self.rows[r * self.width..][..self.width]
    }
}

/// A modulation row of every item.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    table: &'a [f32],
    at: ModulationRow,
}

impl<'a> Rows<'a> {
    /// The `width` values for batch item `item`.
    pub(super) fn item(&self, item: usize, width: usize) -> &'a [f32] {
        let r = if self.at.shared { 0 } else { item };
        &self.table[(r * self.at.rows + self.at.row) * width..][..width]
    }
}

/// Row `step` of a table with rows of `width`.
pub(super) fn table_row<'a>(op: &'static str, table: &'a [f32], width: usize, step: &Elements) -> Result<&'a [f32]> {
    let step = step.u32().first().copied().unwrap_or(u32::MAX) as usize;
    table
        .chunks_exact(width)
        .nth(step)
        .ok_or_else(|| Error::shape(op, format!("step {step} is past the table's {} rows", table.len() / width)))
}

/// An optional input of an op. The op's closure takes a fixed number of tensors, so `fallback`
/// replaces an absent one.
pub(super) fn or<'a>(tensor: Option<&'a CpuTensor>, fallback: &'a CpuTensor) -> &'a CpuTensor {
    tensor.unwrap_or(fallback)
}
