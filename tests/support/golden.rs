//! The goldens that `tools/goldens` recorded from diffusers: models, cases and tensors. The README
//! of that folder describes them.

use serde_json::Value;
#[cfg(feature = "webgpu")]
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use zimage::backend::cpu::Cpu;
#[cfg(feature = "webgpu")]
use zimage::backend::webgpu::{Adapters, Shaders, WebGpu};
use zimage::backend::*;
use zimage::conformance::relative_error;
use zimage::pipeline::Pipeline;
use zimage::tensor::HostTensor;
use zimage::{Model, Result};

/// The models whose goldens were recorded.
pub(crate) const MODELS: [&str; 2] = ["single", "sharded"];

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

pub(crate) fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

/// Recorded tensors by name.
pub(crate) struct Tensors(Vec<u8>);

impl Tensors {
    pub(crate) fn read(name: &str) -> Self {
        Self(std::fs::read(path(name)).unwrap())
    }

    /// The shape and the bytes of a tensor.
    fn raw(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let file = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        (view.shape().to_vec(), view.data().to_vec())
    }

    pub(crate) fn f32(&self, name: &str) -> HostTensor {
        let (shape, bytes) = self.raw(name);
        HostTensor::new(zimage::tensor::DType::F32, &shape, bytes.into()).unwrap_or_else(|| panic!("{name} is not F32"))
    }

    pub(crate) fn u8(&self, name: &str) -> HostTensor {
        let (shape, bytes) = self.raw(name);
        HostTensor::new(zimage::tensor::DType::U8, &shape, bytes.into()).unwrap_or_else(|| panic!("{name} is not U8"))
    }
}

/// A backend that is compared with the goldens, with one choice of shaders if it has several.
pub(crate) trait Tested {
    type Backend: Backend;
    /// The relative tolerance of a stage.
    const STAGE: f64;
    /// The relative tolerance of latents, which accumulate the errors of all steps.
    const LATENTS: f64;
    /// The relative tolerance of one step of the loop.
    const STEP: f64;
    /// The permitted number of values per 1000 in a picture that differ by more than one level.
    const FAR: usize;
    /// The number of the embedded default's pictures that are drawn without `tests/run --all`: all
    /// of them take most shaders minutes on a software GPU.
    const QUICK: usize = usize::MAX;

    /// The backend. Prints the reason and returns `None` if this machine cannot run it.
    fn open() -> Option<Self::Backend>;
}

/// Float32 sums in another order differ by about 1e-6 per stage (`tools/goldens/check.py` measures
/// it against float64). A tolerance of 1e-4 per stage therefore allows for deep networks only.
pub(crate) struct OnCpu;

impl Tested for OnCpu {
    type Backend = Cpu;
    const STAGE: f64 = 1e-4;
    const LATENTS: f64 = 1e-3;
    const STEP: f64 = 1e-6;
    const FAR: usize = 1;

    fn open() -> Option<Cpu> {
        Some(Cpu::new())
    }
}

#[cfg(feature = "webgpu")]
fn webgpu(shaders: Shaders) -> Option<WebGpu> {
    // Writes past the test harness, which hides the output of passing tests.
    let skip = |error| writeln!(std::io::stderr(), "skipped: webgpu: {error}");
    pollster::block_on(WebGpu::open_with(Adapters::Any, shaders, u64::MAX)).map_err(skip).ok()
}

/// Adapters may round exponentials and the like by a few ulp. A sampler step consists of sums only.
#[cfg(feature = "webgpu")]
pub(crate) struct OnPlainShaders;

#[cfg(feature = "webgpu")]
impl Tested for OnPlainShaders {
    type Backend = WebGpu;
    const STAGE: f64 = 1e-4;
    const LATENTS: f64 = 1e-3;
    const STEP: f64 = 1e-5;
    const FAR: usize = 1;
    const QUICK: usize = 1;

    fn open() -> Option<WebGpu> {
        webgpu(Shaders::Plain)
    }
}

