//! Prompt to picture, in the order it happens: tokens, text features, noise, the denoising loop, decoding.
//!
//! Written once, against [`Backend`]. The denoising loop touches the host only to launch: times, step sizes and guidance
//! are tables on the device, the step counter advances there, and one step is one recording. With guidance a step is one
//! call of twice the batch.

mod finite;
mod networks;
pub mod noise;
pub mod preview;
pub mod progress;
pub mod prompt;
pub mod request;
pub mod schedule;
pub mod stages;
pub mod step;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::model::text_encoder::TextEncoder;
use crate::model::transformer::{Captions, Transformer, padded};
use crate::model::vae::Vae;
use crate::model::vae::tiling::Tiles;
use crate::reserve;
use crate::tensor::HostTensor;
use finite::Network;
use networks::Networks;
pub use networks::Offload;
use preview::Colours;
use progress::{Progress, Run, Stage, Timings, since};
use prompt::Tokenizer;
use request::{Job, Limits};
use schedule::Schedule;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use step::Latents;
use web_time::Instant;

/// A model on a backend.
#[derive(Debug)]
pub struct Pipeline<B: Backend> {
    backend: B,
    config: ModelConfig,
    tokenizer: Tokenizer,
    networks: Networks<B>,
    warnings: Vec<String>,
    /// Fitted when a preview is wanted for the first time.
    colours: OnceLock<Colours>,
}

/// What is known of a run when its pictures are drawn.
#[derive(Debug)]
pub struct Drawn {
    /// Milliseconds.
    pub timings: Timings,
    /// What the user should know about the request, a sentence each.
    pub warnings: Vec<String>,
    /// The side in pixels of the tiles that the pictures were decoded in; `None` when they were decoded whole.
    pub vae_tile: Option<usize>,
    /// Whether all networks were on the device at once, [`Offload::None`], or in turn, [`Offload::Sequential`].
    pub offload: Offload,
}

/// What the text encoder made of some pictures' prompts, each distinct prompt once.
#[derive(Debug)]
struct Features<T> {
    /// `[P, T, C]`.
    features: T,
    /// Tokens of each.
    lengths: Vec<usize>,
    positive: Vec<usize>,
    negative: Vec<usize>,
}

impl Features<HostTensor> {
    fn on<B: Backend>(self, b: &B) -> Result<Features<B::Tensor>> {
        let Self { features, lengths, positive, negative } = self;
        Ok(Features { features: b.upload(&features)?, lengths, positive, negative })
    }
}

/// The captions of some pictures, after everything that does not depend on the step.
#[derive(Debug)]
pub struct Encoded<B: Backend> {
    captions: Captions<B>,
    /// The caption of each picture.
    positive: Vec<usize>,
    /// The caption of each picture's negative prompt; empty without guidance.
    negative: Vec<usize>,
}

impl<B: Backend> Pipeline<B> {
    /// As [`Pipeline::load_with`], with [`Offload::Auto`].
    ///
    /// # Errors
    /// As there.
    pub async fn load(backend: B, model: &Model, progress: &mut dyn Progress) -> Result<Self> {
        Self::load_with(backend, model, Offload::Auto, progress).await
    }

    /// Reads a model and uploads its tensors, or those that a run needs first; `progress` sees [`Stage::Load`].
    ///
    /// # Errors
    /// Those of the files, naming file and tensor, those of the device, and [`Error::Cancelled`].
    pub async fn load_with(backend: B, model: &Model, offload: Offload, progress: &mut dyn Progress) -> Result<Self> {
        let (folder, config) = (model.folder(), model.config().clone());
        let tokenizer = Tokenizer::load(folder).await?;
        if tokenizer.vocabulary() > config.text_encoder.vocab_size {
            let problem = format!(
                "the tokenizer has {} tokens, the text encoder embeds {}: they are of different models",
                tokenizer.vocabulary(),
                config.text_encoder.vocab_size
            );
            return Err(Error::file(tokenizer.path(), problem));
        }
        let (networks, warnings) = Networks::load(&backend, folder, &config, offload, progress).await?;
        Ok(Self { backend, config, tokenizer, networks, warnings, colours: OnceLock::new() })
    }

