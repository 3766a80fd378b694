//! Prompt to picture, one file a step: text, latents, denoise, decode.
//!
//! The pipeline is written once, against [`Backend`]. The denoising loop touches the host only to
//! launch: times, step sizes and guidance are tables on the device, the step index advances there,
//! and one step is one recording.

mod decode;
mod denoise;
pub(crate) mod finite;
pub mod guidance;
mod latents;
pub mod noise;
pub mod plan;
pub mod preview;
pub mod progress;
pub mod prompt;
pub mod request;
mod residency;
pub mod sampler;
pub mod schedule;
mod text;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::model::text_encoder::TextEncoder;
use crate::model::transformer::Transformer;
use crate::model::vae::Vae;
use crate::model::vae::tiling::Tiles;
use crate::tensor::HostTensor;
pub use plan::Offload;
use plan::{Needs, Plan, Residency};
use preview::Latent2Rgb;
use progress::{Progress, Run, Stage, Timings, since};
use prompt::Tokenizer;
use request::Job;
use residency::Networks;
use sampler::Sampler;
use schedule::Schedule;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use text::CaptionSource;
pub use text::Encoded;
use web_time::Instant;

/// A model on a backend.
#[derive(Debug)]
pub struct Pipeline<B: Backend> {
    backend: B,
    config: ModelConfig,
    tokenizer: Tokenizer,
    networks: Networks<B>,
    warnings: Vec<String>,
    /// Fitted for the first preview.
    latent2rgb: OnceLock<Latent2Rgb>,
}

/// The record of a run whose pictures are drawn.
#[derive(Debug, Clone)]
pub struct RunInfo {
    /// Milliseconds.
    pub timings: Timings,
    /// Warnings about the request for the user, a sentence each.
    pub warnings: Vec<String>,
    /// The side in pixels of the tiles that the pictures were decoded in; `None` when they were
    /// decoded whole.
    pub vae_tile: Option<usize>,
    /// The mode of the networks on the device.
    pub offload: Offload,
}

impl<B: Backend> Pipeline<B> {
    /// As [`Pipeline::load_with`], with the default residency.
    ///
    /// # Errors
    /// As there.
    pub async fn load(backend: B, model: &Model, progress: &mut dyn Progress) -> Result<Self> {
        Self::load_with(backend, model, Residency::default(), progress).await
    }

    /// Reads a model and uploads its tensors, or those that a run needs first; `progress` sees
    /// [`Stage::Load`].
    ///
    /// # Errors
    /// Those of the files, naming file and tensor, those of the device, and [`Error::Cancelled`].
    pub async fn load_with(
        backend: B,
        model: &Model,
        residency: impl Into<Residency>,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        let folder = model.folder();
        let config = model.config().clone();
        let tokenizer = Tokenizer::load(folder).await?;
        if tokenizer.vocabulary() > config.text_encoder.vocab_size {
            let problem = format!(
                "the tokenizer has {} tokens, the text encoder embeds {}: they are of different models",
                tokenizer.vocabulary(),
                config.text_encoder.vocab_size
            );
            return Err(Error::file(tokenizer.path(), problem));
        }
        let (networks, warnings) = Networks::load(&backend, folder, &config, &residency.into(), progress).await?;
        Ok(Self { backend, config, tokenizer, networks, warnings, latent2rgb: OnceLock::new() })
    }

    /// The backend that this model is on.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Drops the model and returns the backend.
    pub fn into_backend(self) -> B {
        self.backend
    }

    /// The content of the model's config files.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The networks on the device, and the memory that they take.
    pub fn plan(&self) -> &Plan {
        &self.networks.plan
    }

    /// The plan for a model on a backend, without loading it, with the needs that it is made for
    /// and the bytes of the model's files.
    ///
    /// # Errors
    /// Those of the files, and [`Error::Request`] for a limit that the backend does not have.
    pub async fn plan_of(backend: &B, model: &Model, residency: &Residency) -> Result<(Needs, Plan, u64)> {
        residency::plan(backend, model.folder(), model.config(), residency).await
    }

    /// The text encoder, for tests of it alone. With [`Offload::Sequential`] it replaces the
    /// transformer on the device.
    ///
    /// # Errors
    /// Those of loading.
    pub async fn text_encoder(&self) -> Result<Arc<TextEncoder<B>>> {
        self.networks.text_encoder(&self.backend, &self.config, &mut silent).await
    }

    /// The transformer, for tests of it alone. With [`Offload::Sequential`] it replaces the text
    /// encoder on the device.
    ///
    /// # Errors
    /// Those of loading.
    pub async fn transformer(&self) -> Result<Arc<Transformer<B>>> {
        self.networks.transformer(&self.backend, &self.config, &mut silent).await
    }

