//! The denoising loop. It touches the host only to launch: one step is one recording, and with
//! guidance a step is one call of twice the batch.

use super::guidance::Guidance;
use super::progress::{Run, since};
use super::sampler::{Sampler, Step};
use super::schedule::Schedule;
use super::text::Encoded;
use super::{Pipeline, preview};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::transformer::Transformer;
use crate::tensor::HostTensor;
use std::collections::VecDeque;
use web_time::Instant;

impl<B: Backend> Pipeline<B> {
    /// Denoises `start`, F32 `[B, C, h, w]` on the host, to latents of that shape on the device.
    ///
    /// # Errors
    /// [`Error::Request`] for more positions than the model has, [`Error::Cancelled`], and those of
    /// the backend.
    pub async fn denoise(
        &self,
        start: &HostTensor,
        captions: &Encoded<B>,
        schedule: &Schedule,
        guidance: &Guidance,
        run: &mut Run<'_>,
    ) -> Result<B::Tensor> {
        let sampler = Sampler::upload(&self.backend, start, schedule, guidance, &self.config.transformer)?;
        let recorded = self.record_denoising(sampler, start.clone(), captions, schedule, guidance, run).await?;
        self.run_denoising(&recorded, run).await?;
        Ok(recorded.sampler.into_latents())
    }

    /// Records the steps of the loop that `sampler` is at the start of. The host waits for nothing,
    /// so it records while the device encodes text.
    pub(super) async fn record_denoising(
        &self,
        mut sampler: Sampler<B>,
        start: HostTensor,
        captions: &Encoded<B>,
        schedule: &Schedule,
        guidance: &Guidance,
        run: &mut Run<'_>,
    ) -> Result<Denoising<B>> {
        let b = &self.backend;
        let transformer = &*self.networks.transformer(b, &self.config, run.progress()).await?;
        let guided = schedule.guided(guidance);
        let steps = self.record(&mut sampler, transformer, captions, &guided)?;
        Ok(Denoising { start, sampler, guided, sigmas: schedule.sigmas().to_vec(), steps })
    }

    /// Runs the loop.
    pub(super) async fn run_denoising(&self, recorded: &Denoising<B>, run: &mut Run<'_>) -> Result<()> {
        let b = &self.backend;
        let Denoising { start, sampler, guided, sigmas, steps } = recorded;
        let mut before = match run.wants_preview() {
            true => Some((self.latent2rgb().await?, start.to_f32())),
            false => None,
        };
        let mut queue = Queue { b, events: VecDeque::new(), last: Instant::now() };
        for (guided, sigmas) in guided.iter().zip(sigmas.windows(2)) {
            if queue.events.len() == B::IN_FLIGHT {
                queue.finish_oldest(run).await?;
            }
            queue.replay(steps.of(*guided)?)?;
            if let Some((latent2rgb, before)) = &mut before {
                let now = b.download(sampler.latents()).await?.to_f32();
                let clean = preview::predicted(before, &now, [sigmas[0], sigmas[1]]);
                run.preview(&latent2rgb.pictures(&clean, sampler.shape()));
                *before = now;
                queue.finish_oldest(run).await?;
            }
            if run.wants_latents() {
                queue.finish(run).await?;
                run.latents(&b.download(sampler.latents()).await?);
            }
        }
        queue.finish(run).await
    }

    /// Records the kinds of step that `guided`, a bool for each step, has.
    fn record(
        &self,
        sampler: &mut Sampler<B>,
        transformer: &Transformer<B>,
        captions: &Encoded<B>,
        guided: &[bool],
    ) -> Result<Steps<B>> {
        let both = [&captions.positive[..], &captions.negative[..]].concat();
        let mut record = |kind: bool, items: &[usize]| {
            let recorded = guided.contains(&kind);
            recorded.then(|| sampler.record(&self.backend, transformer, &captions.captions, items)).transpose()
        };
        Ok(Steps { guided: record(true, &both)?, plain: record(false, &captions.positive)? })
    }
}

/// A denoising loop that is recorded but has not run.
pub(super) struct Denoising<B: Backend> {
    start: HostTensor,
    sampler: Sampler<B>,
    /// For each step, whether it is guided.
    guided: Vec<bool>,
    sigmas: Vec<f32>,
    steps: Steps<B>,
}

impl<B: Backend> Denoising<B> {
    /// The latents F32 `[B, C, h, w]` that the loop changes in place.
    pub(super) fn latents(&self) -> &B::Tensor {
        self.sampler.latents()
    }
}

/// The recorded steps of a loop; `None` for a kind that the loop does not have.
struct Steps<B: Backend> {
    guided: Option<Step<B>>,
    plain: Option<Step<B>>,
}

impl<B: Backend> Steps<B> {
    fn of(&self, guided: bool) -> Result<&Step<B>> {
        let step = if guided { &self.guided } else { &self.plain };
        step.as_ref().ok_or_else(|| Error::internal("a denoising step was not recorded"))
    }
}

/// The steps that were launched and have not been waited for.
struct Queue<'a, B: Backend> {
    b: &'a B,
    events: VecDeque<B::Event>,
    /// The end of the last step that was waited for.
    last: Instant,
}

impl<B: Backend> Queue<'_, B> {
    fn replay(&mut self, step: &Step<B>) -> Result<()> {
        self.b.replay(&step.recording)?;
        self.events.push_back(self.b.event()?);
        Ok(())
    }

    /// Waits for the oldest step and reports it.
    async fn finish_oldest(&mut self, run: &mut Run<'_>) -> Result<()> {
        if let Some(event) = self.events.pop_front() {
            self.b.wait(event).await?;
            run.finish_step(since(self.last))?;
            self.last = Instant::now();
        }
        Ok(())
    }

    /// Waits for all steps and reports each.
    async fn finish(&mut self, run: &mut Run<'_>) -> Result<()> {
        while !self.events.is_empty() {
            self.finish_oldest(run).await?;
        }
        Ok(())
    }
}
