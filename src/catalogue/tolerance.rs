//! Tolerances: the distance that two right backends may have, and its reason.
//!
//! A tolerance bounds [`relative_error`](crate::conformance::relative_error), with one figure for
//! each type that intermediate results may be rounded to. Each figure is a few times the error of a
//! right implementation: enough for another order of the sums, too little for any fault that
//! `tests/conformance.rs` plants. The same tests check the figures for coarser types with a backend
//! that rounds as far as they allow.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::tensor::DType;

/// The rounding of a comparison: the coarser of the two backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Precision {
    /// The type of activations: F32, or BF16 if either backend stores them so.
    pub activations: DType,
    /// The type that gemms round their operands to.
    pub operands: DType,
}

impl Precision {
    /// The precision of one backend.
    pub(crate) fn of<B: Backend>(b: &B) -> Result<Self> {
        let activations = b.activations();
        let operands = b.operands();
        if !matches!(activations, DType::F32 | DType::Bf16)
            || !matches!(operands, DType::F32 | DType::F16 | DType::Bf16)
        {
            let problem = format!("activations of {activations} and products of {operands} have no tolerances");
            return Err(Error::Device(format!("{}: {problem}: Z-Image overflows F16", b.name())));
        }
        Ok(Self { activations, operands })
    }

    /// The coarser of the two.
    pub(crate) fn coarser(self, other: Self) -> Self {
        let coarser = |a, b| if fraction_bits(a) <= fraction_bits(b) { a } else { b };
        let activations = coarser(self.activations, other.activations);
        Self { activations, operands: coarser(coarser(self.operands, other.operands), activations) }
    }

    /// `value` rounded so that neither backend rounds it further: with the fraction of the coarser
    /// type and the range of F32, because many cases test large values.
    pub(crate) fn round(self, value: f32) -> f32 {
        let dropped = 23 - fraction_bits(self.operands);
        if dropped == 0 || !value.is_finite() {
            return value;
        }
        // Rounds to nearest, ties to even. A carry into the exponent gives the right next value.
        let bits = value.to_bits();
        let half = (1u32 << (dropped - 1)) - 1 + ((bits >> dropped) & 1);
        f32::from_bits(bits.wrapping_add(half) & !((1 << dropped) - 1))
    }
}

fn fraction_bits(dtype: DType) -> u32 {
    match dtype {
        DType::F16 => 10,
        DType::Bf16 => 7,
        _ => 23,
    }
}

/// A bound on the relative error for each precision, and the reason for the figures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    /// The bound if nothing is coarser than F32.
    f32: f64,
    /// The bound with F16 operands and F32 activations.
    f16_operands: f64,
    /// The bound with BF16 operands and F32 activations.
    bf16_operands: f64,
    /// The bound with BF16 activations.
    bf16_activations: f64,
    pub reason: &'static str,
}

impl Tolerance {
    /// The tolerance of an op without a gemm, which does not depend on the operand type.
    const fn pointwise(f32: f64, bf16: f64, reason: &'static str) -> Self {
        Self { f32, f16_operands: f32, bf16_operands: f32, bf16_activations: bf16, reason }
    }

    /// The tolerance of an op with gemms. BF16 operands and BF16 activations have one bound.
    pub(crate) const fn gemm(f32: f64, f16: f64, bf16: f64, reason: &'static str) -> Self {
        Self { f32, f16_operands: f16, bf16_operands: bf16, bf16_activations: bf16, reason }
    }

    /// The bound at `precision`.
    pub(crate) fn at(self, precision: Precision) -> f64 {
        match (precision.activations, precision.operands) {
            (DType::Bf16, _) => self.bf16_activations,
            (_, DType::F16) => self.f16_operands,
            (_, DType::Bf16) => self.bf16_operands,
            _ => self.f32,
        }
    }
}

/// Copied elements.
pub(super) const COPY: Tolerance =
    Tolerance::pointwise(0.0, 2e-3, "elements only move; a BF16 activation rounds a stored value once (2⁻⁹)");

/// A few operations per element.
pub(super) const POINTWISE: Tolerance = Tolerance::pointwise(
    2e-6,
    4e-3,
    "a few roundings of 2⁻²⁴ each and functions good to some ulps; BF16 rounds the result",
);

/// Norms: a row sum, a square root, a few operations per element.
pub(super) const NORM: Tolerance = Tolerance::pointwise(
    5e-6,
    5e-3,
    "F32 sums over a row in any order; BF16 rounds the residual stream and the result",
);

/// A group norm of values with a mean far above their deviation.
pub(super) const NORM_FAR: Tolerance =
    Tolerance::pointwise(2e-4, 5e-3, "the mean is a hundred times the deviation and takes as many of its digits");

/// A gemm with weights.
pub(super) const GEMM: Tolerance = Tolerance::gemm(
    2e-5,
    1e-3,
    5e-3,
    "F32 sums over up to 12000 products in any order; F16 operands round weights to 2⁻¹¹, BF16 to 2⁻⁹",
);

/// A gemm after a LayerNorm of values with a mean far above their deviation.
pub(super) const GEMM_FAR: Tolerance = Tolerance::gemm(
    2e-4,
    1e-3,
    5e-3,
    "the mean is a hundred times the deviation and takes as many of its digits, then the errors of a matrix product",
);

/// The elementwise product of two gemms with weights.
pub(super) const GATED_GEMM: Tolerance =
    Tolerance::gemm(4e-5, 2e-3, 8e-3, "the errors of two matrix products and of an exponential, one after the other");