    /// The backend that this model is on.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Lets go of the model and gives the backend back.
    pub fn into_backend(self) -> B {
        self.backend
    }

    /// What the model's config files say.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Whether all networks are on the device at once, [`Offload::None`], or in turn, [`Offload::Sequential`].
    pub fn offload(&self) -> Offload {
        self.networks.offload()
    }

    /// The text encoder, for tests that look at it alone: loaded where the transformer is there in its place.
    ///
    /// # Errors
    /// Those of loading.
    pub async fn text_encoder(&self) -> Result<Arc<TextEncoder<B>>> {
        self.networks.text_encoder(&self.backend, &self.config, &mut silent).await
    }

    /// The transformer, for tests that look at it alone: loaded where the text encoder is there in its place.
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

    /// What is odd about the model's files without being an error.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Draws the pictures of a checked request, prompt by prompt, `job.batch` at a time. Returns U8 `[H, W, 3]` each.
    ///
    /// # Errors
    /// [`Error::Request`] for a caption that is longer than the model's positions, before anything runs;
    /// [`Error::Cancelled`]; those of the device.
    pub async fn generate(&self, job: &Job, progress: &mut dyn Progress) -> Result<(Vec<HostTensor>, Drawn)> {
        let mut pictures = Vec::with_capacity(job.images());
        let keep = &mut |_, picture| {
            pictures.push(picture);
            Ok(())
        };
        let drawn = self.generate_each(job, progress, keep).await?;
        Ok((pictures, drawn))
    }

    /// As [`Pipeline::generate`], but hands each picture to `each`, with its number, as soon as it is decoded; an error
    /// from there ends the run.
    ///
    /// # Errors
    /// Those of [`Pipeline::generate`] and of `each`.
    pub async fn generate_each(
        &self,
        job: &Job,
        progress: &mut dyn Progress,
        each: &mut dyn FnMut(usize, HostTensor) -> Result<()>,
    ) -> Result<Drawn> {
        let start = Instant::now();
        let [_, rows, columns] = self.latent_size(job.width, job.height);
        let schedule = Schedule::new(&self.config.scheduler, job.steps, [rows, columns])?;
        let guided = schedule.guided(&job.guidance).contains(&true);
        let mut warnings = job.warnings.clone();
        let mut tokens = |prompts: &[String]| {
            prompts.iter().map(|prompt| self.tokenize(prompt, &mut warnings)).collect::<Result<Vec<_>>>()
        };
        let positives = tokens(&job.prompts)?;
        let negatives = if guided { tokens(&job.negatives)? } else { Vec::new() };

        let images: Vec<usize> = (0..job.images()).collect();
        let batches: Vec<&[usize]> = images.chunks(job.batch).collect();
        let prompts = |batch: &[usize]| batch.iter().map(|&image| job.prompt(image)).collect::<Vec<_>>();
        let pick =
            |from: &[Vec<u32>], which: &[usize]| which.iter().filter_map(|&i| from.get(i).cloned()).collect::<Vec<_>>();
        let mut tiles = self.vae().decoder_tiles(&self.backend, job.vae_tile, [job.height, job.width]);
        let mut run = Run::new(progress, batches.len() * job.steps);
        let mut ahead = VecDeque::new();
        if self.offload() == Offload::Sequential {
            let mut different: Vec<Vec<usize>> = batches.iter().map(|batch| prompts(batch)).collect();
            different.dedup();
            let texts = different.iter().map(|which| (pick(&positives, which), pick(&negatives, which)));
            ahead = self.encode_ahead(texts, &mut run).await?;
            warnings.extend(self.networks.unread());
        }
        let mut last: Option<(Vec<usize>, Encoded<B>)> = None;
        for batch in batches {
            let prompts = prompts(batch);
            let captions = match last.take() {
                Some((of, captions)) if of == prompts => captions,
                _ => {
                    let encoder_start = Instant::now();
                    let captions = match ahead.pop_front() {
                        Some(features) => self.captions(&features.on(&self.backend)?).await?,
                        None => {
                            run.report(Stage::TextEncoder)?;
                            self.encode(&pick(&positives, &prompts), &pick(&negatives, &prompts)).await?
                        }
                    };
                    self.finish().await?;
                    self.backend.trim();
                    run.timings.text_encoder_ms += since(encoder_start);
                    captions
                }
            };

            let loop_start = Instant::now();
            let size = self.latent_size(job.width, job.height);
            let item: usize = size.iter().product();
            let shape = [batch.len(), size[0], size[1], size[2]];
            let mut noise = reserve::with_room(batch.len() * item, "the noise")?;
            batch.iter().for_each(|&image| noise.extend(noise::normal(job.seed(image), item)));
            let latents = HostTensor::try_from_f32(&shape, &noise)?;
            run.report_step()?;
            let latents = self.denoise(&latents, &captions, &schedule, &job.guidance, &mut run).await?;
            self.backend.trim();
            run.timings.transformer_ms += since(loop_start);

            let decoder_start = Instant::now();
            run.report(Stage::Vae)?;
            let pictures = self.decode(&latents, &mut tiles).await?;
            self.backend.trim();
            run.timings.vae_ms += since(decoder_start);
            batch.iter().zip(pictures).try_for_each(|(&image, picture)| each(image, picture))?;
            last = Some((prompts, captions));
        }
        let mut timings = run.timings;
        timings.total_ms = since(start);
        warnings.extend(tiles.warning());
        Ok(Drawn { timings, warnings, vae_tile: tiles.pixels(), offload: self.offload() })
    }

