//! `sampler_step`: guidance, its norm cap, and one step of a linear multistep sampler.

use super::{DeviceTensor, Result, Runtime, check};
use crate::tensor::DType;

/// Maximum number of past predictions that a sampler reads.
pub const MAX_HISTORY: usize = 8;

/// The coefficients of one step, except those of the history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerRow {
    /// `g`, the guidance scale.
    pub guidance: f32,
    /// `cap`: the norm of the guided prediction is at most `cap` times that of the positive one. 0
    /// is off.
    pub cap: f32,
    /// `a`, of the latents.
    pub latents: f32,
    /// `b`, of the prediction.
    pub prediction: f32,
    /// `d`, of the noise.
    pub noise: f32,
    /// `e`, of the latents in the history.
    pub stored_latents: f32,
    /// `f`, of the prediction in the history.
    pub stored_prediction: f32,
}

impl SamplerRow {
    /// Coefficients of a row. The history's coefficients follow them.
    pub const COLUMNS: usize = 7;

    /// An Euler step: `latents += delta·v`.
    pub const fn euler(delta: f32, guidance: f32, cap: f32) -> Self {
        let noise = 0.0;
        let stored_latents = 0.0;
        let stored_prediction = 0.0;
        Self { guidance, cap, latents: 1.0, prediction: delta, noise, stored_latents, stored_prediction }
    }

    /// The coefficients in the order of the table: `g, cap, a, b, d, e, f`.
    pub const fn values(&self) -> [f32; Self::COLUMNS] {
        let Self { guidance, cap, latents, prediction, noise, stored_latents, stored_prediction } = *self;
        [guidance, cap, latents, prediction, noise, stored_latents, stored_prediction]
    }
}

/// A sampler's tensors on the device.
#[derive(Debug)]
pub struct SamplerState<'a, T> {
    /// F32 `[N, 7 + J]`: for each step the values of a [`SamplerRow`], then `c₁ … c_J`.
    pub table: &'a T,
    /// F32 `[J, B, C, H, W]`, changed in place: a ring buffer. Step `i` writes slot `i mod J`.
    pub history: Option<&'a mut T>,
    /// F32 `[N, B, C, H, W]`: the noise of each step.
    pub noise: Option<&'a T>,
}

/// The arguments of [`SamplerStepOp::sampler_step`].
#[derive(Debug)]
pub struct SamplerStepArgs<'a, T> {
    /// F32 `[B, C, H, W]`, changed in place.
    pub latents: &'a mut T,
    /// F32 `[B, C, H, W]`, or `[2B, C, H, W]` with guidance.
    pub prediction: &'a T,
    /// Coefficients, history and noise.
    pub sampler: SamplerState<'a, T>,
    /// U32 `[1]`, incremented.
    pub step: &'a mut T,
}

impl<T: DeviceTensor> SamplerStepArgs<'_, T> {
    /// Checks the arguments; returns `J`, the slots of the history.
    pub fn check(&self) -> Result<usize> {
        let op = "sampler_step";
        let SamplerState { table, history, noise } = &self.sampler;
        let history = history.as_deref();
        let latents @ [b, c, h, w] = check::exactly(op, "the latents", self.latents, DType::F32)?;
        let prediction: [usize; 4] = check::exactly(op, "the prediction", self.prediction, DType::F32)?;
        check::ensure(prediction == latents || prediction == [2 * b, c, h, w], op, || {
            format!("a prediction {prediction:?} does not fit latents {latents:?}")
        })?;
        let mut slots = 0;
        if let Some(history) = history {
            let sizes @ [j, ..]: [usize; 5] = check::exactly(op, "the history", history, DType::F32)?;
            check::ensure(j <= MAX_HISTORY && sizes[1..] == latents, op, || {
                format!("a history {sizes:?} does not fit latents {latents:?} and {MAX_HISTORY} slots")
            })?;
            slots = j;
        }
        let [n, columns] = check::exactly(op, "the table of steps", *table, DType::F32)?;
        let expected = SamplerRow::COLUMNS + slots;
        check::ensure(columns == expected, op, || format!("the table of steps has {columns} columns, not {expected}"))?;
        if let Some(noise) = noise {
            check::same(op, "the noise", noise.shape(), &[n, b, c, h, w])?;
            check::typed(op, "the noise", noise.dtype(), DType::F32)?;
        }
        check::integers(op, "the step", self.step, 1)?;
        let read =
            [("the prediction", Some(self.prediction)), ("the table of steps", Some(*table)), ("the noise", *noise)];
        check::apart(op, ("the latents", self.latents), &read)?;
        check::apart(op, ("the latents", self.latents), &[("the history", history), ("the step", Some(self.step))])?;
        if let Some(history) = history {
            check::apart(op, ("the history", history), &read)?;
            check::apart(op, ("the history", history), &[("the step", Some(self.step))])?;
        }
        check::apart(op, ("the step", self.step), &read)?;
        Ok(slots)
    }
}