    /// The autoencoder.
    pub fn vae(&self) -> &Vae<B> {
        &self.networks.vae
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Oddities of the model's files that are no errors, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Draws the pictures of a checked request, prompt by prompt, `job.batch` at a time. Returns U8
    /// `[H, W, 3]` each.
    ///
    /// # Errors
    /// [`Error::Request`] for a caption that is longer than the model's positions, before anything
    /// runs; [`Error::Cancelled`]; those of the device.
    pub async fn generate(&self, job: &Job, progress: &mut dyn Progress) -> Result<(Vec<HostTensor>, RunInfo)> {
        let mut pictures = Vec::with_capacity(job.images());
        let keep = &mut |_, picture| {
            pictures.push(picture);
            Ok(())
        };
        let run = self.generate_each(job, progress, keep).await?;
        Ok((pictures, run))
    }

    /// The decoder's tiles for a job: those that the plan leaves room for.
    fn tiles(&self, job: &Job) -> Tiles {
        let size = [job.height, job.width];
        let (room, sizes) = (self.plan().decoder_room(), plan::Sizes::new(&self.backend));
        let overheads = self.backend.overheads();
        let needed = |tile| plan::decoding(&self.config.vae, size, tile, sizes, &overheads);
        let fits = |tile| room.is_none_or(|room| needed(tile) <= room);
        self.vae().decoder_tiles(&self.backend, job.vae_tile, size, fits)
    }

    /// As [`Pipeline::generate`], but hands each picture to `each`, with its number, as soon as it
    /// is decoded. An error of `each` ends the run.
    ///
    /// # Errors
    /// Those of [`Pipeline::generate`] and of `each`.
    pub async fn generate_each(
        &self,
        job: &Job,
        progress: &mut dyn Progress,
        each: &mut dyn FnMut(usize, HostTensor) -> Result<()>,
    ) -> Result<RunInfo> {
        let start = Instant::now();
        let [_, rows, columns] = self.latent_size(job.width, job.height);
        let schedule = Schedule::new(&self.config.scheduler, job.steps, [rows, columns])?;
        let guided = schedule.guided(&job.guidance).contains(&true);
        let mut warnings = job.warnings.clone();
        let mut captions = CaptionSource::new(self.tokenize(job, guided, &mut warnings)?);
        let mut tiles = self.tiles(job);

        let images: Vec<usize> = (0..job.images()).collect();
        let batches: Vec<&[usize]> = images.chunks(job.batch).collect();
        let prompts = |batch: &[usize]| batch.iter().map(|&image| job.prompt(image)).collect();
        let mut run = Run::new(progress, batches.len() * job.steps);
        if self.plan().in_turn {
            let prompts = batches.iter().map(|batch| prompts(batch)).collect();
            self.encode_ahead(&mut captions, prompts, &mut run).await?;
            warnings.extend(self.networks.unread());
        }
        for batch in batches {
            let start = self.start(job, batch);
            let (captions, launched) = self.captions(&mut captions, prompts(batch), &mut run).await?;
            // While the device encodes text, the host records all that follows.
            let start = start.latents()?;
            let sampler = Sampler::upload(&self.backend, &start, &schedule, &job.guidance, &self.config.transformer)?;
            // The decoder first: the loop, which needs less memory, then shares the decoder's.
            let decoding = self.record_decoding(sampler.latents(), &tiles)?;
            let denoising = self.record_denoising(sampler, start, captions, &schedule, &job.guidance, &mut run).await?;
            self.finish_captions(launched, &mut run).await?;

            let loop_start = Instant::now();
            run.report_step()?;
            self.run_denoising(&denoising, &mut run).await?;
            run.timings.transformer_ms += since(loop_start);

            let decoder_start = Instant::now();
            run.report(Stage::Vae)?;
            let latents = denoising.latents().clone();
            // A decoder that is not recorded needs the memory of the recorded steps.
            let denoising = decoding.is_some().then_some(denoising);
            if denoising.is_none() {
                self.backend.trim();
            }
            let pictures = self.decode_recorded(&latents, decoding, &mut tiles).await?;
            run.timings.vae_ms += since(decoder_start);
            drop((latents, denoising));
            self.backend.trim();
            batch.iter().zip(pictures).try_for_each(|(&image, picture)| each(image, picture))?;
        }
        let mut timings = run.timings;
        timings.total_ms = since(start);
        warnings.extend(tiles.warning());
        Ok(RunInfo { timings, warnings, vae_tile: tiles.pixels(), offload: self.plan().offload() })
    }
}

/// Waits for everything that was called, which shows its errors, and frees the memory that only the
/// way there needed.
async fn finish<B: Backend>(b: &B) -> Result<()> {
    b.wait(b.event()?).await?;
    b.trim();
    Ok(())
}

/// Progress that nobody watches.
fn silent(_: Stage) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
