//! The flow-match Euler schedule, as the tables that the device reads.
//!
//! The numbers are those of diffusers' `ZImagePipeline` with its `FlowMatchEulerDiscreteScheduler`,
//! in float32 and rounded where they are rounded there: a schedule right to six digits makes
//! another picture than one right to seven.

mod beta;

use super::guidance::Guidance;
use crate::backend::SamplerRow;
use crate::error::{Error, Result};
use crate::model::config::{SchedulerConfig, Spacing, TimeShift};

/// The noise levels of a run of `N` steps, from pure noise (1) to the picture (0) unless the config
/// says otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// `N + 1` levels, the last of them 0, or 1 where the config inverts them.
    sigmas: Vec<f32>,
    /// A scheduler's timestep is this times sigma.
    train_timesteps: f32,
}

/// The pipeline counts timesteps down from this, for any `num_train_timesteps` of the scheduler.
const TIMESTEPS: f32 = 1000.0;
/// The exponent of Karras' spacing.
const RHO: f64 = 7.0;
/// Both parameters of the beta distribution.
const BETA: f64 = 0.6;

impl Schedule {
    /// The levels of `steps` steps for a picture of `latents` (height and width in latent pixels).
    ///
    /// As in the reference's class, `steps` values `s` evenly from 1 to `1/steps` are shifted, then
    /// stretched to the terminal level, then spaced anew between their ends, and the level of the
    /// picture is appended.
    ///
    /// # Errors
    /// [`Error::Request`] where a config has no finite levels for so many steps: a terminal level
    /// with one step, for example.
    pub fn new(config: &SchedulerConfig, steps: usize, latents: [usize; 2]) -> Result<Self> {
        // The pipeline counts tokens of 2×2 latents, whatever the patches are.
        let tokens = latents.map(|side| side / 2).iter().product();
        let mut sigmas = shifted(config, steps, tokens);
        if let (Some(terminal), Some(&last)) = (config.terminal, sigmas.last()) {
            let scale = (1.0 - last) / (1.0 - terminal) as f32;
            sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - (1.0 - *sigma) / scale);
        }
        let mut sigmas = spaced(config, sigmas);
        if config.inverted {
            sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - *sigma);
        }
        sigmas.push(if config.inverted { 1.0 } else { 0.0 });
        if sigmas.iter().all(|sigma| sigma.is_finite()) {
            return Ok(Self { sigmas, train_timesteps: config.train_timesteps as f32 });
        }
        let count = if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
        Err(Error::Request(format!(
            "the model's scheduler ({config}) has no finite noise levels for {count}: use another number of steps"
        )))
    }

    /// The number of steps `N`.
    pub fn steps(&self) -> usize {
        self.sigmas.len() - 1
    }

    /// The `N + 1` noise levels.
    pub fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// The transformer's times at each of the `N` steps: the model time `t = 1 − σ` times `t_scale`
    /// of its configuration.
    pub fn times(&self, t_scale: f32) -> Vec<f32> {
        self.model_times().map(|t| t * t_scale).collect()
    }

    /// True for each of the `N` steps that is guided, and so needs the negative prompts.
    pub fn guided(&self, guidance: &Guidance) -> Vec<bool> {
        self.model_times().map(|t| guidance.is_on(t)).collect()
    }

    /// The Euler steps as rows of [`sampler_step`](crate::backend::SamplerStepOp::sampler_step).
    /// The
    /// coefficient of the prediction is `−(σ_{i+1} − σ_i)`, because the model predicts minus the
    /// velocity. Where guidance is off, scale and cap are 0, so that a prediction of both prompts
    /// steps by the positive one alone.
    pub fn step_rows(&self, guidance: &Guidance) -> Vec<SamplerRow> {
        let deltas = self.sigmas.windows(2).map(|pair| pair[0] - pair[1]);
        deltas
            .zip(self.guided(guidance))
            .map(|(delta, on)| match on {
                true => SamplerRow::euler(delta, guidance.scale, guidance.normalization),
                false => SamplerRow::euler(delta, 0.0, 0.0),
            })
            .collect()
    }

    /// `t = 1 − σ` computed through the scheduler's timesteps, as the reference does: the rounding
    /// differs.
    fn model_times(&self) -> impl Iterator<Item = f32> {
        self.sigmas[..self.steps()].iter().map(|sigma| (TIMESTEPS - sigma * self.train_timesteps) / TIMESTEPS)
    }
}

