//! The changes of one weight, computed and added in F32 to a few rows at a time.
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
use super::matrix::{Matrix, Size, in_chunks};
use crate::error::{Error, Result};
use crate::reserve;
use crate::tensor::{HostTensor, RowChange, Weight, widen};
use std::slice::from_ref;

/// Elements of the rows whose squares are summed at once: 2 MB, which the caches of one core hold.
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

/// A part whose small matrices are in memory.
struct OpenPart<'a> {
    delta: OpenDelta<'a>,
    first: usize,
    scale: f32,
    strength: f32,
    norms: Option<Norms<'a>>,
}

/// The norms that DoRA gives to V.
enum Norms<'a> {
    /// One a row of the difference.
    Rows(&'a Matrix),
    /// The factor of each column: its norm over that of V's column.
    Columns(Vec<f32>),
}

/// All changes of one weight in their order.
pub(super) struct Changes<'a> {
    columns: usize,
    parts: Vec<OpenPart<'a>>,
    /// The error for values that add up to infinity.
    infinite: Box<dyn Fn() -> Error + Send + Sync + 'a>,
}

impl<'a> Changes<'a> {
    /// Prepares the changes of `weight`, a matrix of `size`. Norms of columns are those of all its
    /// rows, which are read for them.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; read errors.
    pub(super) async fn open(
        weight: &Weight<'_>,
        (_, columns): Size,
        parts: impl IntoIterator<Item = Part<'a>>,
        infinite: impl Fn() -> Error + Send + Sync + 'a,
    ) -> Result<Self> {
        let mut changes = Self { columns, parts: Vec::new(), infinite: Box::new(infinite) };
        for Part { delta, first, scale, strength, magnitude } in parts {
            let mut part = OpenPart { delta: delta.open()?, first, scale, strength, norms: None };
            part.norms = match magnitude {
                Some(magnitude) if magnitude.size.1 == 1 => Some(Norms::Rows(magnitude)),
                Some(magnitude) => Some(Norms::Columns(changes.column_factors(weight, &part, magnitude).await?)),
                None => None,
            };
            changes.parts.push(part);
        }
        Ok(changes)
    }

    /// The factors of V's columns for the next part, `part`.
    async fn column_factors(&self, weight: &Weight<'_>, part: &OpenPart<'_>, magnitude: &Matrix) -> Result<Vec<f32>> {
        let columns = self.columns;
        let rows = (CHUNK / columns.max(1)).max(1);
        let mut sums: Vec<f64> = reserve::zeros(columns, "a LoRA")?;
        let add = |first: usize, piece: HostTensor| {
            let chunks = piece.len().div_ceil(rows * columns);
            let mut sums_of_chunks = reserve::zeros(chunks * columns, "a LoRA")?;
            in_chunks(&mut sums_of_chunks, columns, |chunk, sums| {
                let elements = chunk * rows * columns..piece.len().min((chunk + 1) * rows * columns);
                let mut values = reserve::zeros(elements.len(), "a LoRA")?;
                let size = piece.dtype().size();
                widen(piece.dtype(), &piece.bytes()[elements.start * size..elements.end * size], &mut values);
                let first = first + chunk * rows;
                self.parts.iter().try_for_each(|part| part.apply(first, &mut values, columns))?;
                part.delta.add(part.first + first, &mut values, columns, part.scale)?;
                for row in values.chunks_exact(columns) {
                    sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value) * f64::from(value));
                }
                Ok(())
            })?;
            for chunk in sums_of_chunks.chunks_exact(columns) {
                sums.iter_mut().zip(chunk).for_each(|(sum, chunk)| *sum += chunk);
            }
            Ok(())
        };
        Weight::each_piece(from_ref(weight), add).await?;
        let mut factors = reserve::zeros(columns, "a LoRA")?;
        magnitude.read(0, &mut factors);
        factors.iter_mut().zip(sums).for_each(|(factor, sum)| *factor /= norm(sum));
        Ok(factors)
    }
}

impl RowChange for Changes<'_> {
    fn apply(&self, first: usize, rows: &mut [f32]) -> Result<()> {
        let was_finite = is_finite(rows);
        self.parts.iter().try_for_each(|part| part.apply(first, rows, self.columns))?;
        // Rows that were not finite before are the model's fault, which its own check names.
        if was_finite && !is_finite(rows) { Err((self.infinite)()) } else { Ok(()) }
    }
}

impl OpenPart<'_> {
    /// Changes whole rows of the weight, from row `first` on.
    fn apply(&self, first: usize, rows: &mut [f32], columns: usize) -> Result<()> {
        let first = self.first + first;
        let Some(norms) = &self.norms else {
            return self.delta.add(first, rows, columns, self.scale * self.strength);
        };
        let mut directed = reserve::copied(rows, "a LoRA")?;
        self.delta.add(first, &mut directed, columns, self.scale)?;
        let pairs = rows.chunks_exact_mut(columns).zip(directed.chunks_exact(columns));
        for ((weight, directed), row) in pairs.zip(first..) {
            let add = |(weight, (directed, factor)): (&mut f32, (&f32, f32))| {
                *weight += self.strength * (directed * factor - *weight);
            };
            match norms {
                Norms::Rows(magnitude) => {
                    let mut magnitude_of_row = [0.0];
                    magnitude.read(row, &mut magnitude_of_row);
                    let squares = directed.iter().map(|&value| f64::from(value) * f64::from(value));
                    let factor = magnitude_of_row[0] / norm(squares.sum());
                    weight.iter_mut().zip(directed.iter().zip(std::iter::repeat(factor))).for_each(add);
                }
                Norms::Columns(factors) => {
                    weight.iter_mut().zip(directed.iter().zip(factors.iter().copied())).for_each(add);
                }
            }
        }
        Ok(())
    }
}

/// True if no value is infinite or NaN. It looks at all of them, as a loop without an exit is
/// vectorised.
fn is_finite(values: &[f32]) -> bool {
    values.iter().fold(true, |finite, value| finite & value.is_finite())
}

/// A norm that can be a divisor: LyCORIS and ComfyUI add the same epsilon.
fn norm(squares: f64) -> f32 {
    squares.sqrt() as f32 + f32::EPSILON
}