#[cfg(feature = "webgpu")]
pub(crate) struct OnDirectShaders;

#[cfg(feature = "webgpu")]
impl Tested for OnDirectShaders {
    type Backend = WebGpu;
    const STAGE: f64 = OnPlainShaders::STAGE;
    const LATENTS: f64 = OnPlainShaders::LATENTS;
    const STEP: f64 = OnPlainShaders::STEP;
    const FAR: usize = OnPlainShaders::FAR;

    fn open() -> Option<WebGpu> {
        webgpu(Shaders::Direct)
    }
}

/// F16 operands add an error of 2⁻¹¹/√3 per rounding, about 3e-4. Norms reduce it, and steps
/// accumulate it.
#[cfg(feature = "webgpu")]
pub(crate) struct OnHalves;

#[cfg(feature = "webgpu")]
impl Tested for OnHalves {
    type Backend = WebGpu;
    const STAGE: f64 = 1e-3;
    const LATENTS: f64 = 3e-3;
    const STEP: f64 = 1e-5;
    const FAR: usize = 20;
    const QUICK: usize = 1;

    fn open() -> Option<WebGpu> {
        webgpu(Shaders::Half)
    }
}

#[cfg(feature = "webgpu")]
pub(crate) struct OnCooperativeMatrices;

#[cfg(feature = "webgpu")]
impl Tested for OnCooperativeMatrices {
    type Backend = WebGpu;
    const STAGE: f64 = OnHalves::STAGE;
    const LATENTS: f64 = OnHalves::LATENTS;
    const STEP: f64 = OnHalves::STEP;
    const FAR: usize = OnHalves::FAR;
    const QUICK: usize = 1;

    fn open() -> Option<WebGpu> {
        webgpu(Shaders::Cooperative)
    }
}

/// The goldens of every model on a backend; empty if the backend cannot run.
pub(crate) fn goldens<T: Tested>() -> Vec<Golden<T>> {
    MODELS.into_iter().map_while(Golden::load).collect()
}

/// One model with its cases and tensors.
pub(crate) struct Golden<T: Tested> {
    pub(crate) name: &'static str,
    pub(crate) cases: Value,
    pub(crate) tensors: Tensors,
    pub(crate) pipeline: Pipeline<T::Backend>,
}

impl<T: Tested> Golden<T> {
    /// A model of `tests/goldens`; `None` if the backend cannot run.
    pub(crate) fn load(name: &'static str) -> Option<Self> {
        Self::of(name, &Model::open(&path(name)).unwrap())
    }

    /// The goldens `name` of a model in another folder.
    pub(crate) fn of(name: &'static str, model: &Model) -> Option<Self> {
        let pipeline =
            pollster::block_on(Pipeline::load(T::open()?, model, &mut |_| ControlFlow::Continue(()))).unwrap();
        assert_eq!(pipeline.warnings(), [""; 0], "{name}");
        let (cases, tensors) = (json(&format!("{name}.json")), Tensors::read(&format!("{name}.safetensors")));
        Some(Self { name, cases, tensors, pipeline })
    }

    /// The cases of one kind.
    pub(crate) fn cases(&self, kind: &str) -> &[Value] {
        self.cases[kind].as_array().unwrap()
    }

    /// Asserts that `out` equals the recorded tensor `name` within `tolerance`.
    pub(crate) fn expect(&self, name: &str, out: &[f32], tolerance: f64) {
        let error = relative_error(out, &self.tensors.f32(name).to_f32());
        assert!(error <= tolerance, "{}: {name}: error {error:.2e} is more than {tolerance:.0e}", self.name);
    }
}

pub(crate) fn download<B: Backend>(b: &B, tensor: &B::Tensor) -> Result<Vec<f32>> {
    Ok(pollster::block_on(b.download(tensor))?.to_f32())
}

/// A list of numbers in a case.
pub(crate) fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

pub(crate) fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

pub(crate) fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}
