//! One case: inputs, the verbs to call on them, a tolerance. And the memory that a case finds.
//!
//! # Poisoned memory
//! A verb that leaves an element unwritten may still be right by luck, when the memory holds the right value from a run
//! before. The trait has no way to fill memory, so the runner does what it can: before each measured run the case is run
//! on inputs and weights that are not numbers (pictures: on inverted ones) and its results are dropped, so that a backend which
//! reuses memory, as all do that run fast, hands out memory without a right value in it. The recorded run comes before
//! the direct one for the same reason: when a replay writes nothing, no right result has been computed yet that could
//! stand in for it.

use super::noise;
use super::tolerance::{Precision, Tolerance};
use crate::backend::{Backend, Runtime};
use crate::error::Result;
use crate::future::expect_ready;
use crate::tensor::{DType, HostTensor, Weight};

/// Calls verbs, and returns the tensors to look at: new ones, and those that were changed in place.
pub(super) type Steps<B> = Box<dyn Fn(&B) -> Result<Vec<<B as Runtime>::Tensor>>>;

/// Uploads inputs, and returns what to do with them.
type Prepare<B> = Box<dyn Fn(&mut Setup<'_, B>) -> Result<Steps<B>>>;

/// A case of one verb.
pub(super) struct Case<B: Backend> {
    pub verb: &'static str,
    /// With the verb in front: `attention/causal-gqa-257`.
    pub name: String,
    pub tolerance: Tolerance,
    prepare: Prepare<B>,
}

impl<B: Backend> Case<B> {
    /// Uploads the inputs for one run.
    pub(super) fn prepare(&self, b: &B, inputs: Inputs) -> Result<Steps<B>> {
        // The name is part of the seed, so that a case has the same inputs whichever others run.
        let name = self
            .name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        (self.prepare)(&mut Setup { b, inputs, seed: inputs.seed ^ name, draws: 0 })
    }
}

/// The cases that are being collected.
pub(super) struct Suite<B: Backend> {
    full: bool,
    pub cases: Vec<Case<B>>,
}

impl<B: Backend> Suite<B> {
    /// An empty one; `full` takes the cases of real size as well.
    pub(super) fn new(full: bool) -> Self {
        Self { full, cases: Vec::new() }
    }

    /// Adds a case.
    pub(super) fn add(
        &mut self,
        verb: &'static str,
        name: &str,
        tolerance: Tolerance,
        prepare: impl Fn(&mut Setup<'_, B>) -> Result<Steps<B>> + 'static,
    ) {
        self.cases.push(Case { verb, name: format!("{verb}/{name}"), tolerance, prepare: Box::new(prepare) });
    }

    /// Whether a case of this name is wanted: those that start with `full` are of real size and run only when asked for.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.full || !name.starts_with("full")
    }
}

/// Boxes what a case does.
pub(super) fn steps<B: Backend>(steps: impl Fn(&B) -> Result<Vec<B::Tensor>> + 'static) -> Result<Steps<B>> {
    Ok(Box::new(steps))
}

/// What the inputs of one run are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs {
    pub seed: u64,
    /// What both backends hold exactly.
    pub precision: Precision,
    /// The type in which this backend keeps activations.
    pub activations: DType,
    /// Whether the run is only to leave poison behind.
    pub poison: bool,
}

/// Makes the inputs of a case: the same numbers on every backend.
pub(super) struct Setup<'a, B: Backend> {
    pub b: &'a B,
    inputs: Inputs,
    seed: u64,
    draws: u64,
}

