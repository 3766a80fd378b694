//! Tools that take a backend by choice: its devices, parity, bench and single stages.

use super::any::{Any, dispatch};
use super::choice::BackendChoice;
use super::options::LoadOptions;
use crate::backend::Backend;
#[cfg(feature = "cuda")]
use crate::backend::cuda::Cuda;
use crate::bench::{self, Estimate, Seen};
use crate::conformance::stages::{self, Inputs};
use crate::conformance::{self, Report, compare_all};
use crate::error::Result;
use crate::future::BoxFuture;
use crate::model::Model;
use crate::pipeline::Pipeline;
use crate::pipeline::plan::{Expected, Needs, Obstacle, Plan, Residency};
use crate::pipeline::progress::Progress;
use crate::tensor::{DType, HostTensor};

/// The device of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The device, its driver and the variant of the shaders, for display.
    pub device: String,
    /// The type that matrix products round their operands to.
    pub operands: DType,
    /// True if gemms may have FP8 operands.
    pub fp8: bool,
    /// The most elements of an activation; `None` where free memory is the only limit.
    pub largest_activation: Option<usize>,
}

/// Every backend of this program in all its variants, with its device on this machine or the reason
/// why it has none. `cuda` has an entry for each GPU.
pub async fn devices() -> Vec<(BackendChoice, Result<DeviceInfo>)> {
    let mut found = Vec::new();
    for choice in BackendChoice::built_in().chain(further_gpus()) {
        let opened = Any::open(choice.clone(), &mut Vec::new()).await;
        found.push((choice, opened.map(|opened| dispatch!(opened, backend => describe(&*backend)))));
    }
    found
}

/// The NVIDIA GPUs after the first.
fn further_gpus() -> impl Iterator<Item = BackendChoice> {
    #[cfg(feature = "cuda")]
    let further = (1..Cuda::count()).map(|index| BackendChoice::Cuda { index });
    #[cfg(not(feature = "cuda"))]
    let further = std::iter::empty();
    further
}

fn describe(b: &impl Backend) -> DeviceInfo {
    let largest = b.largest_activation();
    DeviceInfo {
        device: b.device(),
        operands: b.operands(),
        fp8: b.computes_fp8(),
        largest_activation: (largest != usize::MAX).then_some(largest),
    }
}

/// The memory and the time that a request would take.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The backend's name.
    pub backend: &'static str,
    /// The device in words.
    pub device: String,
    /// The bytes that the model and the request need.
    pub needs: Needs,
    /// The plan for them.
    pub plan: Plan,
    /// Bytes of the model's files.
    pub files: u64,
    /// The reasons why the device cannot run the plan; none if it can.
    pub obstacles: Vec<Obstacle>,
    /// The time that it takes, if it was asked for.
    pub estimate: Option<Estimate>,
}

/// Plans a request on a backend, without loading the model. `work` is the number of steps and of
/// pictures whose time is estimated; the estimate times a few ops on the device.
///
/// # Errors
/// Those of the files and of the device, and [`Error::Request`](crate::Error::Request) for a limit
/// or a precision that the backend does not have.
pub async fn plan(options: impl Into<LoadOptions>, model: &Model, work: Option<[usize; 2]>) -> Result<Planned> {
    boxed_plan(options.into(), model, work).await
}

fn boxed_plan(options: LoadOptions, model: &Model, work: Option<[usize; 2]>) -> BoxFuture<'_, Planned> {
    Box::pin(async move {
        let LoadOptions { backend, residency, precision } = options;
        let opened = Any::open(backend, &mut Vec::new()).await?;
        dispatch!(opened, backend => {
            let model = precision.apply(&*backend, model)?;
            plan_on(&*backend, &model, &residency, work).await
        })
    })
}

