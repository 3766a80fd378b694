//! FP8 operands of gemms: E4M3 codes with F32 scales beside them.
//!
//! A value `v` with the scale `s` has the code of `v / s`, rounded to nearest, ties to even, and
//! saturated at ±448, the largest value of E4M3. NaN stays NaN.
//!
//! A whole row has the scale `max |v| / 448`. A block of [`FP8_BLOCK`] columns has the least power
//! of 2⁸ that is no smaller, from 2⁻⁴⁰ on, and 1 if all its values are 0. So neighbouring blocks of
//! a row mostly have the same one. A gemm keeps its sums in units of a scale and rescales them only
//! where it changes. An op may shift the powers of a row, by the same factor for all blocks.
//!
//! E4M3 is a floating format, as precise for a maximum of 2 as for one of 448. Its subnormal codes
//! are 2⁻⁹ apart, which adds 2⁻⁹ / √12 to a value over its scale. The root mean square of a block
//! is at least 1.75 / √128 of these, unless its scale is the least one. So that is 0.4 % of it at
//! worst, where rounding the significands adds 2.6 %.
//!
//! The queries of a fused projection have one scale, and so have its keys. The weights of their
//! norms bound the values: [`fp8_head_bound`] takes the place of the maximum of a row.
//!
//! The values of a fused projection have no bound that is both safe and near. Those of a head in
//! [`FP8_VALUE_TOKENS`] tokens of an item, from a multiple of it on, have the least power of two
//! with which none exceeds 448, from 2⁻⁴⁰ on. Because it is a power of two, a token changes the
//! others of its block only where their codes are subnormal.
//!
//! Attention rounds its probabilities to E4M3 in units of 2⁻⁸ of a power of two that is no less
//! than the largest of a query: [`round_probabilities`]. An implementation may find the power from
//! the keys that it has seen so far, and may choose another one for each block of values, because
//! only subnormal codes depend on it.

use super::format::{E4M3, E4M3_MAX, e4m3_code};
use std::fmt;
use std::ops::Range;

/// Columns of a row that share a scale where an op scales blocks instead of whole rows: the depth
/// of a step of the FP8 gemms.
pub const FP8_BLOCK: usize = 128;
/// The widths of FP8 operands are multiples of this: rows of 16 bytes, as TMA reads them.
pub const FP8_VECTOR: usize = 16;
/// The tokens of a head's values that share a scale.
pub const FP8_VALUE_TOKENS: usize = 64;
/// The units of a probability of 1, relative to the largest one.
const PROBABILITY_UNITS: f32 = 256.0;
/// The least maximum of a row. The reciprocal of a smaller one may be infinite.
const LEAST: f32 = 1e-30;
/// The biased exponents of the scale 1 of a block, and of the least one, 2⁻⁴⁰. In units of the
/// least one, sums of up to 2⁸⁷ are finite.
const ONE_EXPONENT: u32 = 127;
const LEAST_EXPONENT: u32 = ONE_EXPONENT - 40;

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

/// The values that share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fp8Scales {
    /// A row.
    Rows,
    /// A block of [`FP8_BLOCK`] columns.
    Blocks,
}

