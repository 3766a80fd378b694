//! The variants of the kernel that `rms_norm`, `residual` and `residual_norm` share.

/// The parts that a variant of the kernel has: add a branch, with its norm and its gate if any, and
/// write the norm of the sum, with its scale if any.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Parts {
    pub branch: bool,
    pub branch_norm: bool,
    pub gate: bool,
    pub norm: bool,
    pub scale: bool,
}

impl Parts {
    /// Every combination that an op can ask for.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let parts = (0..32u32).map(|bits| {
            let bit = |i: u32| bits >> i & 1 == 1;
            Self { branch: bit(0), branch_norm: bit(1), gate: bit(2), norm: bit(3), scale: bit(4) }
        });
        parts.filter(|parts| {
            let branch_fits = parts.branch || !(parts.branch_norm || parts.gate);
            let norm_fits = parts.norm || !parts.scale;
            branch_fits && norm_fits && (parts.branch || parts.norm)
        })
    }

    /// The constants of the kernel.
    pub(crate) fn constants(self) -> [(&'static str, bool); 5] {
        [
            ("HAS_BRANCH", self.branch),
            ("HAS_NORM", self.branch_norm),
            ("HAS_GATE", self.gate),
            ("HAS_OUT", self.norm),
            ("HAS_SCALE", self.scale),
        ]
    }
}
