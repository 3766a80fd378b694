//! The public face: a model on the best backend there is, and pictures from requests.

mod choice;

use crate::backend::cpu::Cpu;
#[cfg(feature = "cuda")]
use crate::backend::cuda::{Cuda, Placement};
#[cfg(feature = "webgpu")]
use crate::backend::webgpu::{Adapters, WebGpu};
use crate::backend::{Backend, Runtime};
use crate::bench::{self, Seen};
use crate::conformance::stages::{self, Inputs};
use crate::conformance::{self, Report, compare_all};
use crate::error::Result;
use crate::image::{Image, Info};
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::options::LoadOptions;
use crate::pipeline::progress::{Progress, Timings, since};
use crate::pipeline::request::Request;
use crate::pipeline::{Offload, Pipeline, RunInfo};
use crate::reserve;
use crate::tensor::{DType, HostTensor};
pub use choice::BackendChoice;
use web_time::Instant;

/// Runs `$body` with `$start` bound to what starts the chosen backend: one line a backend.
macro_rules! with_backend {
    ($choice:expr, $start:ident => $body:expr) => {
        match $choice {
            BackendChoice::Auto | BackendChoice::Cpu => {
                let $start = async || Ok(Cpu::new());
                $body
            }
            #[cfg(feature = "webgpu")]
            BackendChoice::WebGpu(shaders, adapters) => {
                let $start = async || WebGpu::open_with(adapters.clone(), shaders, u64::MAX).await;
                $body
            }
            #[cfg(feature = "cuda")]
            BackendChoice::Cuda => {
                let $start = async || Cuda::open(Placement::default());
                $body
            }
        }
    };
}

/// Holds one backend against another: every verb, and the stages and pictures of `models`, as
/// [`conformance::compare_all`] says.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) when this machine lacks a device or it cannot hold a model, those of the models' files, and those of
/// the reference.
pub async fn parity(
    reference: BackendChoice,
    candidate: BackendChoice,
    models: &[Model],
    options: &conformance::Options,
) -> Result<Report> {
    with_backend!(reference, known => {
        with_backend!(candidate, other => compare_all(known, other, models, options).await)
    })
}

/// Measures how fast a backend is with `model`: see [`mod@bench`]. `see` is told of every row as soon as it is there.
///
/// # Errors
/// Those of [`bench::run`], and [`Error::Device`](crate::Error::Device) when this machine lacks the device.
pub async fn bench(
    choice: BackendChoice,
    model: &Model,
    options: &bench::Options,
    see: &mut dyn FnMut(Seen<'_>) -> Result<()>,
) -> Result<bench::Report> {
    match Opened::new(choice, &mut Vec::new()).await? {
        Opened::Cpu(device) => bench::run(device, model, options, see).await,
        #[cfg(feature = "webgpu")]
        Opened::WebGpu(device) => bench::run(*device, model, options, see).await,
        #[cfg(feature = "cuda")]
        Opened::Cuda(device) => bench::run(*device, model, options, see).await,
    }
}

/// Runs single stages of `model` on given inputs, as [`stages::run`] says. Every tensor that it returns is F32.
/// [`BackendChoice::Auto`] is the processor.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) when this machine lacks the device, and those of [`stages::run`].
pub async fn stages(
    backend: BackendChoice,
    model: &Model,
    inputs: &Inputs,
    progress: &mut dyn Progress,
) -> Result<Vec<(String, HostTensor)>> {
    with_backend!(backend, start => stages::run(&start().await?, model, inputs, progress).await)
}

/// What a backend computes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The device in words, with its driver and the variant of the shaders.
    pub device: String,
    /// The type that products round their operands to.
    pub operands: DType,
    /// How many elements an activation may have at most; `None` where free memory is all that counts.
    pub largest_activation: Option<usize>,
}

/// Every backend of this program in all its variants, with its device on this machine or the reason why there is none.
pub async fn devices() -> Vec<(BackendChoice, Result<DeviceInfo>)> {
    let mut found = Vec::new();
    for choice in BackendChoice::built_in() {
        let info = with_backend!(choice.clone(), start => start().await.map(|backend| describe(&backend)));
        found.push((choice, info));
    }
    found
}

fn describe(backend: &impl Backend) -> DeviceInfo {
    let largest = backend.largest_activation();
    DeviceInfo {
        device: backend.device(),
        operands: backend.operands(),
        largest_activation: (largest != usize::MAX).then_some(largest),
    }
}

