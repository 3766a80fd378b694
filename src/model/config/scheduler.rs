//! The scheduler's config file: every key of diffusers' `FlowMatchEulerDiscreteScheduler` that
//! `ZImagePipeline` honours.

use super::keys::Keys;
use crate::error::{Error, Result};
use std::fmt;

/// Model times count from 0 to this, independent of `num_train_timesteps`: the pipeline assumes it.
const TRAIN_TIMESTEPS: usize = 1000;
/// Bounds of every shift: far past any picture, and within what F32 holds.
const LARGEST_SHIFT: f64 = 1e3;
/// Maximum sequence length of a dynamic shift.
const LONGEST_SEQUENCE: usize = 1 << 30;

/// The denoising schedule (`FlowMatchEulerDiscreteScheduler`).
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    /// `k` in `σ = k·s / (1 + (k − 1)·s)`, which bends the schedule towards noise. A dynamic shift
    /// replaces it.
    pub shift: f64,
    /// A shift that depends on the size of the picture (`use_dynamic_shifting`).
    pub dynamic: Option<DynamicShift>,
    /// The last level before 0. The other levels are stretched to it (`shift_terminal`).
    pub terminal: Option<f64>,
    /// The spacing of the levels between the first and the last.
    pub spacing: Spacing,
    /// The lowest and the highest level of a spacing, if the file sets them. They are not arguments
    /// of the class, but it reads them from its config (`sigma_min`, `sigma_max`).
    pub range: [Option<f64>; 2],
    /// True if every level `σ` becomes `1 − σ` (`invert_sigmas`).
    pub inverted: bool,
    /// The timestep of the level 1 (`num_train_timesteps`). The pipeline divides timesteps by 1000
    /// in any case.
    pub train_timesteps: usize,
}

/// A shift that depends linearly on the tokens of the picture, on a line through two points.
#[derive(Debug, Clone, PartialEq)]
pub struct DynamicShift {
    /// The shift `μ` at each of [`DynamicShift::tokens`] (`base_shift`, `max_shift`).
    pub shifts: [f64; 2],
    /// Numbers of tokens (`base_image_seq_len`, `max_image_seq_len`).
    pub tokens: [usize; 2],
    /// The effect of `μ` on the levels.
    pub kind: TimeShift,
}

/// The formula of a dynamic shift (`time_shift_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeShift {
    /// `σ = e^μ / (e^μ + 1/s − 1)`.
    Exponential,
    /// `σ = μ / (μ + 1/s − 1)`.
    Linear,
}

/// The spacing of the noise levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// As shifted.
    Shifted,
    /// Even steps of the seventh root (`use_karras_sigmas`).
    Karras,
    /// Even steps of the logarithm (`use_exponential_sigmas`).
    Exponential,
    /// Quantiles of the beta distribution with both parameters 0.6 (`use_beta_sigmas`).
    Beta,
}

impl SchedulerConfig {
    /// Replaces the shift, also a dynamic one.
    ///
    /// # Errors
    /// [`Error::Request`] for a shift out of range.
    pub(crate) fn set_shift(&mut self, shift: f64) -> Result<()> {
        if !(1.0 / LARGEST_SHIFT..=LARGEST_SHIFT).contains(&shift) {
            let range = format!("from {} to {LARGEST_SHIFT}", 1.0 / LARGEST_SHIFT);
            return Err(Error::Request(format!("expected a shift {range}, found {shift}")));
        }
        self.shift = shift;
        self.dynamic = None;
        Ok(())
    }

