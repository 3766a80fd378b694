//! Classifier-free guidance: its strength, and the steps that it applies to.

use crate::error::{Error, Result};

/// The largest guidance scale of a request: far above any useful one, and far below the end of F32.
pub const MAX_SCALE: f32 = 1000.0;

/// The strength with which predictions are pushed away from the negative prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guidance {
    /// `g` in `positive + g·(positive − negative)`: diffusers' `guidance_scale`, which is the usual
    /// cfg scale − 1. 0 is off.
    pub scale: f32,
    /// `c`: the norm of the guided prediction is capped at `c` times that of the positive one. 0 is
    /// off.
    pub normalization: f32,
    /// Guidance is off at the steps whose time `1 − σ` is past this. The type is F64 because the
    /// reference compares in F64: at 8 steps and shift 3 the second time is the f32 next to 0.1,
    /// which is past the f64 0.1 but not past the f32.
    pub truncation: f64,
}

impl Guidance {
    /// True if guidance is on at the model time `t`.
    pub(super) fn is_on(&self, t: f32) -> bool {
        self.scale > 0.0 && f64::from(t) <= self.truncation
    }

    /// Checks that every number is in its range.
    ///
    /// # Errors
    /// [`Error::Request`] for the first that is not.
    pub(super) fn check(&self) -> Result<()> {
        let Guidance { scale, normalization, truncation } = *self;
        let refuse = |sentence| Err(Error::Request(sentence));
        if !(0.0..=MAX_SCALE).contains(&scale) {
            return refuse(format!(
                "guidance {scale} is not a number from 0 to {MAX_SCALE}: it is the usual cfg scale minus 1, so use 0 \
                 for none (a cfg scale of 1) and 4 for a cfg scale of 5"
            ));
        }
        if !(normalization.is_finite() && normalization >= 0.0) {
            return refuse(format!("cfg normalization {normalization} is not a number from 0 up: use 0 for none"));
        }
        if !(0.0..=1.0).contains(&truncation) {
            return refuse(format!(
                "cfg truncation {truncation} is not between 0 and 1: use 1 for guidance at every step"
            ));
        }
        Ok(())
    }
}
