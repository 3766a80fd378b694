//! The goldens that `tools/goldens` recorded from diffusers: models, cases and tensors. Its README says what is what.

use serde_json::Value;
use std::path::PathBuf;
use zimage::backend::cpu::Cpu;
use zimage::backend::{Backend, HostTensor};
use zimage::conformance::relative_error;
use zimage::pipeline::Pipeline;
use zimage::{Model, Result};

/// The models that goldens were recorded from.
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

    /// Shape and bytes of a tensor.
    fn raw(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let file = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        (view.shape().to_vec(), view.data().to_vec())
    }

    pub(crate) fn f32(&self, name: &str) -> HostTensor {
        let (shape, bytes) = self.raw(name);
        HostTensor::new(zimage::backend::DType::F32, &shape, bytes.into())
            .unwrap_or_else(|| panic!("{name} is not F32"))
    }

    pub(crate) fn u8(&self, name: &str) -> HostTensor {
        let (shape, bytes) = self.raw(name);
        HostTensor::new(zimage::backend::DType::U8, &shape, bytes.into()).unwrap_or_else(|| panic!("{name} is not U8"))
    }
}

/// One model with its cases and tensors.
pub(crate) struct Golden {
    pub(crate) name: &'static str,
    pub(crate) cases: Value,
    pub(crate) tensors: Tensors,
    pub(crate) pipeline: Pipeline<Cpu>,
}

impl Golden {
    /// A model of `tests/goldens`.
    pub(crate) fn load(name: &'static str) -> Self {
        Self::of(name, &Model::open(&path(name)).unwrap())
    }

    /// The goldens `name` of a model that is somewhere else.
    pub(crate) fn of(name: &'static str, model: &Model) -> Self {
        let pipeline = Pipeline::load(Cpu::new(), model).unwrap();
        assert_eq!(pipeline.warnings(), [""; 0], "{name}");
        let (cases, tensors) = (json(&format!("{name}.json")), Tensors::read(&format!("{name}.safetensors")));
        Self { name, cases, tensors, pipeline }
    }

    /// The cases of one kind.
    pub(crate) fn cases(&self, kind: &str) -> &[Value] {
        self.cases[kind].as_array().unwrap()
    }

    /// Demands that `out` is the recorded tensor `name` to within `tolerance`.
    pub(crate) fn expect(&self, name: &str, out: &[f32], tolerance: f64) {
        let error = relative_error(out, &self.tensors.f32(name).to_f32());
        assert!(error <= tolerance, "{}: {name}: error {error:.2e} is more than {tolerance:.0e}", self.name);
    }
}

pub(crate) fn download<B: Backend>(b: &B, tensor: &B::Tensor) -> Result<Vec<f32>> {
    Ok(pollster::block_on(b.download(tensor))?.to_f32())
}

/// The lists that cases are full of.
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