    /// The latents of a picture of `width`×`height` pixels: channels, rows, columns.
    pub fn latent_size(&self, width: usize, height: usize) -> [usize; 3] {
        let factor = self.config.vae.scale_factor();
        [self.config.vae.latent_channels, height / factor, width / factor]
    }

    /// The token ids of a prompt; a prompt that is too long is cut, and a warning says so.
    fn tokenize(&self, prompt: &str, warnings: &mut Vec<String>) -> Result<Vec<u32>> {
        let tokens = self.tokenizer.encode(prompt)?;
        let embedded = self.config.text_encoder.vocab_size;
        if let Some(id) = tokens.ids.iter().find(|&&id| id as usize >= embedded) {
            let problem = format!("token {id} is past the {embedded} that the text encoder embeds");
            return Err(Error::file(self.tokenizer.path(), problem));
        }
        Limits::of(&self.config).check_caption(padded(tokens.ids.len()))?;
        if tokens.cut > 0 {
            let start: String = prompt.chars().take(40).collect();
            let (cut, most) = (tokens.cut, prompt::MAX_TOKENS);
            warnings
                .push(format!("the prompt {start:?}… is cut: its last {cut} tokens are past the {most} that are read"));
        }
        Ok(tokens.ids)
    }

    /// Encodes the token ids of some pictures' prompts, and of their negative prompts where there is guidance: each
    /// distinct prompt once.
    ///
    /// # Errors
    /// [`Error::NonFinite`], and those of the backend.
    pub async fn encode(&self, positives: &[Vec<u32>], negatives: &[Vec<u32>]) -> Result<Encoded<B>> {
        let features = self.features(&*self.text_encoder().await?, positives, negatives)?;
        let captions = self.captions(&features).await?;
        // Last, so that the device does not wait for the host.
        self.finite_features(&features).await?;
        Ok(captions)
    }

