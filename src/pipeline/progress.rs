//! The progress of a run for its caller, and the time its parts took.

use super::preview::Preview;
use crate::error::{Error, Result};
use crate::tensor::HostTensor;
use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use web_time::Instant;

/// A point that loading or a run has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// `done` bytes of the model's `of` have been read; first reported with 0.
    Load {
        /// Bytes read.
        done: u64,
        /// Bytes to read in all.
        of: u64,
    },
    /// The prompts are about to be encoded.
    TextEncoder,
    /// `done` denoising steps of the whole run's `of` have finished; first reported with 0.
    Step {
        /// Steps finished, over all pictures.
        done: usize,
        /// Steps in all, over all pictures.
        of: usize,
    },
    /// Latents are about to be decoded.
    Vae,
}

/// A listener to loading or to a run. `Break` cancels: it is checked between tensors and between
/// steps, and the work ends in [`Error::Cancelled`].
pub trait Progress {
    /// Called when the work has reached `stage`.
    fn update(&mut self, stage: Stage) -> ControlFlow<()>;

    /// True to have [`Progress::latents`] called, which costs a wait for the device after every
    /// step.
    fn wants_latents(&self) -> bool {
        false
    }

    /// Called with the latents F32 `[B, C, h, w]` after the step that was reported last, for tests.
    fn latents(&mut self, _latents: &HostTensor) {}

    /// True to have [`Progress::preview`] called, which costs a wait for the device after every
    /// step, and one small decoding the first time.
    fn wants_preview(&self) -> bool {
        false
    }

    /// Called with coarse previews of the pictures under way, after the step that is about to be
    /// reported.
    fn preview(&mut self, _pictures: &[Preview]) {}
}

impl<F: FnMut(Stage) -> ControlFlow<()>> Progress for F {
    fn update(&mut self, stage: Stage) -> ControlFlow<()> {
        self(stage)
    }
}

/// Loading that has begun.
pub(crate) struct Loading<'a> {
    progress: RefCell<&'a mut dyn Progress>,
    done: Cell<u64>,
    of: u64,
}

impl<'a> Loading<'a> {
    /// Loading of `of` bytes.
    pub(crate) fn new(progress: &'a mut dyn Progress, of: u64) -> Self {
        Self { progress: RefCell::new(progress), done: Cell::new(0), of }
    }

    /// Reports `bytes` more.
    pub(crate) fn read(&self, bytes: u64) -> Result<()> {
        self.done.set(self.done.get() + bytes);
        flow(self.progress.borrow_mut().update(Stage::Load { done: self.done.get(), of: self.of }))
    }
}

fn flow(flow: ControlFlow<()>) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

/// A run that has begun: its listener, and its timings so far.
pub struct Run<'a> {
    progress: &'a mut dyn Progress,
    done: usize,
    of: usize,
    /// The timings so far.
    pub timings: Timings,
}

impl<'a> Run<'a> {
    /// A run of `of` steps.
    pub fn new(progress: &'a mut dyn Progress, of: usize) -> Self {
        Self { progress, done: 0, of, timings: Timings::default() }
    }

    pub(super) fn progress(&mut self) -> &mut dyn Progress {
        self.progress
    }

    pub(super) fn report(&mut self, stage: Stage) -> Result<()> {
        flow(self.progress.update(stage))
    }

    pub(super) fn report_step(&mut self) -> Result<()> {
        self.report(Stage::Step { done: self.done, of: self.of })
    }

    pub(super) fn finish_step(&mut self, ms: f64) -> Result<()> {
        self.timings.step_ms.push(ms);
        self.done += 1;
        self.report_step()
    }

    pub(super) fn wants_latents(&self) -> bool {
        self.progress.wants_latents()
    }

    pub(super) fn latents(&mut self, latents: &HostTensor) {
        self.progress.latents(latents);
    }

    pub(super) fn wants_preview(&self) -> bool {
        self.progress.wants_preview()
    }

    pub(super) fn preview(&mut self, pictures: &[Preview]) {
        self.progress.preview(pictures);
    }
}

impl std::fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Run({} of {} steps)", self.done, self.of)
    }
}

/// The parts of a run in milliseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timings {
    /// Loading networks during the run, where they take turns on the device.
    pub load_ms: f64,
    /// Tokens, text encoder and context refiner, all prompts.
    pub text_encoder_ms: f64,
    /// All denoising steps of all pictures.
    pub transformer_ms: f64,
    /// Each denoising step, in order.
    pub step_ms: Vec<f64>,
    /// Decoding, all pictures.
    pub vae_ms: f64,
    /// The run from the checked request to the last picture.
    pub total_ms: f64,
}

/// Milliseconds since `start`.
pub(crate) fn since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
