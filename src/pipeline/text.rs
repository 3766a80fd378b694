//! Text: prompts to token ids, features and captions.
//!
//! A caption is encoded once for all batches in a row that read it. Where the two large networks
//! are on the device in turn, the features of all prompts are computed before the transformer is
//! loaded, and wait on the host.

use super::finite::Network;
use super::progress::{Run, Stage, since};
use super::prompt::MAX_TOKENS;
use super::request::{Job, Limits};
use super::{Pipeline, finish};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::text_encoder::TextEncoder;
use crate::model::transformer::{Captions, padded};
use crate::tensor::HostTensor;
use std::collections::VecDeque;
use web_time::Instant;

/// The token ids of a job's prompts.
#[derive(Debug)]
pub(super) struct Texts {
    positive: Vec<Vec<u32>>,
    /// One for each prompt; empty where no step is guided.
    negative: Vec<Vec<u32>>,
}

impl Texts {
    /// The token ids of some prompts, and of their negative prompts.
    fn of(&self, prompts: &[usize]) -> [Vec<Vec<u32>>; 2] {
        [&self.positive, &self.negative].map(|texts| prompts.iter().filter_map(|&i| texts.get(i).cloned()).collect())
    }
}

/// The text encoder's output for some pictures, each distinct prompt once.
#[derive(Debug)]
struct Features<T> {
    /// `[P, T, C]`.
    features: T,
    /// Tokens of each prompt.
    lengths: Vec<usize>,
    positive: Vec<usize>,
    negative: Vec<usize>,
}

impl<T> Features<T> {
    /// The same features elsewhere.
    fn moved<U>(self, to: impl FnOnce(T) -> Result<U>) -> Result<Features<U>> {
        let Self { features, lengths, positive, negative } = self;
        Ok(Features { features: to(features)?, lengths, positive, negative })
    }
}

/// The captions of some pictures, with everything computed that does not depend on the step.
#[derive(Debug)]
pub struct Encoded<B: Backend> {
    pub(super) captions: Captions<B>,
    /// The caption of each picture.
    pub(super) positive: Vec<usize>,
    /// The caption of each picture's negative prompt; empty without guidance.
    pub(super) negative: Vec<usize>,
}

/// Captions whose computation was launched.
pub(super) struct Launched<B: Backend> {
    start: Instant,
    /// The features that are not checked yet.
    features: Option<Features<B::Tensor>>,
    /// False for the captions of the last batch.
    is_new: bool,
}

/// The captions of a run, batch by batch.
#[derive(Debug)]
pub(super) struct CaptionSource<B: Backend> {
    texts: Texts,
    /// The features of the next batches whose prompts differ, where they are computed in advance.
    ahead: VecDeque<Features<HostTensor>>,
    /// The last batch's prompts and captions.
    last: Option<(Vec<usize>, Encoded<B>)>,
}

impl<B: Backend> CaptionSource<B> {
    pub(super) fn new(texts: Texts) -> Self {
        Self { texts, ahead: VecDeque::new(), last: None }
    }
}

impl<B: Backend> Pipeline<B> {
    /// The token ids of a job's prompts, and of its negative prompts if a step is `guided`. A
    /// prompt that is too long is cut, with a warning.
    pub(super) fn tokenize(&self, job: &Job, guided: bool, warnings: &mut Vec<String>) -> Result<Texts> {
        let mut tokens = |prompts: &[String]| {
            prompts.iter().map(|prompt| self.tokenize_prompt(prompt, warnings)).collect::<Result<Vec<_>>>()
        };
        let positive = tokens(&job.prompts)?;
        let negative = if guided { tokens(&job.negatives)? } else { Vec::new() };
        Ok(Texts { positive, negative })
    }

    fn tokenize_prompt(&self, prompt: &str, warnings: &mut Vec<String>) -> Result<Vec<u32>> {
        let tokens = self.tokenizer.encode(prompt)?;
        let embedded = self.config.text_encoder.vocab_size;
        if let Some(id) = tokens.ids.iter().find(|&&id| id as usize >= embedded) {
            let problem = format!("token {id} is past the {embedded} that the text encoder embeds");
            return Err(Error::file(self.tokenizer.path(), problem));
        }
        Limits::of(&self.config).check_caption(padded(tokens.ids.len()))?;
        if tokens.cut > 0 {
            let start: String = prompt.chars().take(40).collect();
            warnings.push(format!(
                "the prompt {start:?}… is cut: its last {} tokens are past the {MAX_TOKENS} that are read",
                tokens.cut
            ));
        }
        Ok(tokens.ids)
    }

