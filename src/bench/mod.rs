//! The speed of a backend: ops at the sizes of a model, stages, and whole pictures. No model files
//! are needed: [`Published`] makes the published models with random weights.
//!
//! Times are host times of queued work, up to the end of the wait for it. Rows are medians of
//! several runs after warm-ups. The work is the pipeline's own: the same recording of a step, the
//! same calls of the other networks. The ops come from [`mod@crate::catalogue`].
//!
//! # The share of the denoising loop in which the device is idle
//! The time of a step is the median of replays that are queued back to back, so that the device
//! never waits for the host. The time of the loop is the host's, from the first launch to the end
//! of the last step, while a picture is generated. The loop takes longer than its steps because the
//! device waits in between, for a share of `1 − steps · step / loop`.
//!
//! # Memory
//! [`Runtime::peak_memory`](crate::backend::Runtime::peak_memory) is read after the pictures and
//! before the other rows, and again at the end.

mod cases;
mod estimate;
mod ops;
mod pictures;
mod published;
mod report;
mod sizes;
mod stages;
mod timing;

pub use estimate::Estimate;
pub use published::Published;
pub use report::{Header, Pictures, Report, Row, Units};
pub use timing::Spread;

use crate::backend::Backend;
use crate::catalogue::Case;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::model::text_encoder::TextEncoder;
use crate::model::transformer::Transformer;
use crate::model::vae::Vae;
use crate::pipeline::Pipeline;
use crate::pipeline::plan::{Expected, Residency};
use crate::pipeline::progress::{Progress, Stage, since};
use crate::pipeline::prompt::MAX_TOKENS;
use crate::pipeline::request::{Limits, Request};
use crate::tensor::Format;
use crate::weights::{Part, RandomTensors, Tensors};
use pictures::PICTURE;
use sizes::Sizes;
use stages::{Bench, TEXT_ENCODER, TRANSFORMER, VAE};
use std::ops::ControlFlow;
use web_time::Instant;

/// Maximum runs of a row.
const MAX_RUNS: usize = 1000;

/// The rows to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Width of the picture in pixels; `None` is the model's own.
    pub width: Option<usize>,
    /// Height of the picture in pixels; `None` is the model's own.
    pub height: Option<usize>,
    /// Tokens of the caption, including the chat template.
    pub caption_tokens: usize,
    /// Maximum runs of each row, at least 1. Slow rows have fewer runs.
    pub runs: usize,
    /// The format of the matrices of attention and feed-forward layers in the rows of ops, one of
    /// [`RANDOM_FORMATS`](crate::weights::RANDOM_FORMATS); `None` is BF16. Operands of FP8 gemms
    /// ([`Model::with_fp8`]) are in E4M3. The other rows have the weights of the model.
    pub weights: Option<Format>,
    /// Only rows whose name contains this text. Networks that no selected row needs are not loaded.
    pub filter: String,
}

impl Default for Options {
    /// All rows, ten runs, a caption of 128 tokens, the model's own size, BF16.
    fn default() -> Self {
        Self { width: None, height: None, caption_tokens: 128, runs: 10, weights: None, filter: String::new() }
    }
}

/// An event of a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Seen<'a> {
    /// The subject of the measurements, before the first one.
    Header(&'a Header),
    /// The current work in words: loading, or measuring a row.
    Phase(&'a str),
    /// The progress of that work, if it has stages.
    Stage(Stage),
    /// A finished row.
    Row(&'a Row),
}

/// The rows so far, and the callback that receives them.
struct Watched<'a> {
    see: &'a mut dyn FnMut(Seen<'_>) -> Result<()>,
    rows: Vec<Row>,
}

impl Watched<'_> {
    fn phase(&mut self, words: &str) -> Result<()> {
        (self.see)(Seen::Phase(words))
    }

    /// Starts the phase of a row.
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

