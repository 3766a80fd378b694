//! What the model's configuration files say.

/// What a model prefers where a request leaves it open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// Steps from noise to picture.
    pub steps: usize,
    /// Diffusers' `guidance_scale`.
    pub guidance: f32,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
}