    /// The features of several pictures' texts, before anything else is done with them: for networks that take turns.
    /// They wait on the host, and the transformer is loaded when they are there.
    async fn encode_ahead(
        &self,
        texts: impl Iterator<Item = (Vec<Vec<u32>>, Vec<Vec<u32>>)>,
        run: &mut Run<'_>,
    ) -> Result<VecDeque<Features<HostTensor>>> {
        let b = &self.backend;
        let load_start = Instant::now();
        let encoder = self.networks.text_encoder(b, &self.config, run.progress()).await?;
        run.timings.load_ms += since(load_start);

        let encoder_start = Instant::now();
        let mut ahead = VecDeque::new();
        for (positives, negatives) in texts {
            run.report(Stage::TextEncoder)?;
            let on_device = self.features(&encoder, &positives, &negatives)?;
            let features = self.finite_features(&on_device).await?;
            let Features { lengths, positive, negative, .. } = on_device;
            ahead.push_back(Features { features, lengths, positive, negative });
        }
        drop(encoder);
        run.timings.text_encoder_ms += since(encoder_start);

        let load_start = Instant::now();
        self.networks.transformer(b, &self.config, run.progress()).await?;
        run.timings.load_ms += since(load_start);
        Ok(ahead)
    }

    fn features(
        &self,
        encoder: &TextEncoder<B>,
        positives: &[Vec<u32>],
        negatives: &[Vec<u32>],
    ) -> Result<Features<B::Tensor>> {
        let mut distinct: Vec<Vec<u32>> = Vec::new();
        let mut index = |prompt: &Vec<u32>| {
            distinct.iter().position(|other| other == prompt).unwrap_or_else(|| {
                distinct.push(prompt.clone());
                distinct.len() - 1
            })
        };
        let positive = positives.iter().map(&mut index).collect();
        let negative = negatives.iter().map(&mut index).collect();
        let b = &self.backend;
        let lengths: Vec<usize> = distinct.iter().map(Vec::len).collect();
        let tokens = padded(lengths.iter().copied().max().unwrap_or(0));
        let features = encoder.forward(b, &distinct, tokens, &mut |_, _| Ok(()))?;
        Ok(Features { features, lengths, positive, negative })
    }

    /// The features on the host, where they are found to be finite.
    async fn finite_features(&self, of: &Features<B::Tensor>) -> Result<HostTensor> {
        let features = self.backend.download(&of.features).await?;
        let network = Network::TextEncoder;
        network.check_rows(&features, &of.lengths, self.networks.tensors(network)).await?;
        Ok(features)
    }

    async fn captions(&self, of: &Features<B::Tensor>) -> Result<Encoded<B>> {
        let transformer = self.transformer().await?;
        let captions = transformer.captions(&self.backend, &of.features, &of.lengths, &mut |_, _| Ok(()))?;
        Ok(Encoded { captions, positive: of.positive.clone(), negative: of.negative.clone() })
    }

