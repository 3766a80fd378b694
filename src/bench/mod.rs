//! How fast a backend is: every verb at the sizes of a model, every stage, and whole pictures. Needs no model files:
//! [`Published`] makes the published models with random weights.
//!
//! Host clock around work that was queued and waited for; medians of several runs after warming up. What is measured is
//! what the pipeline does: the same recording of a step, the same calls of the other networks.
//!
//! # The share of the denoising loop in which the device is idle
//! A step's own time is the median of replays that are queued back to back, so that the device never waits for the host.
//! The loop's time is the host's, from the first launch to the end of the last step, while a picture is drawn. What the
//! loop takes longer than `steps` times a step is time in which the device waits: `1 − steps · step / loop`.
//!
//! # Memory
//! [`Backend::peak_memory`] is read once the pictures are drawn and before anything else is measured, and again at the
//! end.

mod cases;
mod pictures;
mod published;
mod report;
mod sizes;
mod stages;
mod timing;
mod verbs;

pub use published::Published;
pub use report::{Header, Pictures, Report, Row, Units};
pub use timing::Spread;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::model::text_encoder::TextEncoder;
use crate::model::transformer::Transformer;
use crate::model::vae::Vae;
use crate::pipeline::Pipeline;
use crate::pipeline::progress::{Progress, Stage, since};
use crate::pipeline::prompt::MAX_TOKENS;
use crate::pipeline::request::{Limits, Request};
use crate::weights::RandomTensors;
use pictures::PICTURE;
use sizes::Sizes;
use stages::{Bench, TEXT_ENCODER, TRANSFORMER, VAE};
use std::ops::ControlFlow;
use verbs::Case;
use web_time::Instant;

/// The most runs that can be asked for.
const MOST_RUNS: usize = 1000;

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Width of the picture in pixels; `None` is the model's own.
    pub width: Option<usize>,
    /// Height of the picture in pixels; `None` is the model's own.
    pub height: Option<usize>,
    /// Tokens of the caption, those of the chat template included.
    pub caption_tokens: usize,
    /// How often each thing is measured at most; once at least, and less often where it takes long.
    pub runs: usize,
    /// Only what has this in its name. Networks that nothing of it needs are not loaded.
    pub filter: String,
}

impl Default for Options {
    /// Everything, ten times, with a caption of 128 tokens at the model's own size.
    fn default() -> Self {
        Self { width: None, height: None, caption_tokens: 128, runs: 10, filter: String::new() }
    }
}

/// Something to see while things are measured.
#[derive(Debug)]
#[non_exhaustive]
pub enum Seen<'a> {
    /// The subject of the measurements, before any begins.
    Header(&'a Header),
    /// The work that begins now, in words: loading, or measuring a row.
    Phase(&'a str),
    /// The progress of that work, where it has stages.
    Stage(Stage),
    /// A row, as soon as it is there.
    Row(&'a Row),
}

/// Rows as they are measured, and the one who watches them.
struct Watched<'a> {
    see: &'a mut dyn FnMut(Seen<'_>) -> Result<()>,
    rows: Vec<Row>,
}

impl Watched<'_> {
    fn phase(&mut self, words: &str) -> Result<()> {
        (self.see)(Seen::Phase(words))
    }

    /// The row of this name is measured from now on.
    fn measure(&mut self, name: &str) -> Result<()> {
        self.phase(&format!("measuring {name}"))
    }

    fn row(&mut self, row: Row) -> Result<()> {
        (self.see)(Seen::Row(&row))?;
        self.rows.push(row);
        Ok(())
    }
}

