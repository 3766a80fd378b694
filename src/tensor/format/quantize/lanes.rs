//! A search among candidates, which are the lanes of vectors.

use pulp::Simd;

/// The candidates of a search: a multiple of the lanes of every vector type.
pub(super) const CANDIDATES: usize = 16;

/// The addend that moves the fraction of a small f32 out of its significand: 1.5 · 2²³.
const NO_FRACTION: f32 = 12_582_912.0;

/// The nearest whole number, ties to even, of a magnitude below 2²².
#[inline(always)]
pub(super) fn rounded(value: f32) -> f32 {
    (value + NO_FRACTION) - NO_FRACTION
}

/// Arithmetic on vectors of one type.
#[derive(Clone, Copy)]
pub(super) struct Lanes<S>(pub S);

impl<S: Simd> Lanes<S> {
    /// The vectors of an array of one number a candidate.
    #[inline(always)]
    pub(super) fn vectors(array: &[f32; CANDIDATES]) -> &[S::f32s] {
        S::as_simd_f32s(array).0
    }

    /// The vectors of an array of one number a candidate.
    #[inline(always)]
    pub(super) fn vectors_mut(array: &mut [f32; CANDIDATES]) -> &mut [S::f32s] {
        S::as_mut_simd_f32s(array).0
    }

    #[inline(always)]
    pub(super) fn of(self, value: f32) -> S::f32s {
        self.0.splat_f32s(value)
    }

    #[inline(always)]
    pub(super) fn add(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.add_f32s(a, b)
    }

    #[inline(always)]
    pub(super) fn sub(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.sub_f32s(a, b)
    }

    #[inline(always)]
    pub(super) fn mul(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.mul_f32s(a, b)
    }

    #[inline(always)]
    pub(super) fn div(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.div_f32s(a, b)
    }

    #[inline(always)]
    pub(super) fn min(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.min_f32s(a, b)
    }

    #[inline(always)]
    pub(super) fn max(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.max_f32s(a, b)
    }

    /// As [`rounded`].
    #[inline(always)]
    pub(super) fn round(self, a: S::f32s) -> S::f32s {
        let shift = self.of(NO_FRACTION);
        self.sub(self.add(a, shift), shift)
    }

    /// `then` where `a` is above `b`, else `otherwise`.
    #[inline(always)]
    pub(super) fn where_above(self, a: S::f32s, b: S::f32s, then: S::f32s, otherwise: S::f32s) -> S::f32s {
        self.0.select_f32s(self.0.greater_than_f32s(a, b), then, otherwise)
    }
}

/// The index of the largest number; the first of equal ones.
#[inline(always)]
pub(super) fn best(gains: &[f32; CANDIDATES]) -> usize {
    (1..CANDIDATES).fold(0, |best, i| if gains[i] > gains[best] { i } else { best })
}
