//! One enum over the backends, and one dispatch: the only place that names them all.
//!
//! An `async fn` is compiled in the crate that polls it. The functions that the rest of the engine
//! calls here, and the `boxed_` functions of `engine::tools`, return boxed futures instead, so that
//! this crate has the machine code of the pipeline on every backend, and programs and tests do not
//! compile it again.

use super::choice::BackendChoice;
use super::options::LoadOptions;
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
#[cfg(feature = "cuda")]
use crate::backend::cuda::{Cuda, Placement};
#[cfg(feature = "webgpu")]
use crate::backend::webgpu::{Adapters, WebGpu};
use crate::error::Result;
use crate::future::BoxFuture;
use crate::model::Model;
use crate::pipeline::progress::Progress;
use crate::pipeline::request::Job;
use crate::pipeline::{Pipeline, RunInfo};
use crate::tensor::HostTensor;
use std::fmt::Debug;

/// The content of an [`Any`], which depends on its backend.
pub(super) trait Content {
    /// The content for one backend.
    type For<B: Backend>: Debug;
}

/// An open backend.
#[derive(Debug)]
pub(super) struct Opened;

impl Content for Opened {
    type For<B: Backend> = B;
}

/// A loaded pipeline.
#[derive(Debug)]
pub(super) struct Loaded;

impl Content for Loaded {
    type For<B: Backend> = Pipeline<B>;
}

/// A backend that was chosen at run time, or a pipeline on it.
#[derive(Debug)]
pub(super) enum Any<C: Content> {
    Cpu(Box<C::For<Cpu>>),
    #[cfg(feature = "webgpu")]
    WebGpu(Box<C::For<WebGpu>>),
    #[cfg(feature = "cuda")]
    Cuda(Box<C::For<Cuda>>),
}

/// Evaluates `$body` with `$content` bound to the boxed content of an [`Any`].
macro_rules! dispatch {
    ($any:expr, $content:ident => $body:expr) => {
        match $any {
            Any::Cpu($content) => $body,
            #[cfg(feature = "webgpu")]
            Any::WebGpu($content) => $body,
            #[cfg(feature = "cuda")]
            Any::Cuda($content) => $body,
        }
    };
}
pub(super) use dispatch;

impl Any<Opened> {
    /// Opens a backend. `notes` gets a sentence for each better one that [`BackendChoice::Auto`]
    /// could not use.
    pub(super) fn open(choice: BackendChoice, notes: &mut Vec<String>) -> BoxFuture<'_, Self> {
        Box::pin(async move {
            Ok(match choice {
                BackendChoice::Auto => Self::best(notes).await,
                BackendChoice::Cpu => Self::Cpu(Box::new(Cpu::new())),
                #[cfg(feature = "webgpu")]
                BackendChoice::WebGpu(shaders, adapters) => {
                    Self::WebGpu(Box::new(WebGpu::open_with(adapters, shaders, u64::MAX).await?))
                }
                #[cfg(feature = "cuda")]
                BackendChoice::Cuda { index } => Self::Cuda(Box::new(Cuda::open(index, Placement::default())?)),
            })
        })
    }

    /// The best backend that this machine has.
    async fn best(notes: &mut Vec<String>) -> Self {
        #[cfg(feature = "cuda")]
        match Cuda::open(0, Placement::default()) {
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
        Self::Cpu(Box::new(Cpu::new()))
    }

    /// Loads a model onto the backend.
    pub(super) fn load<'a>(
        self,
        model: &'a Model,
        options: &'a LoadOptions,
        progress: &'a mut dyn Progress,
    ) -> BoxFuture<'a, Any<Loaded>> {
        Box::pin(async move {
            Ok(match self {
                Any::Cpu(backend) => Any::Cpu(load(*backend, model, options, progress).await?),
                #[cfg(feature = "webgpu")]
                Any::WebGpu(backend) => Any::WebGpu(load(*backend, model, options, progress).await?),
                #[cfg(feature = "cuda")]
                Any::Cuda(backend) => Any::Cuda(load(*backend, model, options, progress).await?),
            })
        })
    }
}

impl Any<Loaded> {
    /// Draws the pictures of a job: [`Pipeline::generate_each`].
    pub(super) fn generate_each<'a>(
        &'a self,
        job: &'a Job,
        progress: &'a mut dyn Progress,
        each: &'a mut dyn FnMut(usize, HostTensor) -> Result<()>,
    ) -> BoxFuture<'a, RunInfo> {
        Box::pin(async move { dispatch!(self, pipeline => pipeline.generate_each(job, progress, each).await) })
    }
}

async fn load<B: Backend>(
    backend: B,
    model: &Model,
    options: &LoadOptions,
    progress: &mut dyn Progress,
) -> Result<Box<Pipeline<B>>> {
    let model = options.precision.apply(&backend, model)?;
    Pipeline::load_with(backend, &model, options.residency.clone(), progress).await.map(Box::new)
}

/// The note that no GPU computes. `refused`: another note says why an NVIDIA GPU does not.
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