/// A model that is loaded and ready to draw.
#[derive(Debug)]
pub struct Engine {
    model: String,
    pipeline: Loaded,
    warnings: Vec<String>,
    load_ms: f64,
}

/// The pipeline on the backend that was picked: the one place where backends are named.
#[derive(Debug)]
enum Loaded {
    Cpu(Box<Pipeline<Cpu>>),
    #[cfg(feature = "webgpu")]
    WebGpu(Box<Pipeline<WebGpu>>),
    #[cfg(feature = "cuda")]
    Cuda(Box<Pipeline<Cuda>>),
}

/// A backend that is open.
enum Opened {
    Cpu(Cpu),
    #[cfg(feature = "webgpu")]
    WebGpu(Box<WebGpu>),
    #[cfg(feature = "cuda")]
    Cuda(Box<Cuda>),
}

impl Opened {
    async fn new(choice: BackendChoice, notes: &mut Vec<String>) -> Result<Self> {
        Ok(match choice {
            BackendChoice::Auto => Self::best(notes).await,
            BackendChoice::Cpu => Self::Cpu(Cpu::new()),
            #[cfg(feature = "webgpu")]
            BackendChoice::WebGpu(shaders, adapters) => {
                Self::WebGpu(Box::new(WebGpu::open_with(adapters, shaders, u64::MAX).await?))
            }
            #[cfg(feature = "cuda")]
            BackendChoice::Cuda => Self::Cuda(Box::new(Cuda::open(Placement::default())?)),
        })
    }

    /// The best backend that this machine has; `notes` gets what should be better.
    async fn best(notes: &mut Vec<String>) -> Self {
        #[cfg(feature = "cuda")]
        match Cuda::open(Placement::default()) {
            Ok(device) => return Self::Cuda(Box::new(device)),
            Err(error) if Cuda::present() => notes.push(format!("the NVIDIA GPU is not used through CUDA: {error}")),
            Err(_) => {}
        }
        // An adapter that computes on the processor is slower than the `cpu` backend.
        #[cfg(feature = "webgpu")]
        if let Ok(device) = WebGpu::open(Adapters::Gpu).await {
            return Self::WebGpu(Box::new(device));
        }
        // A page has words of its own for a browser without a GPU.
        if !cfg!(target_family = "wasm") {
            notes.push(no_gpu(!notes.is_empty()));
        }
        Self::Cpu(Cpu::new())
    }
}

/// The note that no GPU computes; `refused` is whether another one says why an NVIDIA GPU does not.
fn no_gpu(refused: bool) -> String {
    let interface = match std::env::consts::OS {
        "windows" => "Vulkan or Direct3D 12",
        "macos" => "Metal",
        _ => "Vulkan",
    };
    match (cfg!(feature = "cuda") && !refused, cfg!(feature = "webgpu")) {
        (true, true) => {
            format!("no NVIDIA driver with a GPU and no GPU through {interface} was found, so the processor computes")
        }
        (true, false) => "no NVIDIA driver with a GPU was found, so the processor computes".into(),
        (false, true) => format!("no GPU through {interface} was found, so the processor computes"),
        (false, false) => "this program uses no other GPU, so the processor computes".into(),
    }
}

impl Loaded {
    async fn new(opened: Opened, model: &Model, options: LoadOptions, progress: &mut dyn Progress) -> Result<Self> {
        Ok(match opened {
            Opened::Cpu(device) => Self::Cpu(load(device, model, options, progress).await?),
            #[cfg(feature = "webgpu")]
            Opened::WebGpu(device) => Self::WebGpu(load(*device, model, options, progress).await?),
            #[cfg(feature = "cuda")]
            Opened::Cuda(device) => Self::Cuda(load(*device, model, options, progress).await?),
        })
    }
}

async fn load<B: Backend>(
    device: B,
    model: &Model,
    options: LoadOptions,
    progress: &mut dyn Progress,
) -> Result<Box<Pipeline<B>>> {
    options.precision.check(&device)?;
    Pipeline::load_with(device, model, options.offload, progress).await.map(Box::new)
}

/// Runs `$body` with `$pipeline` bound to the loaded pipeline, whatever its backend.
macro_rules! with_pipeline {
    ($engine:expr, $pipeline:ident => $body:expr) => {
        match &$engine.pipeline {
            Loaded::Cpu($pipeline) => $body,
            #[cfg(feature = "webgpu")]
            Loaded::WebGpu($pipeline) => $body,
            #[cfg(feature = "cuda")]
            Loaded::Cuda($pipeline) => $body,
        }
    };
}

