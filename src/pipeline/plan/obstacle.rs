//! The reasons why a device cannot run a plan.

use super::{Needs, Plan};
use std::fmt;

/// A reason why a device cannot run a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// Even the smallest plan takes more bytes than are free.
    Memory {
        /// Bytes at the peak.
        needed: u64,
        /// Free bytes.
        free: u64,
    },
    /// An op needs an activation of more bytes than the device binds to a kernel. Smaller pictures
    /// and batches have smaller ones.
    Activation {
        /// Bytes of the activation.
        needed: u64,
        /// Bytes that the device binds.
        allowed: u64,
    },
}

impl Obstacle {
    /// The obstacles to a plan on a device that binds activations of so many bytes.
    pub fn of(plan: &Plan, needs: &Needs, allowed: u64) -> Vec<Self> {
        let memory = plan.limit.filter(|&free| plan.peak > free);
        let memory = memory.map(|free| Self::Memory { needed: plan.peak, free });
        let needed = needs.largest_activation;
        let activation = (needed > allowed).then_some(Self::Activation { needed, allowed });
        memory.into_iter().chain(activation).collect()
    }
}

impl fmt::Display for Obstacle {
    /// One sentence without its full stop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        match *self {
            Self::Memory { needed, free } => write!(
                f,
                "the smallest plan takes {:.2} GB of device memory, and {:.2} GB are free",
                gb(needed),
                gb(free)
            ),
            Self::Activation { needed, allowed } => write!(
                f,
                "an activation of this request takes {:.1} MiB, and the device binds at most {:.1} MiB at once",
                mib(needed),
                mib(allowed)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, NetworkBytes};
    use super::*;

    #[test]
    fn obstacles_are_what_exceeds_the_device() {
        let rest = |rest| NetworkBytes { rest, ..NetworkBytes::default() };
        let needs = Needs {
            text_encoder: rest(1_000_000_000),
            transformer: rest(2_000_000_000),
            decoder: vec![(None, 0)],
            largest_activation: 128 << 20,
            ..Needs::default()
        };
        let found = |device, allowed| {
            let plan = Plan::new(&needs, Limits { device, ..Limits::default() });
            Obstacle::of(&plan, &needs, allowed)
        };
        assert!(found(None, u64::MAX).is_empty() && found(Some(2_000_000_000), 128 << 20).is_empty());
        let memory = Obstacle::Memory { needed: 2_000_000_000, free: 1_999_999_999 };
        let activation = Obstacle::Activation { needed: 128 << 20, allowed: (128 << 20) - 1 };
        assert_eq!(found(Some(1_999_999_999), (128 << 20) - 1), [memory, activation]);
        assert!(memory.to_string().contains("takes 2.00 GB") && activation.to_string().contains("128.0 MiB"));
    }
}