impl Fp8Scales {
    /// Rounds the values of a row to those that their codes and scales have.
    pub(crate) fn round(self, row: &mut [f32]) {
        match self {
            Fp8Scales::Rows => round_within(row, largest(row)),
            Fp8Scales::Blocks => row.chunks_mut(FP8_BLOCK).for_each(|block| round(block, block_scale(largest(block)))),
        }
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

/// Rounds values of at most this magnitude to those that their codes and the scale `bound / 448`
/// have.
pub(crate) fn round_within(values: &mut [f32], bound: f32) {
    let bound = bound.max(LEAST);
    round(values, [bound / E4M3_MAX, E4M3_MAX / bound]);
}

/// Rounds values to those that their codes and this scale have, which comes with its reciprocal.
fn round(values: &mut [f32], [scale, inverse]: [f32; 2]) {
    values.iter_mut().for_each(|value| *value = E4M3[usize::from(e4m3_code(*value * inverse))] * scale);
}

/// The exponent of the least power of two from the least scale on with which `largest` does not
/// exceed 448.
fn least_exponent(largest: f32) -> u32 {
    (((largest * (1.0 / E4M3_MAX)).to_bits() + 0x7f_ffff) >> 23).max(LEAST_EXPONENT)
}

/// The power of two with this exponent, and its reciprocal. Infinity has the reciprocal 0, which
/// makes NaN of it.
fn power(exponent: u32) -> [f32; 2] {
    [exponent, 254_u32.saturating_sub(exponent)].map(|exponent| f32::from_bits(exponent << 23))
}

/// The scale of a block with this maximum, and its reciprocal.
fn block_scale(largest: f32) -> [f32; 2] {
    // ONE_EXPONENT is 7 modulo 8.
    power(if largest == 0.0 { ONE_EXPONENT } else { least_exponent(largest) | 7 })
}

/// Rounds a head's values in some tokens, `[tokens, width]`, to those that their codes and their
/// one scale have. `head` are its columns of `width`.
pub(crate) fn round_values(tokens: &mut [f32], width: usize, head: Range<usize>) {
    let maximum = tokens.chunks_exact(width).map(|token| largest(&token[head.clone()])).fold(0.0, f32::max);
    let scale = power(least_exponent(maximum));
    // Infinity makes NaN of the whole block.
    let scale = if maximum == f32::INFINITY { [f32::NAN; 2] } else { scale };
    tokens.chunks_exact_mut(width).for_each(|token| round(&mut token[head.clone()], scale));
}

/// Rounds probabilities that are at most 1 to those that their codes have.
pub(crate) fn round_probabilities(values: &mut [f32]) {
    round(values, [1.0 / PROBABILITY_UNITS, PROBABILITY_UNITS]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_within_half_a_step() {
        for (scaled, width) in [(Fp8Scales::Rows, 300), (Fp8Scales::Blocks, FP8_BLOCK), (Fp8Scales::Blocks, 16)] {
            for factor in [1e-6, 1e-3, 1.0, 3e4] {
                let values: Vec<f32> = crate::numbers::noise(5, width).iter().map(|v| v * factor).collect();
                let mut rounded = values.clone();
                scaled.round(&mut rounded);
                let largest = values.iter().fold(0f32, |largest, v| largest.max(v.abs()));
                // The subnormal codes of a block's scale are coarser, by 2⁸ at most.
                let subnormal = largest / E4M3_MAX / 1024.0 * if scaled == Fp8Scales::Rows { 1.0 } else { 256.0 };
                for (&value, &found) in values.iter().zip(&rounded) {
                    let step = (value.abs() / 16.0).max(subnormal);
                    assert!((value - found).abs() <= step * 1.0001, "{scaled:?}: {value} became {found}");
                }
                let mut again = rounded.clone();
                scaled.round(&mut again);
                let changed = crate::numbers::relative_error(&again, &rounded);
                assert!(changed < 1e-7, "{scaled:?}: rounded values change by {changed}");
            }
        }
    }

    #[test]
    fn scales_of_blocks_are_powers_of_256() {
        let scale = |largest| block_scale(largest)[0];
        assert_eq!([scale(448.0), scale(1.76), scale(449.0)], [1.0, 1.0, 256.0]);
        assert_eq!([scale(1.74), scale(0.0), scale(1e-38)], [1.0 / 256.0, 1.0, 2f32.powi(-40)]);
        for largest in [1e-9_f32, 0.3, 1.75, 447.9, 1e9, f32::MAX] {
            let [scale, inverse] = block_scale(largest);
            assert_eq!((scale * inverse, scale.to_bits() >> 23 & 7), (1.0, 7), "{largest}: {scale}");
            assert!(largest * inverse <= E4M3_MAX * 1.000_001 && largest * inverse > 1.749, "{largest}: {scale}");
        }
    }

    #[test]
    fn blocks_of_a_row_have_their_own_scales() {
        let mut row = vec![1e-3; 2 * FP8_BLOCK];
        row[0] = 1e6;
        let mut whole = row.clone();
        Fp8Scales::Blocks.round(&mut row);
        assert!((row[1], row[FP8_BLOCK]) == (0.0, 0.000_976_562_5), "{row:?}");
        Fp8Scales::Rows.round(&mut whole);
        assert_eq!(whole[FP8_BLOCK], 0.0);
    }

    #[test]
    fn values_have_the_least_power_of_two() {
        // Two tokens of two heads of two.
        let mut tokens = [100.3, 448.1, 1.0, 0.0, 3.0, 0.02, 0.0, 0.0];
        round_values(&mut tokens, 4, 0..2);
        // The scale is 2, so 0.02 is subnormal: a multiple of 2⁻⁸.
        assert_eq!(tokens, [104.0, 448.0, 1.0, 0.0, 3.0, 0.019_531_25, 0.0, 0.0]);
        round_values(&mut tokens, 4, 2..4);
        assert_eq!(tokens[2..4], [1.0, 0.0]);
        for largest in [448.0_f32, 448.1, 1e-9, 0.3, 1e9, f32::MAX] {
            let [scale, inverse] = power(least_exponent(largest));
            assert_eq!((scale * inverse, scale.to_bits() & 0x7f_ffff), (1.0, 0), "{largest}: {scale}");
            assert!(largest * inverse <= E4M3_MAX * 1.000_001 && largest * inverse > 223.9, "{largest}: {scale}");
        }
        assert_eq!(power(least_exponent(0.0))[0], 2f32.powi(-40));
        let mut one_nan = [1.0, f32::NAN, -448.0];
        round_values(&mut one_nan, 3, 0..3);
        assert!(one_nan[0] == 1.0 && one_nan[1].is_nan() && one_nan[2] == -448.0);
        let mut infinite = [1.0, f32::INFINITY];
        round_values(&mut infinite, 1, 0..1);
        assert!(infinite.iter().all(|value| value.is_nan()), "{infinite:?}");
    }

    #[test]
    fn small_probabilities_keep_their_significands() {
        let rounded = |value| {
            let mut values = [value];
            round_probabilities(&mut values);
            values[0]
        };
        assert_eq!([1.0, 0.0, 0.51].map(rounded), [1.0, 0.0, 0.5]);
        for power in 0..14 {
            let unit = 2f32.powi(-power);
            assert_eq!([0.7, 0.94, 0.99].map(|value| rounded(value * unit) / unit), [0.6875, 0.9375, 1.0]);
        }
        assert_eq!(rounded(2f32.powi(-18)), 0.0);
        assert!(rounded(f32::NAN).is_nan());
    }

    #[test]
    fn normed_heads_reach_their_bound() {
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
        for scaled in [Fp8Scales::Rows, Fp8Scales::Blocks] {
            let round = |mut values: Vec<f32>| {
                scaled.round(&mut values);
                values
            };
            assert_eq!(round(vec![0.0, -0.0]), [0.0, 0.0]);
            assert_eq!(round(vec![1e-38, 0.0]), [0.0, 0.0]);
            let one_nan = round(vec![1.0, f32::NAN, -448.0]);
            assert!(one_nan[1].is_nan() && one_nan[0] == 1.0 && one_nan[2] == -448.0);
            assert!(round(vec![1.0, f32::INFINITY])[1].is_nan());
        }
    }
}