/// The levels after the shift, in F32 as the reference's arrays.
fn shifted(config: &SchedulerConfig, steps: usize, tokens: usize) -> Vec<f32> {
    let even = linspace(steps);
    let Some(shift) = &config.dynamic else {
        let k = config.shift as f32;
        // Python computes k − 1 in double precision before the arrays round it.
        let k_minus_1 = (config.shift - 1.0) as f32;
        return even.map(|s| k * s / (1.0 + k_minus_1 * s)).collect();
    };
    let mu = shift.mu(tokens);
    let k = match shift.kind {
        TimeShift::Exponential => mu.exp(),
        TimeShift::Linear => mu,
    } as f32;
    even.map(|s| k / (k + (1.0 / s - 1.0))).collect()
}

/// The levels in the config's spacing, computed in F64 as the reference does.
fn spaced(config: &SchedulerConfig, sigmas: Vec<f32>) -> Vec<f32> {
    let (Some(&first), Some(&last)) = (sigmas.first(), sigmas.last()) else { return sigmas };
    let low = config.range[0].unwrap_or(last.into());
    let high = config.range[1].unwrap_or(first.into());
    let between = |start: f64, end: f64| even_f64(start, end, sigmas.len());
    let spaced: Vec<f64> = match config.spacing {
        Spacing::Shifted => return sigmas,
        Spacing::Karras => {
            let [start, end] = [high, low].map(|sigma| sigma.powf(1.0 / RHO));
            between(0.0, 1.0).map(|ramp| (start + ramp * (end - start)).powf(RHO)).collect()
        }
        Spacing::Exponential => between(high.ln(), low.ln()).map(f64::exp).collect(),
        Spacing::Beta => {
            let quantile = |ramp: f64| beta::quantile(1.0 - ramp, BETA);
            between(0.0, 1.0).map(|ramp| low + quantile(ramp) * (high - low)).collect()
        }
    };
    spaced.into_iter().map(|sigma| sigma as f32).collect()
}

/// `numpy.linspace(start, end, n)`.
fn even_f64(start: f64, end: f64, n: usize) -> impl Iterator<Item = f64> {
    let step = if n > 1 { (end - start) / (n - 1) as f64 } else { 0.0 };
    (0..n).map(move |i| if i > 0 && i == n - 1 { end } else { i as f64 * step + start })
}