/// A norm that is rounded to FP8.
pub(super) const FP8_NORM: Tolerance = Tolerance::pointwise(
    2e-3,
    2e-3,
    "F32 before the rounding, where an ulp may move one value in 10⁵ to the next code, 2⁻⁴ away",
);

/// A gemm with FP8 operands that both backends round alike.
pub(super) const FP8_GEMM: Tolerance = Tolerance::gemm(
    8e-3,
    8e-3,
    8e-3,
    "products of E4M3 are exact in F32, but Hopper's tensor cores align them to 14 bits and drop the rest; BF16 rounds \
     the result",
);

/// Two gemms with FP8 operands and their product, rounded to FP8.
pub(super) const FP8_GATED_GEMM: Tolerance = Tolerance::gemm(
    3e-2,
    3e-2,
    3e-2,
    "the errors of two FP8 gemms, up to 3·10⁻³ with Hopper's sums, and of a tangent, 2⁻¹¹, move one value in thirty to \
     the next code, 2⁻⁴ away",
);

/// Attention that is rounded to FP8.
pub(super) const FP8_ATTENTION: Tolerance = Tolerance::gemm(
    2e-3,
    2e-2,
    3e-2,
    "the errors of attention, 3·10⁻³ in BF16, move one value in twenty to the next code, 2⁻⁴ away",
);

/// A gemm and a norm that are rounded to FP8.
pub(super) const FP8_PROJECTION: Tolerance = Tolerance::gemm(
    2e-3,
    2e-2,
    3e-2,
    "the errors of a gemm and a norm, 10⁻³ in BF16 and up to 3·10⁻³ with Hopper's sums of FP8, move one value in \
     thirty to the next code, 2⁻⁴ away",
);

/// Attention with a projection in FP8 that both backends have alike.
pub(super) const FP8_PRODUCTS: Tolerance = Tolerance::gemm(
    1e-3,
    2e-2,
    2e-2,
    "one code in 10⁵ differs; products of E4M3 are exact in F32, but Hopper's tensor cores align them to 14 bits, \
     10⁻³ of a score near 10, which moves one probability in 90 to the next code, 2⁻⁴ away; then the sums of values, up \
     to 3·10⁻³",
);

/// As [`FP8_PRODUCTS`], with scores of some hundreds.
pub(super) const PEAKED_FP8_PRODUCTS: Tolerance = Tolerance::gemm(
    5e-3,
    6e-2,
    6e-2,
    "a code that differs moves a score by tenths, and Hopper's sums of 14 bits move scores near 300 by 2·10⁻², which \
     moves one probability in four to the next code, 2⁻⁴ away",
);

/// As [`FP8_PRODUCTS`], rounded to FP8.
pub(super) const FP8_PRODUCTS_TO_FP8: Tolerance = Tolerance::gemm(
    2e-3,
    5e-2,
    5e-2,
    "the errors of the products, up to 10⁻² with Hopper's sums, move one value in nine to the next code, 2⁻⁴ away",
);

/// A gemm with weights, then a norm.
pub(super) const NORMED_GEMM: Tolerance =
    Tolerance::gemm(2e-5, 1e-3, 7e-3, "the errors of a matrix product, then of a norm; BF16 rounds once or twice");

/// Attention: qk, softmax, pv.
pub(super) const ATTENTION: Tolerance = Tolerance::gemm(
    2e-5,
    2e-3,
    7e-3,
    "F32 scores and softmax; operands of F16 or BF16 also round the probabilities before they multiply the values",
);

/// Attention with scores so large that a score's rounding is visible in its exponential.
pub(super) const PEAKED_ATTENTION: Tolerance =
    Tolerance::gemm(3e-4, 2e-3, 7e-3, "scores near 300 are 3·10⁻⁵ apart in F32, which their exponentials show");

/// Sinusoids of up to 1000 radians, then two gemms.
pub(super) const TIMESTEP: Tolerance = Tolerance::gemm(
    2e-4,
    1e-3,
    8e-3,
    "near 1000 radians F32 is 6·10⁻⁵ apart and an ulp of the frequency is as much; devices' sines add to it",
);

/// Guidance, the Euler step and moments, F32 on every backend.
pub(super) const STEP: Tolerance =
    Tolerance::pointwise(5e-6, 5e-6, "F32 on every backend, with F32 sums of squares over an item in any order");

/// Bytes of a picture.
pub(super) const LEVELS: Tolerance =
    Tolerance::pointwise(5e-4, 5e-4, "one value in 200 may round to the next level; the arithmetic is F32 everywhere");

/// Results that are identical on every backend.
pub(crate) const EQUAL: Tolerance = Tolerance::pointwise(0.0, 0.0, "nothing is computed");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_uses_the_coarser_fraction() {
        let precision = |activations, operands| Precision { activations, operands };
        let single = precision(DType::F32, DType::F32);
        let half = single.coarser(precision(DType::F32, DType::F16));
        let brain = half.coarser(precision(DType::Bf16, DType::F32));
        assert_eq!((half, brain), (precision(DType::F32, DType::F16), precision(DType::Bf16, DType::Bf16)));
        for value in [0.0, -0.3, 1.0 + 3.0 / 2048.0, 65504.0, 1e-3, f32::MAX] {
            assert_eq!(single.round(value), value);
            assert_eq!(brain.round(value), half::bf16::from_f32(value).to_f32(), "{value}");
        }
        for value in [0.0, -0.3, 1.0 + 3.0 / 2048.0, 65504.0, 1e-3] {
            assert_eq!(half.round(value), half::f16::from_f32(value).to_f32(), "{value}");
        }
        assert_eq!(half.round(100_001.0), 100_032.0, "the range stays");
        assert!(half.round(f32::NAN).is_nan());
    }
}
