//! The inputs of cases.
//!
//! There are two sources of numbers. *Noise* is for comparisons: uniform, identical on every
//! backend, and rounded to a precision that both backends of a comparison represent exactly.
//! *Normal* numbers are for measurements: slices of one long array, which take no time to make.
//!
//! # Poison
//! An op that leaves an element unwritten may still be right by luck, when the memory contains the
//! right value from an earlier run. The trait cannot fill memory, so a comparison first runs a case
//! on poisoned inputs: NaN in activations, weights and tables, inverted values in pictures. A
//! backend that reuses memory then allocates memory without a right value in it.

use super::stored::Stored;
use super::tolerance::Precision;
use crate::backend::{Backend, RmsNorm};
use crate::error::Result;
use crate::future::expect_ready;
use crate::numbers::{fnv1a, noise};
use crate::tensor::{Compute, DType, Format, HostTensor, Weight};
use crate::weights::RandomTensors;

/// Multiplier of the draw's index in its seed.
const SEED_STEP: u64 = 0xd134_2543_de82_ef95;

/// Uniform numbers for a comparison.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noise {
    pub seed: u64,
    /// The precision that both backends represent exactly.
    pub precision: Precision,
    /// Replaces every number by one that no right result contains.
    pub poison: bool,
}

/// The source of numbers.
#[derive(Debug, Clone, Copy)]
enum Numbers<'a> {
    Noise(Noise),
    Normal(&'a RandomTensors),
}

/// Makes and uploads inputs, and counts the bytes that one call moves for them.
#[derive(Debug)]
pub(crate) struct Inputs<'a, B> {
    pub b: &'a B,
    numbers: Numbers<'a>,
    activations: DType,
    draws: u64,
    bytes: u64,
}

impl<'a, B: Backend> Inputs<'a, B> {
    /// Noise inputs for the case of this name, independent of the other cases.
    pub(crate) fn of_noise(b: &'a B, name: &str, noise: Noise) -> Self {
        let seed = noise.seed ^ fnv1a(name.as_bytes());
        Self::new(b, Numbers::Noise(Noise { seed, ..noise }))
    }

    /// Inputs of normal numbers, with the standard deviation of uniform noise of the same scale.
    pub(crate) fn of_normal_numbers(b: &'a B, random: &'a RandomTensors) -> Self {
        Self::new(b, Numbers::Normal(random))
    }

    fn new(b: &'a B, numbers: Numbers<'a>) -> Self {
        Self { b, numbers, activations: b.activations(), draws: 0, bytes: 0 }
    }