/// The step of the denoising loop.
pub trait SamplerStepOp: Runtime {
    /// One step, in F32. Row `step` of the table is `(g, cap, a, b, d, e, f, c₁ … c_J)`. For every
    /// item `i` with the latents `x`, `p = prediction[i]` and, if `prediction` holds 2B items, `q =
    /// prediction[B + i]`:
    ///
    /// `v = p + g·(p − q)`; if `cap > 0` and `‖v‖ > cap·‖p‖` then `v ← v·(cap·‖p‖/‖v‖)`;
    /// `latents[i] ← a·x + b·v + Σⱼ cⱼ·historyⱼ + d·noise[step]`; `history₀ ← e·x + f·v`.
    ///
    /// If `prediction` holds B items, `v = p` without a cap. `historyⱼ` is the slot written `j`
    /// steps ago. This step writes `history₀` after it has read all slots. A term with the
    /// coefficient 0 is skipped, so unwritten slots and absent noise are not read. Then `step +=
    /// 1`, on the device.
    ///
    /// Euler is `a = 1, b = Δσ`. The history holds any combination of latents and prediction,
    /// because a sampler such as DPM++ 2M reads past predictions of the clean latents, `x − σ·v`.
    fn sampler_step(
        &self,
        latents: &mut Self::Tensor,
        prediction: &Self::Tensor,
        sampler: SamplerState<'_, Self::Tensor>,
        step: &mut Self::Tensor,
    ) -> Result<()> {
        let args = SamplerStepArgs { latents, prediction, sampler, step };
        let slots = args.check()?;
        self.run_sampler_step(args, slots)
    }

    /// Runs [`SamplerStepOp::sampler_step`] on checked arguments; the history has `slots` slots.
    fn run_sampler_step(&self, args: SamplerStepArgs<'_, Self::Tensor>, slots: usize) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Fake, f32s, rejects, u32s};
    use super::*;

    const OP: &str = "sampler_step";
    const LATENTS: [usize; 4] = [2, 3, 4, 5];

    fn check(
        prediction: &[usize],
        table: [usize; 2],
        history: Option<&[usize]>,
        noise: Option<&[usize]>,
    ) -> Result<usize> {
        let (prediction, table) = (f32s(prediction), f32s(&table));
        let mut history = history.map(f32s);
        let noise = noise.map(f32s);
        let sampler = SamplerState { table: &table, history: history.as_mut(), noise: noise.as_ref() };
        let mut step = u32s(&[1]);
        SamplerStepArgs { latents: &mut f32s(&LATENTS), prediction: &prediction, sampler, step: &mut step }.check()
    }

    #[test]
    fn predictions_are_one_or_two_per_item() {
        assert_eq!(check(&LATENTS, [9, 7], None, None).unwrap(), 0);
        assert_eq!(check(&[4, 3, 4, 5], [9, 7], None, None).unwrap(), 0);
        for prediction in [[3, 3, 4, 5], [1, 3, 4, 5], [4, 3, 5, 4]] {
            rejects(check(&prediction, [9, 7], None, None), OP, &[&format!("{prediction:?}"), "[2, 3, 4, 5]"]);
        }
        rejects(check(&LATENTS, [9, 6], None, None), OP, &["6 columns, not 7"]);
    }

    #[test]
    fn history_and_noise_must_fit() {
        assert_eq!(check(&LATENTS, [9, 9], Some(&[2, 2, 3, 4, 5]), Some(&[9, 2, 3, 4, 5])).unwrap(), 2);
        rejects(check(&LATENTS, [9, 7], Some(&[2, 2, 3, 4, 5]), None), OP, &["7 columns, not 9"]);
        rejects(check(&LATENTS, [9, 9], Some(&[2, 2, 3, 5, 4]), None), OP, &["a history [2, 2, 3, 5, 4]"]);
        rejects(check(&LATENTS, [9, 16], Some(&[9, 2, 3, 4, 5]), None), OP, &["8 slots"]);
        rejects(check(&LATENTS, [9, 7], None, Some(&[8, 2, 3, 4, 5])), OP, &["the noise", "[9, 2, 3, 4, 5]"]);
    }

    #[test]
    fn targets_must_not_be_inputs() {
        let table = f32s(&[9, 8]);
        let latents = f32s(&LATENTS);
        let ring = f32s(&[1, 2, 3, 4, 5]);
        let check = |prediction: &Fake, history: &Fake, noise: Option<&Fake>| {
            let mut history = history.clone();
            let sampler = SamplerState { table: &table, history: Some(&mut history), noise };
            let mut step = u32s(&[1]);
            SamplerStepArgs { latents: &mut latents.clone(), prediction, sampler, step: &mut step }.check()
        };
        assert_eq!(check(&f32s(&LATENTS), &ring, None).unwrap(), 1);
        rejects(check(&latents, &ring, None), OP, &["the latents must not share memory with the prediction"]);
        let alias = latents.with_shape(&[1, 2, 3, 4, 5]);
        rejects(check(&f32s(&LATENTS), &alias, None), OP, &["the latents must not share memory with the history"]);
        let prediction = ring.with_shape(&LATENTS);
        rejects(check(&prediction, &ring, None), OP, &["the history must not share memory with the prediction"]);
    }
}