/// Measures a backend with a model and passes every event to `see`. `residency` is for pictures;
/// the other rows have their networks on the device. An error from `see` for a stage ends the run
/// as [`Error::Cancelled`].
///
/// # Errors
/// [`Error::Request`] for sizes that the model does not support, and if no row name contains the
/// filter; errors of the files, of the backend, and of `see`. An op that does not fit into the
/// device's memory becomes a row without times; a network that does not fit is an error.
pub async fn run<B: Backend + 'static>(
    backend: B,
    model: &Model,
    residency: &Residency,
    options: &Options,
    see: &mut dyn FnMut(Seen<'_>) -> Result<()>,
) -> Result<Report> {
    let config = model.config();
    let sizes = checked(config, options)?;
    let wanted = |name: &str| name.contains(&options.filter);
    let cases = cases::all(&sizes, options.runs, options.weights, model.fp8(), model.has_fp8_attention()).into_iter();
    let cases: Vec<Case<B>> = cases.filter(|case| wanted(&ops::name(case))).collect();
    let any = |names: &[&str]| names.iter().any(|name| wanted(name));
    if cases.is_empty() && !any(&[&PICTURE[..], &TEXT_ENCODER, &TRANSFORMER, &VAE].concat()) {
        return Err(Error::Request(format!("no row has {:?} in its name", options.filter)));
    }

    // An impossible request fails before anything is loaded.
    let job = if any(&PICTURE) { Some(pictures::job(model, &sizes).await?) } else { None };
    let activations = backend.activations();
    let header = Header {
        backend: backend.name().into(),
        device: backend.device(),
        activations: activations.to_string(),
        operands: operands(&backend, model),
        model: model.name().into(),
        width: sizes.picture[1],
        height: sizes.picture[0],
        caption_tokens: sizes.caption,
        sequence_tokens: sizes.layer().tokens,
    };
    see(Seen::Header(&header))?;
    let mut watched = Watched { see, rows: Vec::new() };

    let random = RandomTensors::default();
    let runs = options.runs;
    let mut pictures = None;
    let backend = if let Some(job) = job {
        watched.phase("loading the model")?;
        let start = Instant::now();
        let expected = Some(Expected { tokens: sizes.caption, ..Expected::of(&job) });
        let residency = Residency { expected, ..residency.clone() };
        let pipeline = Pipeline::load_with(backend, model, residency, &mut watched).await?;
        let load_ms = since(start);
        let bench = Bench { b: pipeline.backend(), sizes, random: &random, activations, runs };
        pictures = Some(pictures::draw(&bench, &pipeline, &job, load_ms, wanted, &mut watched).await?);
        bench.text_encoder(&*pipeline.text_encoder().await?, wanted, &mut watched).await?;
        bench.transformer(&*pipeline.transformer().await?, wanted, &mut watched).await?;
        bench.vae(pipeline.vae(), wanted, &mut watched).await?;
        pipeline.into_backend()
    } else {
        let b = &backend;
        let folder = model.folder();
        let on_read = &|_| Ok(());
        let bench = Bench { b, sizes, random: &random, activations, runs };
        if any(&TEXT_ENCODER) {
            watched.phase("loading the text encoder")?;
            let tensors = Tensors::of(folder, Part::TextEncoder).await?;
            let network = TextEncoder::load(b, &tensors, &config.text_encoder, on_read).await?;
            bench.text_encoder(&network, wanted, &mut watched).await?;
        }
        if any(&TRANSFORMER) {
            watched.phase("loading the transformer")?;
            let tensors = Tensors::of(folder, Part::Transformer).await?;
            let network = Transformer::load(b, &tensors, &config.transformer, on_read).await?;
            bench.transformer(&network, wanted, &mut watched).await?;
        }
        if any(&VAE) {
            watched.phase("loading the VAE")?;
            let tensors = Tensors::of(folder, Part::Vae).await?;
            let network = Vae::load(b, &tensors, &config.vae, on_read).await?;
            bench.vae(&network, wanted, &mut watched).await?;
        }
        backend
    };
    backend.trim();
    for case in &cases {
        watched.measure(&ops::name(case))?;
        watched.row(ops::measure(case, &backend, &random, runs).await?)?;
    }
    Ok(Report { header, units: Units::ALL, rows: watched.rows, pictures, peak_memory: backend.peak_memory() })
}

/// The operand types of the networks' gemms, in words.
fn operands(b: &impl Backend, model: &Model) -> String {
    let own = b.operands().to_string();
    let networks: Vec<&str> = model.fp8().iter().map(|network| network.name()).collect();
    let attention = if model.has_fp8_attention() { ", and in the transformer's attention" } else { "" };
    if networks.is_empty() { own } else { format!("{own}, FP8 in the {}{attention}", networks.join(" and the ")) }
}

/// The sizes of the options, if the model supports them.
fn checked<'a>(config: &'a ModelConfig, options: &Options) -> Result<Sizes<'a>> {
    let Options { width, height, caption_tokens, runs, .. } = *options;
    let job = Request { width, height, ..Request::new("") }.check(config)?;
    if !(1..=MAX_RUNS).contains(&runs) {
        return Err(Error::Request(format!("{runs} runs are not possible: use 1 to {MAX_RUNS}")));
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
