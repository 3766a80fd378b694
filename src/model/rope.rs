//! Rotary position embeddings as tables of (cos, sin), F32 `[…, dim/2, 2]`, for
//! `Backend::qk_norm_rope`.

use std::collections::HashMap;

/// A table for positions on several axes, side by side in a head. Axis `a` rotates `dims[a]`
/// elements by the angles `pos·θ^(−2k/dims[a])`, computed in f64 and stored in f32 as in the
/// reference.
#[derive(Debug)]
pub(super) struct AxesTable {
    dims: [usize; 3],
    theta: f64,
    /// The rotations of each axis by position, computed once: a picture has few rows and columns.
    turns: [HashMap<usize, Vec<f32>>; 3],
    table: Vec<f32>,
}

impl AxesTable {
    /// An empty table.
    pub(super) fn new(dims: [usize; 3], theta: f64) -> Self {
        Self { dims, theta, turns: Default::default(), table: Vec::new() }
    }

    /// Appends the row of a position.
    pub(super) fn push(&mut self, position: [usize; 3]) {
        let Self { dims, theta, turns, table } = self;
        for ((position, dim), turns) in position.into_iter().zip(*dims).zip(turns) {
            let turns = turns.entry(position).or_insert_with(|| {
                let angle = |k: usize| {
                    let frequency = 1.0 / theta.powf((2 * k) as f64 / dim as f64);
                    (position as f64 * frequency) as f32
                };
                (0..dim / 2).map(angle).flat_map(|angle| [angle.cos(), angle.sin()]).collect()
            });
            table.extend_from_slice(turns);
        }
    }

    /// The rows since the last call.
    pub(super) fn take(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.table)
    }
}

/// The table of `tokens` positions 0, 1, … on one axis, in f32 throughout as in Qwen3.
pub(super) fn sequence(tokens: usize, dim: usize, theta: f32) -> Vec<f32> {
    let frequencies: Vec<f32> = (0..dim / 2).map(|k| 1.0 / theta.powf((2 * k) as f32 / dim as f32)).collect();
    let angles = (0..tokens).flat_map(|t| frequencies.iter().map(move |f| t as f32 * f));
    angles.flat_map(|angle| [angle.cos(), angle.sin()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_pair_rotates_by_the_position() {
        let mut axes = AxesTable::new([4, 2, 2], 256.0);
        axes.push([3, 0, 7]);
        axes.push([3, 0, 7]);
        let rows = axes.take();
        let (table, again) = rows.split_at(8);
        assert_eq!(table, again);
        // Not bit-identical: the compiler folds a constant cosine more exactly than the library
        // computes it.
        let angles = [3.0, 3.0 / 16.0, 0.0, 7.0f32];
        let expected: Vec<f32> = angles.iter().flat_map(|angle| [angle.cos(), angle.sin()]).collect();
        let apart = table.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-7, "{table:?} is not {expected:?}");
    }

    #[test]
    fn a_sequence_starts_unrotated() {
        let table = sequence(2, 4, 100.0);
        assert_eq!(&table[..4], [1.0, 0.0, 1.0, 0.0]);
        assert!((table[4] - 1f32.cos()).abs() < 1e-7 && (table[5] - 1f32.sin()).abs() < 1e-7);
        assert!((table[6] - 0.1f32.cos()).abs() < 1e-7);
    }
}
