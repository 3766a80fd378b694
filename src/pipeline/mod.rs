//! Prompt to picture, in the order it happens: tokens, text features, noise, the denoising loop, decoding.
//!
//! Written once, against [`Backend`]. The denoising loop touches the host only to launch: times, step sizes and guidance
//! are tables on the device, the step counter advances there, and one step is one recording. With guidance a step is one
//! call of twice the batch.

pub mod noise;
pub mod preview;
pub mod progress;
pub mod prompt;
pub mod request;
pub mod schedule;
pub mod stages;

use crate::backend::{Backend, HostTensor};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::model::text_encoder::TextEncoder;
use crate::model::transformer::{Captions, Clock, Transformer, padded};
use crate::model::vae::Vae;
use crate::model::vae::tiling::Tiles;
use crate::weights::{ModelFolder, excerpt};
use preview::Colours;
use progress::{Loading, Progress, Run, Stage, Timings, since};
use prompt::Tokenizer;
use request::{Job, Limits};
use schedule::Schedule;
use std::collections::VecDeque;
use std::sync::OnceLock;
use web_time::Instant;

/// A model on a backend.
#[derive(Debug)]
pub struct Pipeline<B: Backend> {
    backend: B,
    config: ModelConfig,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder<B>,
    transformer: Transformer<B>,
    vae: Vae<B>,
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
    /// Reads a model and uploads each of its tensors once; `progress` sees [`Stage::Load`].
    ///
    /// # Errors
    /// Those of the files, naming file and tensor, those of the device, and [`Error::Cancelled`].
    pub async fn load(backend: B, model: &Model, progress: &mut dyn Progress) -> Result<Self> {
        let (folder, config) = (model.folder(), model.config().clone());
        let file = "tokenizer/tokenizer.json";
        let tokenizer = Tokenizer::read(&folder.read(file).await?, &folder.path(file))?;
        if tokenizer.vocabulary() > config.text_encoder.vocab_size {
            let problem = format!(
                "the tokenizer has {} tokens, the text encoder embeds {}: they are of different models",
                tokenizer.vocabulary(),
                config.text_encoder.vocab_size
            );
            return Err(Error::file(&folder.path(file), problem));
        }
        let text = TextEncoder::<B>::open(folder).await?;
        let image = Transformer::<B>::open(folder).await?;
        let pixels = Vae::<B>::open(folder).await?;
        let left = |name: &str| TextEncoder::<B>::leaves(&config.text_encoder, name);
        let loading = Loading::new(progress, text.bytes_but(left) + image.bytes() + pixels.bytes());
        loading.read(0)?;
        let on_read = &|bytes| loading.read(bytes);
        let text_encoder = TextEncoder::load(&backend, &text, &config.text_encoder, on_read).await?;
        let transformer = Transformer::load(&backend, &image, &config.transformer, on_read).await?;
        let vae = Vae::load(&backend, &pixels, &config.vae, on_read).await?;
        // What the device could not take shows when it is done.
        backend.wait(backend.event()?).await?;
        let unread = [
            ("text_encoder", text.unread(left)),
            ("transformer", image.unread(|_| false)),
            ("vae", pixels.unread(|_| false)),
        ];
        let warnings = unread.into_iter().filter_map(|(part, names)| unread_warning(folder, part, &names)).collect();
        Ok(Self { backend, config, tokenizer, text_encoder, transformer, vae, warnings, colours: OnceLock::new() })
    }

