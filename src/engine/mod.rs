//! The public face: a model on a backend that was chosen at run time, and pictures from requests.

mod any;
mod choice;
mod options;
mod tools;
#[cfg(not(target_family = "wasm"))]
mod worker;

use crate::backend::Runtime;
use crate::error::Result;
use crate::image::{Image, Info, LoraInfo};
use crate::model::config::ModelConfig;
use crate::model::{AddedLora, Model};
use crate::pipeline::RunInfo;
use crate::pipeline::plan::Plan;
use crate::pipeline::progress::{Progress, since};
use crate::pipeline::request::{Job, Request};
use crate::reserve;
use crate::tensor::{DType, HostTensor};
use any::{Any, Loaded, dispatch};
pub use choice::BackendChoice;
pub use options::{LoadOptions, Precision};
pub use tools::{DeviceInfo, Planned, bench, devices, parity, plan, stages};
use web_time::Instant;
#[cfg(not(target_family = "wasm"))]
pub use worker::{Event, Generation, Worker};

/// A model that is loaded and ready to draw.
///
/// Its futures do their work while they are polled, and a poll lasts until the device or a file has
/// answered: seconds on a GPU, minutes on the processor. They are not `Send`. A program that serves
/// others in the meantime uses a [`Worker`](crate::Worker).
#[derive(Debug)]
pub struct Engine {
    model: String,
    loras: Vec<LoraInfo>,
    pipeline: Any<Loaded>,
    warnings: Vec<String>,
    load_ms: f64,
}

/// The pictures of a request.
#[derive(Debug, Clone)]
pub struct Output {
    /// The pictures, prompt by prompt.
    pub images: Vec<Image>,
    /// The record of the run.
    pub run: RunInfo,
}

impl Engine {
    /// Loads a model's weights onto a backend. `progress` sees [`Stage::Load`](crate::Stage::Load).
    ///
    /// # Errors
    /// Those of the files and of the device, [`Error::Request`](crate::Error::Request) for a
    /// precision or a device that the backend does not have, and
    /// [`Error::Cancelled`](crate::Error::Cancelled) when `progress` breaks.
    pub async fn load(model: &Model, options: impl Into<LoadOptions>, progress: &mut dyn Progress) -> Result<Self> {
        let start = Instant::now();
        let options = options.into();
        let mut warnings = Vec::new();
        let opened = Any::open(options.backend.clone(), &mut warnings).await?;
        let pipeline = opened.load(model, &options, progress).await?;
        warnings.extend_from_slice(dispatch!(&pipeline, pipeline => pipeline.warnings()));
        let loras = model.loras().iter().cloned().map(|AddedLora { name, strength, sha256 }| LoraInfo {
            name,
            strength,
            sha256,
        });
        let loras = loras.collect();
        Ok(Self { model: model.name().to_owned(), loras, pipeline, warnings, load_ms: since(start) })
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The content of the model's config files.
    pub fn config(&self) -> &ModelConfig {
        dispatch!(&self.pipeline, pipeline => pipeline.config())
    }

    /// The backend's name.
    pub fn backend(&self) -> &'static str {
        dispatch!(&self.pipeline, pipeline => pipeline.backend().name())
    }

    /// The device, for display.
    pub fn device(&self) -> String {
        dispatch!(&self.pipeline, pipeline => pipeline.backend().device())
    }

    /// The type that matrix products round their operands to.
    pub fn operands(&self) -> DType {
        dispatch!(&self.pipeline, pipeline => pipeline.backend().operands())
    }

    /// The variant of the backend's shaders, for display; empty for a backend without variants.
    pub fn variant(&self) -> String {
        match &self.pipeline {
            #[cfg(feature = "webgpu")]
            Any::WebGpu(pipeline) => pipeline.backend().variant(),
            _ => String::new(),
        }
    }

    /// The networks on the device, and the memory that they take.
    pub fn plan(&self) -> &Plan {
        dispatch!(&self.pipeline, pipeline => pipeline.plan())
    }

    /// True if the backend computes in the host's memory.
    pub fn uses_host_memory(&self) -> bool {
        matches!(self.pipeline, Any::Cpu(_))
    }

    /// The most bytes of device memory that were allocated so far; `None` if the backend does not
    /// count them.
    pub fn peak_memory(&self) -> Option<u64> {
        dispatch!(&self.pipeline, pipeline => pipeline.backend().peak_memory())
    }

    /// Oddities of the model's files and of the device that are no errors, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Milliseconds that loading took.
    pub fn load_ms(&self) -> f64 {
        self.load_ms
    }

    /// Draws the pictures of `request`, which is checked before anything runs.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for a request that cannot be drawn,
    /// [`Error::Cancelled`](crate::Error::Cancelled) when `progress` breaks, and those of the
    /// device.
    pub async fn generate(&self, request: &Request, progress: &mut dyn Progress) -> Result<Output> {
        let mut images = Vec::new();
        let keep = &mut |image| {
            images.push(image);
            Ok(())
        };
        let run = self.generate_each(request, progress, keep).await?;
        Ok(Output { images, run })
    }

    /// As [`Engine::generate`], but hands each picture to `each` as soon as it is decoded, so that
    /// an interrupted run loses none. An error of `each` ends the run.
    ///
    /// # Errors
    /// Those of [`Engine::generate`] and of `each`.
    pub async fn generate_each(
        &self,
        request: &Request,
        progress: &mut dyn Progress,
        each: &mut dyn FnMut(Image) -> Result<()>,
    ) -> Result<RunInfo> {
        let job = request.check(self.config())?;
        let each = &mut |i: usize, rgb: HostTensor| {
            let pixels = reserve::copied(rgb.bytes(), "a picture")?;
            each(Image { width: job.width, height: job.height, pixels, info: self.info(&job, i) })
        };
        self.pipeline.generate_each(&job, progress, each).await
    }

    /// The values that make picture `i` again.
    fn info(&self, job: &Job, i: usize) -> Info {
        let prompt = job.prompt(i);
        Info {
            prompt: job.prompts[prompt].clone(),
            negative: job.negatives.get(prompt).cloned().unwrap_or_default(),
            steps: job.steps,
            guidance: job.guidance.scale,
            cfg_normalization: job.guidance.normalization,
            cfg_truncation: job.guidance.truncation,
            seed: job.seed(i),
            width: job.width,
            height: job.height,
            model: self.model.clone(),
            loras: self.loras.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}