    /// The denoising loop: noise F32 `[B, C, h, w]` to latents of that shape, on the host again.
    ///
    /// # Errors
    /// [`Error::Request`] for more positions than the model has, [`Error::Cancelled`], and those of the backend.
    pub async fn denoise(
        &self,
        noise: &HostTensor,
        captions: &Encoded<B>,
        schedule: &Schedule,
        guidance: &schedule::Guidance,
        run: &mut Run<'_>,
    ) -> Result<HostTensor> {
        let b = &self.backend;
        let transformer = &*self.networks.transformer(b, &self.config, run.progress()).await?;
        let pictures = noise.shape()[0];
        let size = [noise.shape()[2], noise.shape()[3]];
        let mut latents = Latents::upload(b, noise, schedule, guidance, &self.config.transformer)?;
        let mut record = |items: &[usize]| latents.record(b, transformer, &captions.captions, items);
        let both = [&captions.positive[..], &captions.negative[..]].concat();
        let guided = schedule.guided(guidance);
        let with_guidance = guided.contains(&true).then(|| record(&both)).transpose()?;
        let without = guided.contains(&false).then(|| record(&captions.positive)).transpose()?;

        let mut before = match run.wants_preview() {
            true => Some((self.colours().await?, noise.to_f32())),
            false => None,
        };
        let mut in_flight = VecDeque::new();
        let mut last = Instant::now();
        for (guided, sigmas) in guided.into_iter().zip(schedule.sigmas().windows(2)) {
            if in_flight.len() == B::IN_FLIGHT {
                self.step_finished(&mut in_flight, &mut last, run).await?;
            }
            let recorded = if guided { &with_guidance } else { &without };
            let step = recorded.as_ref().ok_or_else(|| Error::shape("replay", "a step was not recorded"))?;
            b.replay(&step.recording)?;
            in_flight.push_back(b.event()?);
            if let Some((colours, before)) = &mut before {
                let now = latents.download(b).await?.to_f32();
                let clean = preview::predicted(before, &now, [sigmas[0], sigmas[1]]);
                run.preview(&colours.pictures(&clean, [pictures, noise.shape()[1], size[0], size[1]]));
                *before = now;
                self.step_finished(&mut in_flight, &mut last, run).await?;
            }
            if run.wants_latents() {
                while !in_flight.is_empty() {
                    self.step_finished(&mut in_flight, &mut last, run).await?;
                }
                run.latents(&latents.download(b).await?);
            }
        }
        while !in_flight.is_empty() {
            self.step_finished(&mut in_flight, &mut last, run).await?;
        }
        latents.download(b).await
    }

    /// The map of previews, fitted the first time.
    async fn colours(&self) -> Result<&Colours> {
        if let Some(colours) = self.colours.get() {
            return Ok(colours);
        }
        let fitted = Colours::fit(&self.backend, self.vae(), self.config.vae.latent_channels).await;
        let fitted = self.decoded(fitted).await?;
        Ok(self.colours.get_or_init(|| fitted))
    }

    /// Waits for the oldest step in flight and reports it.
    async fn step_finished(
        &self,
        in_flight: &mut VecDeque<B::Event>,
        last: &mut Instant,
        run: &mut Run<'_>,
    ) -> Result<()> {
        if let Some(event) = in_flight.pop_front() {
            self.backend.wait(event).await?;
            run.finish_step(since(*last))?;
            *last = Instant::now();
        }
        Ok(())
    }

    /// Latents F32 `[B, C, h, w]` to pictures U8 `[H, W, 3]`, one at a time, as [`Vae::decode_picture`] does it.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when the latents or the pixels are not all finite: a picture would hide it.
    /// [`Error::File`] when a file changed that weights are still read from. Those of the backend.
    pub async fn decode(&self, latents: &HostTensor, tiles: &mut Tiles) -> Result<Vec<HostTensor>> {
        Network::Transformer.check(latents, self.networks.tensors(Network::Transformer)).await?;
        let values = latents.to_f32();
        let shape = latents.shape();
        let item = [1, shape[1], shape[2], shape[3]];
        let mut pictures = Vec::with_capacity(shape[0]);
        for values in values.chunks_exact(item.iter().product()) {
            let latents = HostTensor::from_f32(&item, values);
            let picture = self.vae().decode_picture(&self.backend, &latents, tiles).await;
            pictures.push(self.decoded(picture).await?);
        }
        self.networks.check_unchanged()?;
        Ok(pictures)
    }

    /// A result of decoding. The error for a picture that is not finite says which tensor is to blame.
    async fn decoded<T>(&self, result: Result<T>) -> Result<T> {
        match result {
            Err(Error::NonFinitePicture) => Err(Network::Vae.fault(self.networks.tensors(Network::Vae)).await),
            result => result,
        }
    }

    async fn finish(&self) -> Result<()> {
        self.backend.wait(self.backend.event()?).await
    }
}

/// For work that nobody watches.
fn silent(_: Stage) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