impl<B: Backend> Setup<'_, B> {
    /// Values between −1 and 1, others at every call.
    pub(super) fn draw(&mut self, count: usize) -> Vec<f32> {
        self.draws += 1;
        noise(self.seed.wrapping_add(self.draws.wrapping_mul(0xd134_2543_de82_ef95)), count)
    }

    /// An activation between −`scale` and `scale`.
    pub(super) fn activation(&mut self, shape: &[usize], scale: f32) -> Result<B::Tensor> {
        let values = self.draw(count(shape)).into_iter().map(|v| v * scale).collect();
        self.activation_of(shape, values)
    }

    /// An activation of these values, rounded to what both backends hold.
    pub(super) fn activation_of(&mut self, shape: &[usize], values: Vec<f32>) -> Result<B::Tensor> {
        let values = self.poisoned(values);
        self.b.upload(&HostTensor::rounded(self.inputs.activations, shape, &values))
    }

    /// An activation that is a picture, of these values. Its poison is white for black and black for white: what is not a
    /// number may be refused.
    pub(super) fn picture_of(&mut self, shape: &[usize], values: Vec<f32>) -> Result<B::Tensor> {
        let Inputs { poison, precision, activations, .. } = self.inputs;
        let inverted = |v: f32| if v > 0.0 { -1.0 } else { 1.0 };
        let value = |v: f32| if poison { inverted(v) } else { precision.round(v) };
        let values: Vec<f32> = values.into_iter().map(value).collect();
        self.b.upload(&HostTensor::rounded(activations, shape, &values))
    }

    /// As [`Setup::activation`], but F32 on every backend: latents and predictions.
    pub(super) fn latents(&mut self, shape: &[usize], scale: f32) -> Result<B::Tensor> {
        let values = self.draw(count(shape)).into_iter().map(|v| v * scale).collect();
        let values = self.poisoned(values);
        self.b.upload(&HostTensor::from_f32(shape, &values))
    }

    /// F32 values as they are: rotations and tables of steps.
    pub(super) fn floats(&mut self, shape: &[usize], values: &[f32]) -> Result<B::Tensor> {
        let poison = if self.inputs.poison { f32::NAN } else { 0.0 };
        let values: Vec<f32> = values.iter().map(|v| v + poison).collect();
        self.b.upload(&HostTensor::from_f32(shape, &values))
    }

    /// Whole numbers: ids, lengths, counters.
    pub(super) fn numbers(&mut self, shape: &[usize], values: &[u32]) -> Result<B::Tensor> {
        self.b.upload(&HostTensor::from_u32(shape, values))
    }

    /// A picture.
    pub(super) fn pixels(&mut self, shape: &[usize]) -> Result<B::Tensor> {
        let flip = if self.inputs.poison { 255 } else { 0 };
        let values: Vec<u8> = self.draw(count(shape)).iter().map(|v| ((v + 1.0) * 127.99) as u8 ^ flip).collect();
        self.b.upload(&HostTensor::from_u8(shape, &values))
    }

    /// Weights between `center − spread` and `center + spread`, stored as `dtype`.
    pub(super) fn weights(&mut self, dtype: DType, shape: &[usize], center: f32, spread: f32) -> HostTensor {
        let center = if self.inputs.poison { f32::NAN } else { center };
        let values: Vec<f32> = self.draw(count(shape)).into_iter().map(|v| center + v * spread).collect();
        HostTensor::rounded(dtype, shape, &values)
    }

    /// The weight of a norm, away from 1.
    pub(super) fn norm_weight(&mut self, dtype: DType, width: usize) -> Result<B::Tensor> {
        let weight = self.weights(dtype, &[width], 1.0, 0.5);
        self.b.upload(&weight)
    }

    /// A matrix `[n, k]`, and a bias when wanted, of such a size that products are as large as what goes in.
    pub(super) fn linear(&mut self, dtype: DType, n: usize, k: usize, bias: bool) -> Result<B::Linear> {
        let matrix = self.matrix(dtype, n, k);
        let bias = bias.then(|| self.weights(dtype, &[n], 0.0, 1.0));
        expect_ready(self.b.upload_linear(&[matrix.into()], bias.as_slice()))
    }

    /// A matrix `[n, k]` of such a size that products are as large as what goes in.
    pub(super) fn matrix(&mut self, dtype: DType, n: usize, k: usize) -> HostTensor {
        self.weights(dtype, &[n, k], 0.0, (3.0 / k as f32).sqrt())
    }

    fn poisoned(&self, values: Vec<f32>) -> Vec<f32> {
        let value = |v: f32| if self.inputs.poison { f32::NAN } else { self.inputs.precision.round(v) };
        values.into_iter().map(value).collect()
    }
}

/// A weight that is uploaded in pieces of about so many bytes, or whole.
pub(super) fn in_pieces(tensor: HostTensor, bytes: Option<u64>) -> Weight<'static> {
    let whole = Weight::from(tensor);
    match bytes {
        Some(bytes) => whole.in_pieces(bytes),
        None => whole,
    }
}

fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}