    /// Encodes the token ids of some pictures' prompts, and of their negative prompts where there
    /// is guidance: each distinct prompt once.
    ///
    /// # Errors
    /// [`Error::NonFinite`], and those of the backend.
    pub async fn encode(&self, positives: &[Vec<u32>], negatives: &[Vec<u32>]) -> Result<Encoded<B>> {
        let (captions, features) = self.launch_encoder(positives, negatives).await?;
        self.download_features(&features).await?;
        Ok(captions)
    }

    /// As [`Pipeline::encode`], without waiting for the device: the features are not checked.
    async fn launch_encoder(
        &self,
        positives: &[Vec<u32>],
        negatives: &[Vec<u32>],
    ) -> Result<(Encoded<B>, Features<B::Tensor>)> {
        let features = self.features(&*self.text_encoder().await?, positives, negatives)?;
        Ok((self.refine(&features).await?, features))
    }

    /// Computes the features of all batches, whose prompts are `batches`, and then loads the
    /// transformer.
    pub(super) async fn encode_ahead(
        &self,
        source: &mut CaptionSource<B>,
        mut batches: Vec<Vec<usize>>,
        run: &mut Run<'_>,
    ) -> Result<()> {
        let b = &self.backend;
        let load_start = Instant::now();
        let encoder = self.networks.text_encoder(b, &self.config, run.progress()).await?;
        run.timings.load_ms += since(load_start);

        let encoder_start = Instant::now();
        batches.dedup();
        for prompts in batches {
            run.report(Stage::TextEncoder)?;
            let [positives, negatives] = source.texts.of(&prompts);
            let features = self.features(&encoder, &positives, &negatives)?;
            let downloaded = self.download_features(&features).await?;
            source.ahead.push_back(features.moved(|_| Ok(downloaded))?);
        }
        drop(encoder);
        run.timings.text_encoder_ms += since(encoder_start);

        let load_start = Instant::now();
        self.networks.transformer(b, &self.config, run.progress()).await?;
        run.timings.load_ms += since(load_start);
        Ok(())
    }

    /// The captions of the next batch, whose pictures show `prompts`. They are computed while the
    /// caller goes on, up to [`Pipeline::finish_captions`].
    pub(super) async fn captions<'a>(
        &self,
        source: &'a mut CaptionSource<B>,
        prompts: Vec<usize>,
        run: &mut Run<'_>,
    ) -> Result<(&'a Encoded<B>, Launched<B>)> {
        let start = Instant::now();
        let mut launched = Launched { start, features: None, is_new: true };
        let captions = match source.last.take() {
            Some((of, captions)) if of == prompts => {
                launched.is_new = false;
                captions
            }
            _ => match source.ahead.pop_front() {
                Some(features) => self.refine(&features.moved(|host| self.backend.upload(&host))?).await?,
                None => {
                    run.report(Stage::TextEncoder)?;
                    let [positives, negatives] = source.texts.of(&prompts);
                    let (captions, features) = self.launch_encoder(&positives, &negatives).await?;
                    launched.features = Some(features);
                    captions
                }
            },
        };
        Ok((&source.last.insert((prompts, captions)).1, launched))
    }

    /// Waits for the captions and checks the features that they are made of.
    ///
    /// # Errors
    /// [`Error::NonFinite`], and those of the backend.
    pub(super) async fn finish_captions(&self, launched: Launched<B>, run: &mut Run<'_>) -> Result<()> {
        if !launched.is_new {
            return Ok(());
        }
        if let Some(features) = &launched.features {
            self.download_features(features).await?;
        }
        let start = launched.start;
        drop(launched);
        finish(&self.backend).await?;
        run.timings.text_encoder_ms += since(start);
        Ok(())
    }

    /// Runs the text encoder on each distinct prompt.
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
        let lengths: Vec<usize> = distinct.iter().map(Vec::len).collect();
        let tokens = padded(lengths.iter().copied().max().unwrap_or(0));
        let features = encoder.forward(&self.backend, &distinct, tokens, &mut |_, _| Ok(()))?;
        Ok(Features { features, lengths, positive, negative })
    }

    /// The features on the host, where they are checked to be finite.
    async fn download_features(&self, of: &Features<B::Tensor>) -> Result<HostTensor> {
        let features = self.backend.download(&of.features).await?;
        let network = Network::TextEncoder;
        network.check_rows(&features, &of.lengths, self.networks.tensors(network)).await?;
        Ok(features)
    }

    /// Embeds and refines the captions.
    async fn refine(&self, of: &Features<B::Tensor>) -> Result<Encoded<B>> {
        let transformer = self.transformer().await?;
        let captions = transformer.captions(&self.backend, &of.features, &of.lengths, &mut |_, _| Ok(()))?;
        Ok(Encoded { captions, positive: of.positive.clone(), negative: of.negative.clone() })
    }
}
