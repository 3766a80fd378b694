//! `guide_and_step`: guidance, its norm cap, and the Euler step.

use super::{DeviceTensor, Result, Runtime, check};
use crate::tensor::DType;

/// The arguments of [`GuideAndStepOp::guide_and_step`].
#[derive(Debug)]
pub struct GuideAndStepArgs<'a, T> {
    /// F32 `[B, C, H, W]`, changed in place.
    pub latents: &'a mut T,
    /// F32 `[B, C, H, W]`, or `[2B, C, H, W]` with guidance.
    pub prediction: &'a T,
    /// F32 `[N, 3]`.
    pub table: &'a T,
    /// U32 `[1]`, incremented.
    pub step: &'a mut T,
}

impl<T: DeviceTensor> GuideAndStepArgs<'_, T> {
    /// Checks the arguments.
    pub fn check(&self) -> Result<()> {
        let op = "guide_and_step";
        let latents @ [b, c, h, w] = check::exactly(op, "the latents", self.latents, DType::F32)?;
        let prediction: [usize; 4] = check::exactly(op, "the prediction", self.prediction, DType::F32)?;
        check::ensure(prediction == latents || prediction == [2 * b, c, h, w], op, || {
            format!("a prediction {prediction:?} does not fit latents {latents:?}")
        })?;
        let [_, columns] = check::exactly(op, "the table of steps", self.table, DType::F32)?;
        check::ensure(columns == 3, op, || format!("the table of steps has {columns} columns, not 3"))?;
        check::integers(op, "the step", self.step, 1)?;
        let [prediction, table] = [("the prediction", Some(self.prediction)), ("the table of steps", Some(self.table))];
        check::apart(op, ("the latents", self.latents), &[prediction, table, ("the step", Some(self.step))])?;
        check::apart(op, ("the step", self.step), &[prediction, table])
    }
}

/// The step of the denoising loop.
pub trait GuideAndStepOp: Runtime {
    /// Guidance, its norm cap and the Euler step in one, in F32. Row `step` of the device-side `table` F32 `[N, 3]` is
    /// `(delta, g, c)`. For every item `b`, with `p = prediction[b]` and, where `prediction` holds 2B items,
    /// `q = prediction[B + b]`:
    ///
    /// `v = p + g·(p − q)`; if `c > 0` and `‖v‖ > c·‖p‖` then `v ← v·(c·‖p‖/‖v‖)`; `latents[b] += delta·v`.
    ///
    /// Where `prediction` holds B items, `v = p` and nothing is capped. Then `step += 1`, on the device. `latents` F32
    /// `[B, C, H, W]`, in place; `step` U32 `[1]`, in place.
    fn guide_and_step(
        &self,
        latents: &mut Self::Tensor,
        prediction: &Self::Tensor,
        table: &Self::Tensor,
        step: &mut Self::Tensor,
    ) -> Result<()> {
        let args = GuideAndStepArgs { latents, prediction, table, step };
        args.check()?;
        self.run_guide_and_step(args)
    }

    /// Runs [`GuideAndStepOp::guide_and_step`] on checked arguments.
    fn run_guide_and_step(&self, args: GuideAndStepArgs<'_, Self::Tensor>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{f32s, rejects, u32s};
    use super::*;

    const LATENTS: [usize; 4] = [2, 3, 4, 5];

    #[test]
    fn predictions_are_one_or_two_per_item() {
        let op = "guide_and_step";
        let check = |prediction: &[usize], table: &[usize], step: &[usize]| {
            let (mut latents, mut step) = (f32s(&LATENTS), u32s(step));
            let (prediction, table) = (f32s(prediction), f32s(table));
            GuideAndStepArgs { latents: &mut latents, prediction: &prediction, table: &table, step: &mut step }.check()
        };
        check(&LATENTS, &[9, 3], &[1]).unwrap();
        check(&[4, 3, 4, 5], &[9, 3], &[1]).unwrap();
        for prediction in [[3, 3, 4, 5], [1, 3, 4, 5], [4, 3, 5, 4]] {
            rejects(check(&prediction, &[9, 3], &[1]), op, &[&format!("{prediction:?}"), "[2, 3, 4, 5]"]);
        }
        rejects(check(&LATENTS, &[9, 2], &[1]), op, &["2 columns"]);
        rejects(check(&LATENTS, &[9, 3], &[2]), op, &["the step", "[2]"]);
    }

    #[test]
    fn targets_must_not_be_inputs() {
        let (mut latents, table, mut step) = (f32s(&LATENTS), f32s(&[9, 3]), u32s(&[1]));
        let prediction = latents.clone();
        let args = GuideAndStepArgs { latents: &mut latents, prediction: &prediction, table: &table, step: &mut step };
        let message = "the latents must not share memory with the prediction";
        rejects(args.check(), "guide_and_step", &[message]);
    }
}