    /// Bytes that a call moves for the inputs made so far: inputs read once, inputs changed in
    /// place written once.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn poison(&self) -> bool {
        matches!(self.numbers, Numbers::Noise(Noise { poison: true, .. }))
    }

    /// Numbers of the next tensor: noise between −1 and 1, or normal numbers of the same deviation.
    pub(super) fn draw(&mut self, count: usize) -> Vec<f32> {
        self.draws += 1;
        match self.numbers {
            Numbers::Noise(Noise { seed, .. }) => noise(seed.wrapping_add(self.draws.wrapping_mul(SEED_STEP)), count),
            Numbers::Normal(random) => normal(random, self.draws, DType::F32, &[count], 0.0, 1.0).to_f32(),
        }
    }

    /// Numbers within `mean ± spread`, mapped by `change` and rounded to `dtype`.
    fn drawn(
        &mut self,
        dtype: DType,
        shape: &[usize],
        [mean, spread]: [f32; 2],
        change: impl Fn(f32) -> f32,
    ) -> HostTensor {
        match self.numbers {
            Numbers::Noise(_) => {
                let values = self.draw(shape.iter().product());
                let values: Vec<f32> = values.into_iter().map(|v| change(mean + v * spread)).collect();
                HostTensor::rounded(dtype, shape, &values)
            }
            Numbers::Normal(random) => {
                self.draws += 1;
                normal(random, self.draws, dtype, shape, mean, spread)
            }
        }
    }

    /// A value that both backends of a comparison represent exactly, or poison.
    fn held(&self) -> impl Fn(f32) -> f32 + use<B> {
        let numbers = match self.numbers {
            Numbers::Noise(noise) => Some(noise),
            Numbers::Normal(_) => None,
        };
        move |value| match numbers {
            Some(Noise { poison: true, .. }) => f32::NAN,
            Some(Noise { precision, .. }) => precision.round(value),
            None => value,
        }
    }

    /// Counts bytes that a call reads.
    pub(super) fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Makes an input of `bytes` bytes by ops, whose own inputs are not counted.
    pub(super) fn made<T>(&mut self, bytes: usize, make: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = self.bytes;
        let made = make(self)?;
        self.bytes = before + bytes as u64;
        Ok(made)
    }

    /// Uploads a tensor that a call reads.
    pub(super) fn read(&mut self, tensor: &HostTensor) -> Result<B::Tensor> {
        self.bytes += tensor.bytes().len() as u64;
        self.b.upload(tensor)
    }

    /// Counts `elements` of an activation that a call does not read or write.
    pub(super) fn skipped(&mut self, elements: usize) {
        self.bytes -= (elements * self.activations.size()) as u64;
    }

    /// An activation within ±`scale`.
    pub(super) fn activation(&mut self, shape: &[usize], scale: f32) -> Result<B::Tensor> {
        self.activation_around(shape, 0.0, scale)
    }

    /// An activation within `mean` ± `scale`.
    pub(super) fn activation_around(&mut self, shape: &[usize], mean: f32, scale: f32) -> Result<B::Tensor> {
        let tensor = self.drawn(self.activations, shape, [mean, scale], self.held());
        self.read(&tensor)
    }

    /// An activation with these values.
    pub(super) fn activation_of(&mut self, shape: &[usize], values: Vec<f32>) -> Result<B::Tensor> {
        let values: Vec<f32> = values.into_iter().map(self.held()).collect();
        self.read(&HostTensor::rounded(self.activations, shape, &values))
    }

    /// An activation within ±`scale`, which a call reads and writes.
    pub(super) fn activation_in_place(&mut self, shape: &[usize], scale: f32) -> Result<B::Tensor> {
        self.bytes += (shape.iter().product::<usize>() * self.activations.size()) as u64;
        self.activation(shape, scale)
    }

    /// A modulation table `[items, rows, width]` within ±`scale`. A call reads `read` of its rows.
    pub(super) fn modulation(
        &mut self,
        [items, rows, width]: [usize; 3],
        read: usize,
        scale: f32,
    ) -> Result<B::Tensor> {
        let table = self.activation(&[items, rows, width], scale)?;
        self.skipped(items * (rows - read) * width);
        Ok(table)
    }

    /// An activation that holds a picture within ±`scale`.
    pub(super) fn picture(&mut self, shape: &[usize], scale: f32) -> Result<B::Tensor> {
        match self.numbers {
            Numbers::Noise(_) => {
                let values = self.draw(shape.iter().product()).into_iter().map(|v| v * scale).collect();
                self.picture_of(shape, values)
            }
            Numbers::Normal(_) => self.activation(shape, scale),
        }
    }

    /// An activation that holds a picture with these values. Its poison swaps black and white,
    /// because a backend may reject a picture with NaN.
    pub(super) fn picture_of(&mut self, shape: &[usize], values: Vec<f32>) -> Result<B::Tensor> {
        if self.poison() {
            let inverted = |v: f32| if v > 0.0 { -1.0 } else { 1.0 };
            let values: Vec<f32> = values.into_iter().map(inverted).collect();
            return self.read(&HostTensor::rounded(self.activations, shape, &values));
        }
        self.activation_of(shape, values)
    }

    /// Latents or a prediction within ±`scale`, F32 on every backend.
    pub(super) fn latents(&mut self, shape: &[usize], scale: f32) -> Result<B::Tensor> {
        let tensor = self.drawn(DType::F32, shape, [0.0, scale], self.held());
        self.read(&tensor)
    }

    /// Latents within ±`scale`, which a call reads and writes.
    pub(super) fn latents_in_place(&mut self, shape: &[usize], scale: f32) -> Result<B::Tensor> {
        self.bytes += (shape.iter().product::<usize>() * DType::F32.size()) as u64;
        self.latents(shape, scale)
    }

    /// Exact F32 values: rotations and times.
    pub(super) fn floats(&mut self, shape: &[usize], values: &[f32]) -> Result<B::Tensor> {
        let poison = if self.poison() { f32::NAN } else { 0.0 };
        let values: Vec<f32> = values.iter().map(|v| v + poison).collect();
        self.read(&HostTensor::from_f32(shape, &values))
    }

    /// A table of steps. A call reads one row, too little to count.
    pub(super) fn step_table(&mut self, shape: &[usize], values: &[f32]) -> Result<B::Tensor> {
        let table = self.floats(shape, values)?;
        self.bytes -= size_of_val(values) as u64;
        Ok(table)
    }

    /// Integers: ids, lengths, counters. They are too small to count.
    pub(super) fn integers(&self, shape: &[usize], values: &[u32]) -> Result<B::Tensor> {
        self.b.upload(&HostTensor::from_u32(shape, values))
    }

    /// A picture of bytes.
    pub(super) fn pixels(&mut self, shape: &[usize]) -> Result<B::Tensor> {
        let inverted = if self.poison() { 255 } else { 0 };
        let values = self.draw(shape.iter().product());
        let values: Vec<u8> = values.iter().map(|v| ((v + 1.0) * 127.99) as u8 ^ inverted).collect();
        self.read(&HostTensor::from_u8(shape, &values))
    }

    /// Weights within `mean ± spread`, stored as `dtype`.
    pub(super) fn weights(&mut self, dtype: DType, shape: &[usize], mean: f32, spread: f32) -> HostTensor {
        let mean = if self.poison() { f32::NAN } else { mean };
        let tensor = self.drawn(dtype, shape, [mean, spread], |v| v);
        self.bytes += tensor.bytes().len() as u64;
        tensor
    }

    /// The weight of a norm, away from 1.
    pub(super) fn norm_weight(&mut self, dtype: DType, width: usize) -> Result<B::Tensor> {
        self.norm_weight_around(1.0, dtype, width)
    }

    /// As [`Inputs::norm_weight`], within half of `mean` of it.
    pub(super) fn norm_weight_around(&mut self, mean: f32, dtype: DType, width: usize) -> Result<B::Tensor> {
        let weight = self.weights(dtype, &[width], mean, mean / 2.0);
        self.b.upload(&weight)
    }

    /// A vector within ±`spread`: a token, or the bias of a norm.
    pub(super) fn vector(&mut self, dtype: DType, width: usize, spread: f32) -> Result<B::Tensor> {
        let vector = self.weights(dtype, &[width], 0.0, spread);
        self.b.upload(&vector)
    }

    /// The bias of a matrix with `n` rows.
    pub(super) fn bias(&mut self, dtype: DType, n: usize) -> HostTensor {
        self.weights(dtype, &[n], 0.0, 1.0)
    }

    /// [`Inputs::stored`] on the device, optionally with a bias, F32 beside a quantised matrix.
    pub(super) fn linear(&mut self, stored: impl Into<Stored>, n: usize, k: usize, bias: bool) -> Result<B::Linear> {
        self.linear_computed_in(Compute::Native, stored.into(), [n, k], bias)
    }

    /// As [`Inputs::linear`], for gemms with operands of this type.
    pub(super) fn linear_computed_in(
        &mut self,
        compute: Compute,
        stored: Stored,
        [n, k]: [usize; 2],
        bias: bool,
    ) -> Result<B::Linear> {
        let matrix = self.stored(stored, n, k).computed_in(compute);
        let bias = bias.then(|| self.bias(stored.bias(), n));
        expect_ready(self.b.upload_linear(&[matrix], bias.as_slice()))
    }
}

