//! Functions that vectorised loops inline.
//!
//! The compiler vectorises a loop for the instructions that every CPU of its target has. Functions
//! with the attribute `multiversion` are compiled for newer ones as well, and select at run time.
//! The values are the same with any of them: each element has the same operations, and sums have
//! fixed lanes.

use std::f32::consts::LOG2_E;

/// Partial sums, which one instruction adds.
const LANES: usize = 32;

/// Σ f(x), in [`LANES`] partial sums, which also keeps the rounding of long rows small.
#[inline(always)]
pub(super) fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane += f(x));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, &x)| *lane += f(x));
    lanes.iter().sum()
}

/// The largest value, ignoring NaN; −∞ for no values.
#[inline(always)]
pub(super) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let larger = |lane: &mut f32, x: f32| *lane = if x > *lane { x } else { *lane };
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| larger(lane, x));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, &x)| larger(lane, x));
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// eˣ within 2 ulp, without branches or calls, so that loops over it are vectorised.
///
/// x = n·ln 2 + r with an integer n and |r| ≤ ln 2 / 2, so eˣ = 2ⁿ·eʳ; eʳ is its Taylor series up
/// to r⁷ / 7!, whose rest is below 2⁻²⁷.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it rounds a small number to an integer, in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 as a number of few digits, whose multiples are exact, and the rest.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // Beyond these eˣ is infinite, and below the smallest subnormal.
    let clamped = if x > 89.0 { 89.0 } else { x };
    let clamped = if clamped < -104.0 { -104.0 } else { clamped };
    let rounded = clamped * LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * LN_2[0] - n * LN_2[1];
    let series = 1.0 / 5040.0;
    let series = series * r + 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = (series * r + 1.0) * r + 1.0;
    // 2ⁿ as two factors: n may be beyond the exponents of F32. A NaN gives any two, and stays one.
    let n = rounded.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    series * power(n >> 1) * power(n.wrapping_sub(n >> 1))
}

/// `a / (1 + e⁻ᵃ)`.
#[inline(always)]
pub(super) fn silu(a: f32) -> f32 {
    a / (1.0 + exp(-a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use multiversion::multiversion;

    #[multiversion(targets = "simd")]
    fn exp_of_each(values: &mut [f32]) {
        values.iter_mut().for_each(|x| *x = exp(*x));
    }

    #[multiversion(targets = "simd")]
    fn sum_and_max(values: &[f32]) -> (f32, f32) {
        (sum(values, |x| 2.0 * x), max(values))
    }

    /// The distance of neighbouring F32 values at `x`.
    fn ulp(x: f64) -> f64 {
        let x = (x as f32).abs().max(f32::MIN_POSITIVE);
        f64::from(f32::from_bits(x.to_bits() + 1)) - f64::from(x)
    }

    #[test]
    fn exponentials_are_within_two_ulp() {
        let mut inputs: Vec<f32> = (-1_050_000..=900_000).map(|i| i as f32 * 1e-4).collect();
        inputs.extend((-2000..2000).map(|i| i as f32 * 1e-9));
        let mut found = inputs.clone();
        exp_of_each(&mut found);
        let mut worst = 0.0f64;
        for (&x, &found) in inputs.iter().zip(&found) {
            assert_eq!(found.to_bits(), exp(x).to_bits(), "vectors and single values at {x}");
            let expected = f64::from(x).exp();
            if (expected as f32).is_infinite() {
                assert_eq!(found, f32::INFINITY, "{x}");
                continue;
            }
            worst = worst.max((f64::from(found) - expected).abs() / ulp(expected));
        }
        assert!(worst <= 2.0, "{worst} ulp");
        assert_eq!((exp(0.0), exp(f32::NEG_INFINITY), exp(f32::INFINITY)), (1.0, 0.0, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan() && silu(f32::NAN).is_nan());
        assert_eq!((silu(-200.0), silu(f32::MAX)), (0.0, f32::MAX));
    }

    #[test]
    fn sums_and_maxima_take_every_value() {
        for len in [0, 1, 31, 32, 33, 100] {
            let values: Vec<f32> = (0..len).map(|i| (i * 7 % 13) as f32 - 6.0).collect();
            let (doubled, largest) = sum_and_max(&values);
            assert_eq!(doubled, 2.0 * values.iter().sum::<f32>());
            assert_eq!(largest, values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
