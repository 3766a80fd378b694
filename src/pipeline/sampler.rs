//! The sampler's state on the device, and one denoising step as a recording: transformer, guidance
//! and Euler step.
//!
//! Every number that changes from step to step is a row of a table on the device, where the step
//! index advances too.

use super::guidance::Guidance;
use super::schedule::Schedule;
use crate::backend::shape::dims;
use crate::backend::{Backend, SamplerRow, SamplerState};
use crate::error::Result;
use crate::model::config::TransformerConfig;
use crate::model::transformer::{Captions, Clock, Sequence, Transformer};
use crate::tensor::HostTensor;

/// The latents of a batch on their way from noise to pictures, and the tables of their steps.
#[derive(Debug)]
pub struct Sampler<B: Backend> {
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
    /// The argument of [`Runtime::replay`](crate::backend::Runtime::replay).
    pub recording: B::Recording,
    _sequence: Sequence<B>,
}

impl<B: Backend> Sampler<B> {
    /// Uploads latents F32 `[B, C, h, w]` and the tables of a schedule, at its first step.
    ///
    /// # Errors
    /// Those of the backend; [`Error::Shape`](crate::Error::Shape) for latents of another rank.
    pub fn upload(
        b: &B,
        start: &HostTensor,
        schedule: &Schedule,
        guidance: &Guidance,
        config: &TransformerConfig,
    ) -> Result<Self> {
        let steps = schedule.steps();
        let shape = dims::<4>("denoise", "the noise", start.shape())?;
        let rows: Vec<f32> = schedule.step_rows(guidance).iter().flat_map(SamplerRow::values).collect();
        let times = schedule.times(config.t_scale as f32);
        Ok(Self {
            latents: b.upload(start)?,
            shape,
            times: b.upload(&HostTensor::from_f32(&[steps, 1], &times))?,
            table: b.upload(&HostTensor::from_f32(&[steps, SamplerRow::COLUMNS], &rows))?,
            step: b.upload(&HostTensor::from_u32(&[1], &[0]))?,
        })
    }

    /// Records a step. Picture `n` reads caption `items[n]`; with guidance, `items` names as many
    /// captions again, those of the negative prompts.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for more positions than the model has, and those
    /// of the backend.
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
            let sampler = SamplerState { table: &self.table, history: None, noise: None };
            b.sampler_step(&mut self.latents, &prediction, sampler, &mut self.step)
        })?;
        Ok(Step { recording, _sequence: sequence })
    }

    /// The shape of the latents, `[B, C, h, w]`.
    pub(super) fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// The latents after the steps replayed so far, F32 `[B, C, h, w]`.
    pub fn latents(&self) -> &B::Tensor {
        &self.latents
    }

    /// The latents alone. The recordings of [`Sampler::record`] are not replayed afterwards.
    pub fn into_latents(self) -> B::Tensor {
        self.latents
    }
}