/// `torch.linspace(1, 1/n, n)` in float32: counted up from the start in the first half and down
/// from the end in the second, with a fused multiply-add as in PyTorch's Linux builds for x86-64
/// with AVX2.
fn linspace(n: usize) -> impl Iterator<Item = f32> {
    let end = (1.0 / n as f64) as f32;
    let step = if n > 1 { (end - 1.0) / (n - 1) as f32 } else { 0.0 };
    let at =
        move |i: usize| if i < n / 2 { step.mul_add(i as f32, 1.0) } else { (-step).mul_add((n - 1 - i) as f32, end) };
    (0..n).map(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::noise::tests::digest;

    /// A fixed shift, as the published models have it.
    fn fixed(steps: usize, shift: f64) -> Schedule {
        let config = SchedulerConfig {
            shift,
            dynamic: None,
            terminal: None,
            spacing: Spacing::Shifted,
            range: [None; 2],
            inverted: false,
            train_timesteps: 1000,
        };
        Schedule::new(&config, steps, [128, 128]).unwrap()
    }

    /// Python, with `digest` as beside the tests of the noise, for each shift `k` and number of
    /// steps `n`: `s = FlowMatchEulerDiscreteScheduler(shift=k);
    /// s.set_timesteps(sigmas=torch.linspace(1, 1/n, n).tolist()); print(digest(s.sigmas),
    /// digest((1000 - s.timesteps) / 1000 * 1000.0))`.
    #[test]
    fn every_bit_is_diffusers() {
        let expected = [
            (3.0, 1, 0x3f800000, 0x00000000),
            (3.0, 2, 0xbe000000, 0x86f40000),
            (3.0, 4, 0x780ccccc, 0x5fe60000),
            (3.0, 8, 0xded97d3a, 0x3e3dbb6c),
            (3.0, 9, 0x15c39a30, 0x9f257022),
            (3.0, 28, 0xd0f05bac, 0x1a188a94),
            (3.0, 50, 0x4b016464, 0x04b7ac6e),
            (6.0, 1, 0x3f800000, 0x00000000),
            (6.0, 2, 0xbe36db6e, 0x861db6d8),
            (6.0, 4, 0x7922014b, 0x5c6c4a4c),
            (6.0, 8, 0xe476f06d, 0x32692aaa),
            (6.0, 9, 0x1ce8c9aa, 0x908fb87e),
            (6.0, 28, 0x1ea37070, 0x9d464d51),
            (6.0, 50, 0x46381d00, 0x83490eae),
        ];
        for (shift, steps, sigmas, times) in expected {
            let schedule = fixed(steps, shift);
            assert_eq!(schedule.steps(), steps);
            assert_eq!(digest(schedule.sigmas()), sigmas, "sigmas of {steps} steps, shift {shift}");
            assert_eq!(digest(&schedule.times(1000.0)), times, "times of {steps} steps, shift {shift}");
        }
    }

    #[test]
    fn eight_steps_in_full() {
        let schedule = fixed(8, 3.0);
        assert_eq!(schedule.sigmas(), [1.0, 0.954_545_44, 0.9, 0.833_333_3, 0.75, 0.642_857_13, 0.5, 0.3, 0.0]);
        let times = [0.0, 45.454_59, 100.0, 166.666_69, 250.0, 357.142_88, 500.0, 700.0];
        assert_eq!(schedule.times(1000.0), times);
        assert_eq!(schedule.times(1.0)[2], 0.1);
    }

    const ON: Guidance = Guidance { scale: 4.0, normalization: 1.5, truncation: 1.0 };

    #[test]
    fn steps_lead_from_noise_to_the_picture() {
        for steps in [1, 2, 7, 50, 1000] {
            let rows = fixed(steps, 6.0).step_rows(&ON);
            assert_eq!(rows.len(), steps);
            assert!(rows.iter().all(|row| row.prediction > 0.0 && row.guidance == 4.0 && row.cap == 1.5));
            assert!((rows.iter().map(|row| row.prediction).sum::<f32>() - 1.0).abs() < 1e-5);
        }
        assert_eq!(fixed(8, 3.0).step_rows(&ON)[7], SamplerRow::euler(0.3, 4.0, 1.5));
    }

    #[test]
    fn guidance_ends_where_the_reference_ends_it() {
        let schedule = fixed(8, 3.0);
        let guided_until = |guidance: Guidance| {
            let guided = schedule.guided(&guidance);
            let rows = schedule.step_rows(&guidance);
            assert!(guided.iter().zip(&rows).all(|(&on, row)| on == (row.guidance > 0.0) && on == (row.cap > 0.0)));
            assert!(guided.is_sorted_by(|a, b| a >= b));
            guided.iter().filter(|on| **on).count()
        };
        // `(1000 - timestep) / 1000 > truncation` of Python: 0.1 is rounded up to f32, 0.7 down,
        // 0.25 not at all.
        for (truncation, until) in [(0.0, 1), (0.1, 2), (0.100_000_01, 3), (0.25, 5), (0.699, 7), (0.7, 8), (1.0, 8)] {
            assert_eq!(guided_until(Guidance { truncation, ..ON }), until, "truncation {truncation}");
        }
        assert_eq!(guided_until(Guidance { scale: 0.0, ..ON }), 0);
    }
}
