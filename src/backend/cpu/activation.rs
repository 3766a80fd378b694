//! Activation functions of several ops.

/// `a / (1 + e⁻ᵃ)`.
pub(super) fn silu(a: f32) -> f32 {
    a / (1.0 + (-a).exp())
}