/// The pictures of a request, and how long they took.
#[derive(Debug, Clone)]
pub struct Output {
    /// Prompt by prompt.
    pub images: Vec<Image>,
    /// Milliseconds.
    pub timings: Timings,
    /// What the user should know about the request, a sentence each.
    pub warnings: Vec<String>,
    /// As [`RunInfo::vae_tile`].
    pub vae_tile: Option<usize>,
    /// As [`RunInfo::offload`].
    pub offload: Offload,
}

impl Engine {
    /// Loads a model's weights onto a backend, as a [`BackendChoice`] or [`LoadOptions`] say; `progress` sees
    /// [`Stage::Load`](crate::Stage::Load).
    ///
    /// # Errors
    /// Those of the files and of the device, [`Error::Request`](crate::Error::Request) for a precision that the backend has not, and
    /// [`Error::Cancelled`](crate::Error::Cancelled) when `progress` says so.
    pub async fn load(model: &Model, options: impl Into<LoadOptions>, progress: &mut dyn Progress) -> Result<Self> {
        let start = Instant::now();
        let options = options.into();
        let mut warnings = Vec::new();
        let pipeline =
            Loaded::new(Opened::new(options.backend.clone(), &mut warnings).await?, model, options, progress).await?;
        let mut engine = Self { model: model.name().to_owned(), pipeline, warnings, load_ms: since(start) };
        let of_files = with_pipeline!(engine, pipeline => pipeline.warnings().to_vec());
        engine.warnings.extend(of_files);
        Ok(engine)
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// What the model's config files say.
    pub fn config(&self) -> &ModelConfig {
        with_pipeline!(self, pipeline => pipeline.config())
    }

    /// The backend that was picked.
    pub fn backend(&self) -> &'static str {
        with_pipeline!(self, pipeline => pipeline.backend().name())
    }

    /// The device in words.
    pub fn device(&self) -> String {
        with_pipeline!(self, pipeline => pipeline.backend().device())
    }

    /// The type that products round their operands to.
    pub fn operands(&self) -> DType {
        with_pipeline!(self, pipeline => pipeline.backend().operands())
    }

    /// The variant of the backend's shaders, in words; empty for a backend without.
    pub fn variant(&self) -> String {
        match &self.pipeline {
            Loaded::Cpu(_) => String::new(),
            #[cfg(feature = "webgpu")]
            Loaded::WebGpu(pipeline) => pipeline.backend().variant(),
            #[cfg(feature = "cuda")]
            Loaded::Cuda(_) => String::new(),
        }
    }

    /// What is odd about the model's files or the device without being an error, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Milliseconds that loading took.
    pub fn load_ms(&self) -> f64 {
        self.load_ms
    }

    /// Draws what `request` asks for; it is checked before anything runs.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for what cannot be drawn, [`Error::Cancelled`](crate::Error::Cancelled) when `progress` says so, and those of the
    /// device.
    pub async fn generate(&self, request: &Request, progress: &mut dyn Progress) -> Result<Output> {
        let mut images = Vec::new();
        let keep = &mut |image| {
            images.push(image);
            Ok(())
        };
        let RunInfo { timings, warnings, vae_tile, offload } = self.generate_each(request, progress, keep).await?;
        Ok(Output { images, timings, warnings, vae_tile, offload })
    }

    /// As [`Engine::generate`], but hands each picture to `each` as soon as it is there, so that nothing is lost when a
    /// long run ends early; an error from `each` ends it.
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
        let info = |i: usize| Info {
            prompt: job.prompts[job.prompt(i)].clone(),
            negative: job.negatives.get(job.prompt(i)).cloned().unwrap_or_default(),
            steps: job.steps,
            guidance: job.guidance.scale,
            cfg_normalization: job.guidance.normalization,
            cfg_truncation: job.guidance.truncation,
            seed: job.seed(i),
            width: job.width,
            height: job.height,
            model: self.model.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let each = &mut |i: usize, rgb: HostTensor| {
            let pixels = reserve::copied(rgb.bytes(), "a picture")?;
            each(Image { width: job.width, height: job.height, pixels, info: info(i) })
        };
        with_pipeline!(self, pipeline => pipeline.generate_each(&job, progress, each).await)
    }
}
