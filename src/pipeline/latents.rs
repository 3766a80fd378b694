//! The latents that denoising starts from: seeded noise.

use super::Pipeline;
use super::noise::normal;
use super::request::Job;
use crate::backend::Backend;
#[cfg(not(target_family = "wasm"))]
use crate::error::Error;
use crate::error::Result;
use crate::reserve;
use crate::tensor::HostTensor;
#[cfg(not(target_family = "wasm"))]
use std::thread::{Builder, JoinHandle};

impl<B: Backend> Pipeline<B> {
    /// The size of the latents of a `width`×`height` picture: channels, rows, columns.
    pub fn latent_size(&self, width: usize, height: usize) -> [usize; 3] {
        let factor = self.config.vae.scale_factor();
        [self.config.vae.latent_channels, height / factor, width / factor]
    }

    /// The start of a batch of pictures, given by their numbers.
    pub(super) fn start(&self, job: &Job, batch: &[usize]) -> Start {
        let seeds = batch.iter().map(|&image| job.seed(image)).collect();
        Start::new(self.latent_size(job.width, job.height), seeds)
    }
}

/// The latents at the start of denoising: noise of a seed for each picture. It is drawn on a thread
/// of its own, where the platform has threads, while the text encoder runs.
pub(super) struct Start {
    /// Channels, rows, columns.
    size: [usize; 3],
    seeds: Vec<u64>,
    #[cfg(not(target_family = "wasm"))]
    thread: Option<JoinHandle<Result<HostTensor>>>,
}

impl Start {
    #[cfg(not(target_family = "wasm"))]
    fn new(size: [usize; 3], seeds: Vec<u64>) -> Self {
        let drawn = seeds.clone();
        // Without a thread, the noise is drawn where it is needed.
        let thread = Builder::new().name("noise".into()).spawn(move || noise(size, &drawn)).ok();
        Self { size, seeds, thread }
    }

    #[cfg(target_family = "wasm")]
    fn new(size: [usize; 3], seeds: Vec<u64>) -> Self {
        Self { size, seeds }
    }

    /// The noise, F32 `[B, C, h, w]`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the host has no memory for it.
    pub(super) fn latents(self) -> Result<HostTensor> {
        #[cfg(not(target_family = "wasm"))]
        if let Some(thread) = self.thread {
            return thread.join().unwrap_or_else(|_| Err(Error::internal("the thread that draws noise panicked")));
        }
        noise(self.size, &self.seeds)
    }
}

/// Noise F32 `[B, C, h, w]`, each picture's of its own seed.
fn noise([channels, rows, columns]: [usize; 3], seeds: &[u64]) -> Result<HostTensor> {
    let item = channels * rows * columns;
    let mut values = reserve::with_room(seeds.len() * item, "the noise")?;
    seeds.iter().for_each(|&seed| values.extend(normal(seed, item)));
    HostTensor::try_from_f32(&[seeds.len(), channels, rows, columns], &values)
}
