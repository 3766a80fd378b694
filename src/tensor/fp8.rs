//! FP8 operands of gemms: E4M3 codes with F32 scales beside them.
//!
//! A block of values has the scale `max |v| / 448` and the codes of `v · (448 / max |v|)`, rounded
//! to nearest, ties to even, and saturated at ±448, the largest value of E4M3. NaN stays NaN.
//!
//! The queries of a fused projection have one scale, and so have its keys. The weights of their
//! norms bound the values: [`fp8_head_bound`] takes the place of `max |v|`.

use super::format::{E4M3, E4M3_MAX, e4m3_code};
use std::fmt;

/// Columns of a row that share a scale where an op scales blocks instead of whole rows: the depth
/// of a step of the FP8 gemms, which add the sums of a step after they are scaled.
pub const FP8_BLOCK: usize = 128;
/// The widths of FP8 operands are multiples of this: rows of 16 bytes, as TMA reads them.
pub const FP8_VECTOR: usize = 16;
/// The least maximum of a block. The reciprocal of a smaller one may be infinite.
const LEAST: f32 = 1e-30;

/// The type of a gemm's operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Compute {
    /// The backend's own: [`Runtime::operands`](crate::backend::Runtime::operands).
    #[default]
    Native,
    /// E4M3 with F32 scales, one a row of the matrix, and one a row or a block of [`FP8_BLOCK`]
    /// columns of the activation.
    Fp8,
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compute::Native => "the backend's own type",
            Compute::Fp8 => "FP8",
        })
    }
}

/// The largest magnitude, without NaN.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// The largest magnitude that an element of a head can have after an RMSNorm with this weight and a
/// rotation of its pairs: `√n · max |weight|`, which bounds the norm of the head.
pub fn fp8_head_bound(weight: &[f32]) -> f32 {
    (weight.len() as f32).sqrt() * largest(weight)
}

/// Rounds the values of one block to those that its codes and its scale have.
pub(crate) fn round_block(values: &mut [f32]) {
    round_within(values, largest(values));
}

/// Rounds values of at most this magnitude to those that their codes and the scale `bound / 448`
/// have.
pub(crate) fn round_within(values: &mut [f32], bound: f32) {
    let bound = bound.max(LEAST);
    let (scale, inverse) = (bound / E4M3_MAX, E4M3_MAX / bound);
    values.iter_mut().for_each(|value| *value = E4M3[usize::from(e4m3_code(*value * inverse))] * scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_within_half_a_step() {
        let values: Vec<f32> = crate::numbers::noise(5, 256).iter().map(|v| v * 3e4).collect();
        let mut rounded = values.clone();
        round_block(&mut rounded);
        let largest = values.iter().fold(0f32, |largest, v| largest.max(v.abs()));
        for (&value, &found) in values.iter().zip(&rounded) {
            let step = (value.abs() / 16.0).max(largest / E4M3_MAX / 1024.0);
            assert!((value - found).abs() <= step * 1.0001, "{value} became {found}");
        }
        let mut again = rounded.clone();
        round_block(&mut again);
        let changed = crate::numbers::relative_error(&again, &rounded);
        assert!(changed < 1e-7, "rounded values change by {changed}");
    }

    #[test]
    fn normed_and_rotated_heads_are_within_their_bound() {
        // One element has the whole norm of its head, and the largest weight.
        let (mut head, mut weight) = ([0.0f32; 128], [0.5f32; 128]);
        (head[3], weight[3]) = (7.0, -1.5);
        let rms = (head.iter().map(|x| x * x).sum::<f32>() / 128.0).sqrt();
        let normed = head[3] / rms * weight[3];
        let bound = fp8_head_bound(&weight);
        assert!((normed.abs() / bound - 1.0).abs() < 1e-6, "{normed} of {bound}");
        let mut rounded = [normed, bound / 2.0];
        round_within(&mut rounded, bound);
        let near = |value: f32, share: f32| (value / bound - share).abs() < 1e-6;
        assert!(near(rounded[0], -1.0) && near(rounded[1], 0.5), "{rounded:?} of {bound}");
        assert_eq!(fp8_head_bound(&[f32::NAN, 2.0, 0.0, 1.0]), 4.0);
    }

    #[test]
    fn zeros_stay_and_non_finite_values_show() {
        let mut zeros = [0.0, -0.0];
        round_block(&mut zeros);
        assert_eq!(zeros, [0.0, 0.0]);
        let mut tiny = [1e-38, 0.0];
        round_block(&mut tiny);
        assert_eq!(tiny, [0.0, 0.0]);
        let mut one_nan = [1.0, f32::NAN, -448.0];
        round_block(&mut one_nan);
        assert!(one_nan[1].is_nan() && one_nan[0] == 1.0 && one_nan[2] == -448.0);
        let mut infinite = [1.0, f32::INFINITY];
        round_block(&mut infinite);
        assert!(infinite[1].is_nan());
    }
}