async fn plan_on<B: Backend>(b: &B, model: &Model, residency: &Residency, work: Option<[usize; 2]>) -> Result<Planned> {
    let (needs, plan, files) = Pipeline::plan_of(b, model, residency).await?;
    let allowed = (b.largest_activation() as u64).saturating_mul(b.activations().size() as u64);
    let obstacles = Obstacle::of(&plan, &needs, allowed);
    let expected = residency.expected.clone().unwrap_or_else(|| Expected::default_of(model.config()));
    let estimate = match work {
        Some(work) => Some(Estimate::of(b, model.config(), &plan, &expected, work, files).await?),
        None => None,
    };
    Ok(Planned { backend: b.name(), device: b.device(), needs, plan, files, obstacles, estimate })
}

/// Compares a backend with a reference: every op, and the stages and pictures of `models`, as
/// [`conformance::compare_all`] documents.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) when this machine lacks a device or it cannot hold a
/// model, those of the models' files, and those of the reference.
pub async fn parity(
    reference: BackendChoice,
    candidate: BackendChoice,
    models: &[Model],
    options: &conformance::Options,
) -> Result<Report> {
    boxed_parity(reference, candidate, models, options).await
}

fn boxed_parity<'a>(
    reference: BackendChoice,
    candidate: BackendChoice,
    models: &'a [Model],
    options: &'a conformance::Options,
) -> BoxFuture<'a, Report> {
    Box::pin(async move {
        let reference = Any::open(reference, &mut Vec::new()).await?;
        let candidate = Any::open(candidate, &mut Vec::new()).await?;
        dispatch!(reference, known => {
            dispatch!(candidate, other => compare_all(*known, *other, models, options).await)
        })
    })
}

/// Measures the speed of a backend with `model`: see [`mod@bench`]. `see` is called with every row
/// as soon as it is measured.
///
/// # Errors
/// Those of [`bench::run`], [`Error::Device`](crate::Error::Device) when this machine lacks the
/// device, and [`Error::Request`](crate::Error::Request) for a precision that it does not have.
pub async fn bench(
    options: impl Into<LoadOptions>,
    model: &Model,
    rows: &bench::Options,
    see: &mut dyn FnMut(Seen<'_>) -> Result<()>,
) -> Result<bench::Report> {
    boxed_bench(options.into(), model, rows, see).await
}

fn boxed_bench<'a>(
    options: LoadOptions,
    model: &'a Model,
    rows: &'a bench::Options,
    see: &'a mut dyn FnMut(Seen<'_>) -> Result<()>,
) -> BoxFuture<'a, bench::Report> {
    Box::pin(async move {
        let LoadOptions { backend, residency, precision } = options;
        let opened = Any::open(backend, &mut Vec::new()).await?;
        dispatch!(opened, backend => {
            let model = precision.apply(&*backend, model)?;
            bench::run(*backend, &model, &residency, rows, see).await
        })
    })
}

/// Runs single stages of `model` on given inputs, as [`stages::run`] documents. Every tensor that
/// it returns is F32.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) when this machine lacks the device,
/// [`Error::Request`](crate::Error::Request) for a precision that it does not have, and those of
/// [`stages::run`].
pub async fn stages(
    options: impl Into<LoadOptions>,
    model: &Model,
    inputs: &Inputs,
    progress: &mut dyn Progress,
) -> Result<Vec<(String, HostTensor)>> {
    boxed_stages(options.into(), model, inputs, progress).await
}

fn boxed_stages<'a>(
    options: LoadOptions,
    model: &'a Model,
    inputs: &'a Inputs,
    progress: &'a mut dyn Progress,
) -> BoxFuture<'a, Vec<(String, HostTensor)>> {
    Box::pin(async move {
        let LoadOptions { backend, precision, .. } = options;
        let opened = Any::open(backend, &mut Vec::new()).await?;
        dispatch!(opened, backend => {
            let model = precision.apply(&*backend, model)?;
            stages::run(&*backend, &model, inputs, progress).await
        })
    })
}
