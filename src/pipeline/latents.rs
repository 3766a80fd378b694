//! The latents that denoising starts from: seeded noise.

use super::request::Job;
use super::{Pipeline, noise};
use crate::backend::Backend;
use crate::error::Result;
use crate::reserve;
use crate::tensor::HostTensor;

impl<B: Backend> Pipeline<B> {
    /// The size of the latents of a `width`×`height` picture: channels, rows, columns.
    pub fn latent_size(&self, width: usize, height: usize) -> [usize; 3] {
        let factor = self.config.vae.scale_factor();
        [self.config.vae.latent_channels, height / factor, width / factor]
    }

    /// The start of a batch of pictures, given by their numbers: noise F32 `[B, C, h, w]`, each
    /// picture's of its own seed.
    pub(super) fn start(&self, job: &Job, batch: &[usize]) -> Result<HostTensor> {
        let [channels, rows, columns] = self.latent_size(job.width, job.height);
        let item = channels * rows * columns;
        let mut values = reserve::with_room(batch.len() * item, "the noise")?;
        batch.iter().for_each(|&image| values.extend(noise::normal(job.seed(image), item)));
        HostTensor::try_from_f32(&[batch.len(), channels, rows, columns], &values)
    }
}
