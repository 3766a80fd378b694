//! How far two right backends may be apart, and why.
//!
//! A tolerance is a bound on [`relative_error`](super::relative_error), one figure for each type that numbers may be
//! rounded to on the way. Each is a few times what a right implementation measures: enough for another order of the
//! sums, too little for any of the faults that `tests/conformance.rs` plants. The figures for coarser types are held
//! there too, by a backend that rounds as they allow.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::tensor::DType;

/// What the numbers of a comparison are rounded to: the coarser of the two backends decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Precision {
    /// The type of activations: F32, or BF16 when either backend keeps them so.
    pub activations: DType,
    /// The type that products round their operands to.
    pub operands: DType,
}

impl Precision {
    /// The precision of one backend. Its activation type is that of a verb's output.
    pub(super) fn of<B: Backend>(b: &B) -> Result<Self> {
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

    /// What is left of either.
    pub(super) fn coarser(self, other: Self) -> Self {
        let coarser = |a, b| if fraction_bits(a) <= fraction_bits(b) { a } else { b };
        let activations = coarser(self.activations, other.activations);
        Self { activations, operands: coarser(coarser(self.operands, other.operands), activations) }
    }

    /// `value` as both backends can hold it without rounding it any further: with the fraction of the coarser type, but
    /// with the range of F32, because large values are what many cases are about.
    pub(super) fn round(self, value: f32) -> f32 {
        let dropped = 23 - fraction_bits(self.operands);
        if dropped == 0 || !value.is_finite() {
            return value;
        }
        // To nearest, ties to even; a carry into the exponent is the right next value.
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
pub(super) struct Tolerance {
    /// With nothing coarser than F32.
    f32: f64,
    /// With products of F16 operands, and of BF16 ones, where activations are F32.
    operands: [f64; 2],
    /// With BF16 activations.
    bf16: f64,
    pub reason: &'static str,
}

impl Tolerance {
    /// Of verbs without a product, to which operands do not matter.
    const fn new(f32: f64, bf16: f64, reason: &'static str) -> Self {
        Self { f32, operands: [f32; 2], bf16, reason }
    }

    /// Of verbs with products.
    const fn product(f32: f64, f16: f64, bf16: f64, reason: &'static str) -> Self {
        Self { f32, operands: [f16, bf16], bf16, reason }
    }

    /// The figure at `precision`.
    pub(super) fn at(self, precision: Precision) -> f64 {
        match (precision.activations, precision.operands) {
            (DType::Bf16, _) => self.bf16,
            (_, DType::F16) => self.operands[0],
            (_, DType::Bf16) => self.operands[1],
            _ => self.f32,
        }
    }
}

/// Elements that only move.
pub(super) const COPY: Tolerance =
    Tolerance::new(0.0, 2e-3, "elements only move; a BF16 activation rounds a stored value once (2⁻⁹)");

/// A handful of operations on each element.
pub(super) const POINTWISE: Tolerance =
    Tolerance::new(2e-6, 4e-3, "a few roundings of 2⁻²⁴ each and functions good to some ulps; BF16 rounds the result");

/// Norms: a sum over a row, a root, a few operations on each element.
pub(super) const NORM: Tolerance =
    Tolerance::new(5e-6, 5e-3, "F32 sums over a row in any order; BF16 rounds the residual stream and the result");

/// A group norm of values that are far from 0 compared with what they differ by.
pub(super) const NORM_FAR: Tolerance =
    Tolerance::new(2e-4, 5e-3, "the mean is a hundred times the deviation and takes as many of its digits");

/// A product with weights.
pub(super) const PRODUCT: Tolerance = Tolerance::product(
    2e-5,
    1e-3,
    5e-3,
    "F32 sums over up to 12000 products in any order; F16 operands round weights to 2⁻¹¹, BF16 to 2⁻⁹",
);

/// A product behind a LayerNorm of values that are far from 0.
pub(super) const PRODUCT_FAR: Tolerance = Tolerance::product(
    2e-4,
    1e-3,
    5e-3,
    "the mean is a hundred times the deviation and takes as many of its digits, then the errors of a product",
);

/// Two products with weights, multiplied with each other.
pub(super) const GATED_PRODUCT: Tolerance =
    Tolerance::product(4e-5, 2e-3, 8e-3, "the errors of two products and of an exponential, one after the other");

/// A product with weights, then a norm.
pub(super) const NORMED_PRODUCT: Tolerance =
    Tolerance::product(2e-5, 1e-3, 7e-3, "the errors of a product, then of a norm; BF16 rounds once or twice");

/// Products, softmax, products.
pub(super) const ATTENTION: Tolerance = Tolerance::product(
    2e-5,
    2e-3,
    7e-3,
    "F32 scores and softmax; operands of F16 or BF16 also round the probabilities before they weigh the values",
);

/// Attention with scores so large that the rounding of a score shows in its exponential.
pub(super) const PEAKED_ATTENTION: Tolerance =
    Tolerance::product(3e-4, 2e-3, 7e-3, "scores near 300 are 3·10⁻⁵ apart in F32, which their exponentials show");

/// Sinusoids of up to 1000 radians, then two products.
pub(super) const TIMESTEP: Tolerance = Tolerance::product(
    2e-4,
    1e-3,
    8e-3,
    "near 1000 radians F32 is 6·10⁻⁵ apart and an ulp of the frequency is as much; devices' sines add to it",
);

/// Guidance and the Euler step, which are F32 on every backend.
pub(super) const STEP: Tolerance =
    Tolerance::new(5e-6, 5e-6, "F32 on every backend, with F32 sums of squares over an item in any order");

/// Bytes.
pub(super) const LEVELS: Tolerance =
    Tolerance::new(5e-4, 5e-4, "one value in 200 may round to the next level; the arithmetic is F32 everywhere");

/// What must be equal on every backend.
pub(super) const EQUAL: Tolerance = Tolerance::new(0.0, 0.0, "nothing is computed");

/// A whole network, block by block.
pub(super) const STAGE: Tolerance = Tolerance::product(
    1e-4,
    3e-3,
    4e-2,
    "roundings of a block add up over the blocks: tens of them at the precision of one product each",
);

/// A picture, as root mean square error over the range of a pixel: 40 dB PSNR, and 30 dB where activations are BF16.
pub(super) const PICTURE: Tolerance = Tolerance {
    f32: 1e-2,
    operands: [1e-2, 3.2e-2],
    bf16: 3.2e-2,
    reason: "40 dB PSNR, differences that nobody sees; 30 dB where BF16 rounds, as that grows from step to step",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_to_the_fraction_of_the_coarser_type() {
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