    pub(super) fn read(keys: &Keys) -> Result<Self> {
        keys.one_of("_class_name", &["FlowMatchEulerDiscreteScheduler"])?;
        if keys.flag("stochastic_sampling", false)? {
            let expected =
                "false, because its noise has no seed: the same request would draw another picture each time";
            return Err(keys.wrong("stochastic_sampling", expected));
        }
        let line = DynamicShift::read(keys)?;
        let dynamic = keys.flag("use_dynamic_shifting", false)?.then_some(line);
        // The reference's class applies the shift at once, unless a dynamic shift replaces it.
        if dynamic.is_none() {
            keys.not_null(&["shift"])?;
        }
        keys.not_null(&["num_train_timesteps"])?;
        let terminal = keys.real("shift_terminal", Some(0.0), -LARGEST_SHIFT..=LARGEST_SHIFT)?;
        let end = |key: &str| keys.optional_real(key, 0.0..=LARGEST_SHIFT);
        Ok(Self {
            shift: keys.real("shift", Some(1.0), 1.0 / LARGEST_SHIFT..=LARGEST_SHIFT)?,
            dynamic,
            terminal: (terminal != 0.0).then_some(terminal),
            spacing: Spacing::read(keys)?,
            range: [end("sigma_min")?, end("sigma_max")?],
            inverted: keys.flag("invert_sigmas", false)?,
            train_timesteps: keys.size("num_train_timesteps", Some(TRAIN_TIMESTEPS))?,
        })
    }
}

impl DynamicShift {
    /// The keys are checked even if the shift is not used, because the pipeline computes `μ` in any
    /// case.
    fn read(keys: &Keys) -> Result<Self> {
        const TOKENS: [&str; 2] = ["base_image_seq_len", "max_image_seq_len"];
        for key in ["time_shift_type", "base_shift", "max_shift"].into_iter().chain(TOKENS) {
            keys.not_null(&[key])?;
        }
        let shift = |key: &str, default| keys.real(key, Some(default), -LARGEST_SHIFT..=LARGEST_SHIFT);
        let tokens = |key: &str, default| keys.count(key, Some(default), 0..=LONGEST_SEQUENCE);
        let tokens = [tokens(TOKENS[0], 256)?, tokens(TOKENS[1], 4096)?];
        if tokens[0] == tokens[1] {
            return Err(keys.wrong(TOKENS[1], &format!("another length than {}, the {}", tokens[0], TOKENS[0])));
        }
        let kind = match keys.one_of("time_shift_type", &["exponential", "linear"])? {
            0 => TimeShift::Exponential,
            _ => TimeShift::Linear,
        };
        Ok(Self { shifts: [shift("base_shift", 0.5)?, shift("max_shift", 1.15)?], tokens, kind })
    }

    /// `μ` of a picture of `tokens` tokens.
    pub fn mu(&self, tokens: usize) -> f64 {
        let [least, most] = self.tokens.map(|tokens| tokens as f64);
        let slope = (self.shifts[1] - self.shifts[0]) / (most - least);
        tokens as f64 * slope + (self.shifts[0] - slope * least)
    }
}

impl Spacing {
    const KEYS: [(&str, Spacing); 3] = [
        ("use_karras_sigmas", Spacing::Karras),
        ("use_exponential_sigmas", Spacing::Exponential),
        ("use_beta_sigmas", Spacing::Beta),
    ];

    fn read(keys: &Keys) -> Result<Self> {
        let mut chosen = None;
        for (key, spacing) in Self::KEYS {
            keys.not_null(&[key])?;
            if keys.flag(key, false)?
                && let Some((other, _)) = chosen.replace((key, spacing))
            {
                return Err(keys.wrong(key, &format!("false, because {other} is true and excludes it")));
            }
        }
        Ok(chosen.map_or(Spacing::Shifted, |(_, spacing)| spacing))
    }
}

impl fmt::Display for SchedulerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.dynamic {
            None => write!(f, "shift {}", self.shift)?,
            Some(DynamicShift { shifts: [least, most], kind, .. }) => {
                let kind = if *kind == TimeShift::Linear { "linear" } else { "exponential" };
                write!(f, "dynamic {kind} shift {least} to {most}")?;
            }
        }
        if let Some(terminal) = self.terminal {
            write!(f, ", last level {terminal}")?;
        }
        match self.spacing {
            Spacing::Shifted => {}
            Spacing::Karras => f.write_str(", Karras spacing")?,
            Spacing::Exponential => f.write_str(", exponential spacing")?,
            Spacing::Beta => f.write_str(", beta spacing")?,
        }
        if self.inverted { f.write_str(", inverted") } else { Ok(()) }
    }
}