/// The operand `x` of a gemm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operand {
    /// An activation.
    Native,
    /// FP8 with a scale for each row, as `rms_norm` writes it.
    Fp8Rows,
    /// FP8 with a scale for each block of a row, as `swiglu` writes it.
    Fp8Blocks,
    /// The same with blocks whose scales differ, and blocks of zeros.
    Fp8UnevenBlocks,
}

impl Operand {
    /// The type of the gemm's operands.
    pub(crate) fn compute(self) -> Compute {
        match self {
            Operand::Native => Compute::Native,
            Operand::Fp8Rows | Operand::Fp8Blocks | Operand::Fp8UnevenBlocks => Compute::Fp8,
        }
    }
}

impl<B: Backend> Inputs<'_, B> {
    /// The operand of a gemm, `[batch, tokens, width]`. An activation is within ±`scale`, FP8 rows
    /// have a root mean square near it. Operands in FP8 are written here, so that a call only reads
    /// them.
    pub(super) fn operand(&mut self, operand: Operand, shape: [usize; 3], scale: f32) -> Result<B::Tensor> {
        let [batch, tokens, width] = shape;
        match operand {
            Operand::Native => self.activation(&shape, scale),
            Operand::Fp8Rows => {
                let x = self.activation(&shape, 1.0)?;
                let weight = self.weights(DType::F32, &[width], scale, scale / 2.0);
                let weight = self.b.upload(&weight)?;
                // The call reads codes instead.
                self.skipped(shape.iter().product());
                self.count(shape.iter().product());
                self.b.rms_norm(&x, RmsNorm { weight: &weight, scale: None, eps: 1e-5, output: Compute::Fp8 })
            }
            Operand::Fp8Blocks | Operand::Fp8UnevenBlocks => {
                const WIDTH: usize = 256;
                self.made(shape.iter().product(), |inputs| {
                    let x = inputs.operand(Operand::Fp8Rows, [batch, tokens, WIDTH], scale.sqrt())?;
                    let rows = match operand {
                        Operand::Fp8UnevenBlocks => Stored::UnevenRowScales,
                        _ => Stored::RowScales,
                    };
                    let [gate, up] = [Stored::RowScales, rows]
                        .map(|rows| inputs.stored(rows(Format::F8E4m3), width, WIDTH).computed_in(Compute::Fp8));
                    inputs.b.swiglu(&x, &expect_ready(inputs.b.upload_swiglu(&gate, &up))?)
                })
            }
        }
    }
}

/// Normal numbers with the deviation of uniform ones within `mean ± spread`.
fn normal(random: &RandomTensors, draw: u64, dtype: DType, shape: &[usize], mean: f32, spread: f32) -> HostTensor {
    random.normal(dtype, &draw.to_string(), shape, mean, spread / 3f32.sqrt())
}

/// A weight, uploaded whole or in pieces of about this many bytes.
pub(super) fn in_pieces(whole: Weight<'static>, bytes: Option<u64>) -> Weight<'static> {
    match bytes {
        Some(bytes) => whole.in_pieces(bytes),
        None => whole,
    }
}