    /// The backend that this model is on.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// What the model's config files say.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The networks, for tests that look at one stage alone.
    pub fn networks(&self) -> (&TextEncoder<B>, &Transformer<B>, &Vae<B>) {
        (&self.text_encoder, &self.transformer, &self.vae)
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
        let schedule = Schedule::new(job.steps, self.config.scheduler.shift);
        let guided = schedule.guided(&job.guidance).contains(&true);
        let mut warnings = Vec::new();
        let mut tokens = |prompts: &[String]| {
            prompts.iter().map(|prompt| self.tokenize(prompt, &mut warnings)).collect::<Result<Vec<_>>>()
        };
        let positives = tokens(&job.prompts)?;
        let negatives = if guided { tokens(&job.negatives)? } else { Vec::new() };

        let images: Vec<usize> = (0..job.images()).collect();
        let batches: Vec<&[usize]> = images.chunks(job.batch).collect();
        let mut tiles = self.vae.decoder_tiles(&self.backend, job.vae_tile, [job.height, job.width]);
        let mut run = Run::new(progress, batches.len() * job.steps);
        let mut last: Option<(Vec<usize>, Encoded<B>)> = None;
        for batch in batches {
            let prompts: Vec<usize> = batch.iter().map(|&image| job.prompt(image)).collect();
            let captions = match last.take() {
                Some((of, captions)) if of == prompts => captions,
                _ => {
                    let encoder_start = Instant::now();
                    run.report(Stage::TextEncoder)?;
                    let pick = |from: &[Vec<u32>]| {
                        prompts.iter().filter_map(|&prompt| from.get(prompt).cloned()).collect::<Vec<_>>()
                    };
                    let captions = self.encode(&pick(&positives), &pick(&negatives))?;
                    self.finish().await?;
                    self.backend.trim();
                    run.timings.text_encoder_ms += since(encoder_start);
                    captions
                }
            };

            let loop_start = Instant::now();
            let size = self.latent_size(job.width, job.height);
            let item: usize = size.iter().product();
            let noise: Vec<f32> = batch.iter().flat_map(|&image| noise::normal(job.seed(image), item)).collect();
            let shape = [batch.len(), size[0], size[1], size[2]];
            let latents = HostTensor::from_f32(&shape, &noise);
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
        Ok(Drawn { timings, warnings, vae_tile: tiles.pixels() })
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
    /// Those of the backend.
    pub fn encode(&self, positives: &[Vec<u32>], negatives: &[Vec<u32>]) -> Result<Encoded<B>> {
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
        let features = self.text_encoder.forward(b, &distinct, tokens, &mut |_, _| Ok(()))?;
        let captions = self.transformer.captions(b, &features, &lengths, &mut |_, _| Ok(()))?;
        Ok(Encoded { captions, positive, negative })
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
        let (steps, pictures) = (schedule.steps(), noise.shape()[0]);
        let size = [noise.shape()[2], noise.shape()[3]];
        let rows = schedule.step_rows(guidance).concat();
        let times = schedule.times(self.config.transformer.t_scale as f32);
        let times = b.upload(&HostTensor::from_f32(&[steps, 1], &times))?;
        let table = b.upload(&HostTensor::from_f32(&[steps, 3], &rows))?;
        let mut step = b.upload(&HostTensor::from_u32(&[1], &[0]))?;
        let mut latents = b.upload(noise)?;

        let mut record = |items: &[usize]| {
            let sequence = self.transformer.sequence(b, &captions.captions, pictures, items, size)?;
            let recording = b.record(|b| {
                let clock = Clock { times: &times, step: &step };
                let probe = &mut |_, _: &B::Tensor| Ok(());
                let prediction = self.transformer.forward(b, &latents, clock, &captions.captions, &sequence, probe)?;
                b.guide_and_step(&mut latents, &prediction, &table, &mut step)
            })?;
            Ok::<_, Error>((sequence, recording))
        };
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
            let (_, recording) = recorded.as_ref().ok_or_else(|| Error::shape("replay", "a step was not recorded"))?;
            b.replay(recording)?;
            in_flight.push_back(b.event()?);
            if let Some((colours, before)) = &mut before {
                let now = b.download(&latents).await?.to_f32();
                let clean = preview::predicted(before, &now, [sigmas[0], sigmas[1]]);
                run.preview(&colours.pictures(&clean, [pictures, noise.shape()[1], size[0], size[1]]));
                *before = now;
                self.step_finished(&mut in_flight, &mut last, run).await?;
            }
            if run.wants_latents() {
                while !in_flight.is_empty() {
                    self.step_finished(&mut in_flight, &mut last, run).await?;
                }
                run.latents(&b.download(&latents).await?);
            }
        }
        while !in_flight.is_empty() {
            self.step_finished(&mut in_flight, &mut last, run).await?;
        }
        b.download(&latents).await
    }

    /// The map of previews, fitted the first time.
    async fn colours(&self) -> Result<&Colours> {
        if let Some(colours) = self.colours.get() {
            return Ok(colours);
        }
        let fitted = Colours::fit(&self.backend, &self.vae, self.config.vae.latent_channels).await?;
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
    /// [`Error::Device`] when the latents or the pixels are not all numbers: a black picture would hide it. Those of
    /// the backend.
    pub async fn decode(&self, latents: &HostTensor, tiles: &mut Tiles) -> Result<Vec<HostTensor>> {
        let values = latents.to_f32();
        if !values.iter().all(|value| value.is_finite()) {
            let sentence = "the transformer returned values that are not numbers, so there is no picture to show; \
                            please report the model and the device";
            return Err(Error::Device(sentence.into()));
        }
        let shape = latents.shape();
        let item = [1, shape[1], shape[2], shape[3]];
        let mut pictures = Vec::with_capacity(shape[0]);
        for values in values.chunks_exact(item.iter().product()) {
            let latents = HostTensor::from_f32(&item, values);
            pictures.push(self.vae.decode_picture(&self.backend, &latents, tiles).await?);
        }
        Ok(pictures)
    }

    async fn finish(&self) -> Result<()> {
        self.backend.wait(self.backend.event()?).await
    }
}

/// One sentence about the tensors of a part that nothing reads.
fn unread_warning(folder: &ModelFolder, part: &str, names: &[String]) -> Option<String> {
    const SHOWN: usize = 3;
    if names.is_empty() {
        return None;
    }
    let list: Vec<String> = names.iter().take(SHOWN).map(|name| excerpt(name)).collect();
    let rest = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    Some(format!("{}: nothing reads the tensors {}{rest}", folder.path(part).display(), list.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_one_short_line_whatever_the_names() {
        let folder = ModelFolder::in_memory("emoji", &[]);
        let warning =
            |names: &[&str]| unread_warning(&folder, "vae", &names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(warning(&[]), None);
        assert_eq!(warning(&["a"]).unwrap(), "emoji/vae: nothing reads the tensors a");
        assert_eq!(warning(&["a", "b", "c", "d"]).unwrap(), "emoji/vae: nothing reads the tensors a, b, c and 1 more");
        let hostile = warning(&["\u{1b}[2J\n", &"x".repeat(1_000_000)]).unwrap();
        assert!(hostile.len() < 500 && !hostile.contains(char::is_control), "{hostile}");
    }
}