impl Progress for Watched<'_> {
    fn update(&mut self, stage: Stage) -> ControlFlow<()> {
        match (self.see)(Seen::Stage(stage)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// Measures a backend with a model; `see` is told of every phase and of every row. An error from it
/// about a stage ends the run as [`Error::Cancelled`].
///
/// # Errors
/// [`Error::Request`] for sizes that the model has not, or when nothing has the filter in its name; those of the files, of
/// the backend, and of `see`. What the device has no room for is a row without times where it is a verb, else an error.
pub async fn run<B: Backend + 'static>(
    backend: B,
    model: &Model,
    options: &Options,
    see: &mut dyn FnMut(Seen<'_>) -> Result<()>,
) -> Result<Report> {
    let config = model.config();
    let sizes = checked(config, options)?;
    let wanted = |name: &str| name.contains(&options.filter);
    let cases: Vec<Case<B>> = cases::all(&sizes).into_iter().filter(|case: &Case<B>| wanted(&case.name)).collect();
    let any = |names: &[&str]| names.iter().any(|name| wanted(name));
    if cases.is_empty() && !any(&[&PICTURE[..], &TEXT_ENCODER, &TRANSFORMER, &VAE].concat()) {
        return Err(Error::Request(format!("nothing that is measured has {:?} in its name", options.filter)));
    }

    // Before anything is loaded, so that what cannot be drawn costs no time.
    let job = if any(&PICTURE) { Some(pictures::job(model, &sizes).await?) } else { None };
    let activations = backend.activations();
    let header = Header {
        backend: backend.name().into(),
        device: backend.device(),
        activations: activations.to_string(),
        operands: backend.operands().to_string(),
        model: model.name().into(),
        width: sizes.picture[1],
        height: sizes.picture[0],
        caption_tokens: sizes.caption,
        sequence_tokens: sizes.layer().tokens,
    };
    see(Seen::Header(&header))?;
    let mut watched = Watched { see, rows: Vec::new() };

    let (random, runs) = (RandomTensors::default(), options.runs);
    let mut pictures = None;
    let backend = if let Some(job) = job {
        watched.phase("loading the model")?;
        let start = Instant::now();
        let pipeline = Pipeline::load(backend, model, &mut watched).await?;
        let load_ms = since(start);
        let bench = Bench { b: pipeline.backend(), sizes, random: &random, activations, runs };
        pictures = Some(pictures::draw(&bench, &pipeline, &job, load_ms, wanted, &mut watched).await?);
        bench.text_encoder(&*pipeline.text_encoder().await?, wanted, &mut watched).await?;
        bench.transformer(&*pipeline.transformer().await?, wanted, &mut watched).await?;
        bench.vae(pipeline.vae(), wanted, &mut watched).await?;
        pipeline.into_backend()
    } else {
        let (b, folder, on_read) = (&backend, model.folder(), &|_| Ok(()));
        let bench = Bench { b, sizes, random: &random, activations, runs };
        if any(&TEXT_ENCODER) {
            watched.phase("loading the text encoder")?;
            let tensors = TextEncoder::<B>::open(folder).await?;
            let network = TextEncoder::load(b, &tensors, &config.text_encoder, on_read).await?;
            bench.text_encoder(&network, wanted, &mut watched).await?;
        }
        if any(&TRANSFORMER) {
            watched.phase("loading the transformer")?;
            let tensors = Transformer::<B>::open(folder).await?;
            let network = Transformer::load(b, &tensors, &config.transformer, on_read).await?;
            bench.transformer(&network, wanted, &mut watched).await?;
        }
        if any(&VAE) {
            watched.phase("loading the VAE")?;
            let tensors = Vae::<B>::open(folder).await?;
            let network = Vae::load(b, &tensors, &config.vae, on_read).await?;
            bench.vae(&network, wanted, &mut watched).await?;
        }
        backend
    };
    backend.trim();
    for case in &cases {
        watched.measure(&case.name)?;
        watched.row(case.measure(&backend, &random, activations, runs).await?)?;
    }
    Ok(Report { header, units: Units::ALL, rows: watched.rows, pictures, peak_memory: backend.peak_memory() })
}

/// The sizes that are wanted, if they are some that the model has.
fn checked<'a>(config: &'a ModelConfig, options: &Options) -> Result<Sizes<'a>> {
    let Options { width, height, caption_tokens, runs, .. } = *options;
    let job = Request { width, height, ..Request::new("") }.check(config)?;
    if !(1..=MOST_RUNS).contains(&runs) {
        return Err(Error::Request(format!("{runs} runs are not possible: use 1 to {MOST_RUNS}")));
    }
    if !(1..=MAX_TOKENS).contains(&caption_tokens) {
        return Err(Error::Request(format!(
            "a caption of {caption_tokens} tokens is not possible: use 1 to {MAX_TOKENS}"
        )));
    }
    let sizes = Sizes { config, picture: [job.height, job.width], caption: caption_tokens };
    Limits::of(config).check_caption(sizes.caption_tokens())?;
    Ok(sizes)
}
