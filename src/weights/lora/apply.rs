//! The changes of one weight, computed and added in F32, in chunks of rows on all threads.
//!
//! With the strength s, the scale a, and the magnitudes m of DoRA:
//!
//! ```text
//! W′ = W + s·a·ΔW
//! W′ = W + s·(m / ‖V‖ · V − W),   V = W + a·ΔW
//! ```
//!
//! ‖V‖ is the norm of each row if m is `[rows, 1]`, as in PEFT and in LyCORIS by default, or of
//! each column if m is `[1, columns]`, as in older files of LyCORIS. The strength interpolates, as
//! in ComfyUI and in `apply_dora_scale` of LyCORIS. (ComfyUI divides rows by the norms of W, not of
//! V; PEFT and LyCORIS, which train such files, do not.)

use super::delta::{Delta, OpenDelta};
use super::matrix::{Matrix, Size};
use crate::error::Result;
use crate::reserve;
use crate::tensor::{DType, HostTensor, widen};
use bytes::Bytes;

/// Elements of a chunk of rows: 2 MB, which the caches of one core hold.
const CHUNK: usize = 1 << 19;

/// The part of a difference that changes one weight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) delta: &'a Delta,
    /// The row of the difference that is the weight's first.
    pub(super) first: usize,
    /// The scale of the file.
    pub(super) scale: f32,
    pub(super) strength: f32,
    pub(super) magnitude: Option<&'a Matrix>,
}

/// The elements of a tensor that Bytes can own.
struct Values(Vec<f32>);

impl AsRef<[u8]> for Values {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// The weight with all `parts` added in their order, as F32. `size` is its shape as a matrix.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub(super) fn changed(tensor: &HostTensor, size: Size, parts: &[Part<'_>]) -> Result<HostTensor> {
    let mut values = reserve::zeros(tensor.len(), &format!("a tensor of {:?}", tensor.shape()))?;
    let (dtype, bytes) = (tensor.dtype(), tensor.bytes());
    let columns = size.1;
    let rows = (CHUNK / columns.max(1)).max(1);
    for (i, part) in parts.iter().enumerate() {
        let delta = part.delta.open()?;
        let read = |first: usize, out: &mut [f32]| {
            if i == 0 {
                let start = first * columns * dtype.size();
                widen(dtype, &bytes[start..start + out.len() * dtype.size()], out);
            }
        };
        match part.magnitude {
            None => chunks(&mut values, rows * columns, |chunk, out| {
                read(chunk * rows, out);
                delta.add(part.first + chunk * rows, out, columns, part.scale * part.strength)
            })?,
            Some(magnitude) => {
                chunks(&mut values, rows * columns, |chunk, out| {
                    read(chunk * rows, out);
                    Ok(())
                })?;
                decompose(&mut values, rows, columns, part, &delta, magnitude)?;
            }
        }
    }
    let bytes = Bytes::from_owner(Values(values));
    Ok(HostTensor::new(DType::F32, tensor.shape(), bytes).expect("one value was computed for each element"))
}

/// Adds a part whose rows or columns have given norms.
fn decompose(
    values: &mut [f32],
    rows: usize,
    columns: usize,
    part: &Part<'_>,
    delta: &OpenDelta<'_>,
    magnitude: &Matrix,
) -> Result<()> {
    let of_rows = magnitude.size.1 == 1;
    // V of a chunk.
    let directed = |chunk: usize, weight: &[f32]| {
        let mut directed = reserve::copied(weight, "a LoRA")?;
        delta.add(part.first + chunk * rows, &mut directed, columns, part.scale)?;
        Ok(directed)
    };
    let mut column_factors = Vec::new();
    if !of_rows {
        let count = values.len().div_ceil(rows * columns);
        let mut sums: Vec<f64> = reserve::zeros(count * columns, "a LoRA")?;
        let weight = &*values;
        chunks(&mut sums, columns, |chunk, sums| {
            let start = chunk * rows * columns;
            let directed = directed(chunk, &weight[start..weight.len().min(start + rows * columns)])?;
            for row in directed.chunks_exact(columns) {
                sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value) * f64::from(value));
            }
            Ok(())
        })?;
        column_factors = reserve::zeros(columns, "a LoRA")?;
        magnitude.read(0, &mut column_factors);
        for (column, factor) in column_factors.iter_mut().enumerate() {
            *factor /= norm(sums.iter().skip(column).step_by(columns).sum());
        }
    }
    chunks(values, rows * columns, |chunk, weight| {
        let directed = directed(chunk, weight)?;
        let pairs = weight.chunks_exact_mut(columns).zip(directed.chunks_exact(columns));
        for ((weight, directed), row) in pairs.zip(part.first + chunk * rows..) {
            let add = |(weight, (directed, factor)): (&mut f32, (&f32, f32))| {
                *weight += part.strength * (directed * factor - *weight);
            };
            if of_rows {
                let mut magnitude_of_row = [0.0];
                magnitude.read(row, &mut magnitude_of_row);
                let squares = directed.iter().map(|&value| f64::from(value) * f64::from(value));
                let factor = magnitude_of_row[0] / norm(squares.sum());
                weight.iter_mut().zip(directed.iter().zip(std::iter::repeat(factor))).for_each(add);
            } else {
                weight.iter_mut().zip(directed.iter().zip(column_factors.iter().copied())).for_each(add);
            }
        }
        Ok(())
    })
}

/// A norm that can be a divisor: LyCORIS and ComfyUI add the same epsilon.
fn norm(squares: f64) -> f32 {
    squares.sqrt() as f32 + f32::EPSILON
}

/// Calls `f` with the index of each chunk of `size` values and the chunk, on all threads.
fn chunks<T: Send>(
    values: &mut [T],
    size: usize,
    f: impl Fn(usize, &mut [T]) -> Result<()> + Send + Sync,
) -> Result<()> {
    #[cfg(not(target_family = "wasm"))]
    {
        use rayon::prelude::*;
        values.par_chunks_mut(size.max(1)).enumerate().try_for_each(|(chunk, values)| f(chunk, values))
    }
    #[cfg(target_family = "wasm")]
    {
        values.chunks_mut(size.max(1)).enumerate().try_for_each(|(chunk, values)| f(chunk, values))
    }
}
