//! One denoising step as a recording: transformer, guidance and Euler step, with everything that changes from step to
//! step in tables on the device.

use super::schedule::{Guidance, Schedule};
use crate::backend::Backend;
use crate::error::Result;
use crate::model::config::TransformerConfig;
use crate::model::transformer::{Captions, Clock, Sequence, Transformer};
use crate::tensor::HostTensor;

/// Latents on their way from noise to pictures, with what their steps read.
#[derive(Debug)]
pub struct Latents<B: Backend> {
    latents: B::Tensor,
    /// `[B, C, h, w]`.
    shape: [usize; 4],
    times: B::Tensor,
    table: B::Tensor,
    step: B::Tensor,
}

/// A recorded step, to be replayed once for every step of the schedule.
#[derive(Debug)]
pub struct Step<B: Backend> {
    /// What [`Backend::replay`] takes.
    pub recording: B::Recording,
    _sequence: Sequence<B>,
}

impl<B: Backend> Latents<B> {
    /// Noise F32 `[B, C, h, w]` and the tables of a schedule, at its first step.
    ///
    /// # Errors
    /// Those of the backend; `Error::Shape` for noise that has no such shape.
    pub fn upload(
        b: &B,
        noise: &HostTensor,
        schedule: &Schedule,
        guidance: &Guidance,
        config: &TransformerConfig,
    ) -> Result<Self> {
        let steps = schedule.steps();
        let shape = crate::backend::shape::dims::<4>("denoise", "the noise", noise.shape())?;
        let rows = schedule.step_rows(guidance).concat();
        let times = schedule.times(config.t_scale as f32);
        Ok(Self {
            latents: b.upload(noise)?,
            shape,
            times: b.upload(&HostTensor::from_f32(&[steps, 1], &times))?,
            table: b.upload(&HostTensor::from_f32(&[steps, 3], &rows))?,
            step: b.upload(&HostTensor::from_u32(&[1], &[0]))?,
        })
    }

    /// Records a step. Picture `n` reads caption `items[n]`; with guidance, `items` names as many captions again, those
    /// of the negative prompts.
    ///
    /// # Errors
    /// `Error::Request` for more positions than the model has, and those of the backend.
    pub fn record(
        &mut self,
        b: &B,
        transformer: &Transformer<B>,
        captions: &Captions<B>,
        items: &[usize],
    ) -> Result<Step<B>> {
        let [pictures, _, height, width] = self.shape;
        let sequence = transformer.sequence(b, captions, pictures, items, [height, width])?;
        let recording = b.record(|b| {
            let clock = Clock { times: &self.times, step: &self.step };
            let probe = &mut |_, _: &B::Tensor| Ok(());
            let prediction = transformer.forward(b, &self.latents, clock, captions, &sequence, probe)?;
            b.guide_and_step(&mut self.latents, &prediction, &self.table, &mut self.step)
        })?;
        Ok(Step { recording, _sequence: sequence })
    }

    /// The latents after the steps that were replayed, F32 `[B, C, h, w]`.
    ///
    /// # Errors
    /// Those of the backend.
    pub async fn download(&self, b: &B) -> Result<HostTensor> {
        b.download(&self.latents).await
    }
}
