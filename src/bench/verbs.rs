//! Verbs one by one, each at the size of a [`Case`].
//!
//! A verb is recorded as often as it takes to keep the device busy for some milliseconds, on inputs and weights that
//! take turns, so that they come from memory and not from a cache as they would in no model; the recording is replayed,
//! waited for, and its time divided by the number of calls.

use super::report::Row;
use super::timing::{since_start, timed};
use crate::backend::{Backend, DeviceTensor, Runtime};
use crate::error::{Error, Result};
use crate::future::expect_ready;
use crate::tensor::{DType, HostTensor};
use crate::weights::RandomTensors;

/// The most calls in a recording.
pub(super) const MOST_CALLS: usize = 1024;
/// How long a recording should take at least, in milliseconds.
const LONG_ENOUGH: f64 = 5.0;
/// What takes longer than this is called once, in milliseconds.
const LONG: f64 = 100.0;
/// Bytes that all inputs of a verb have together: several times what a GPU's cache holds.
const TURNS: u64 = 256 << 20;
/// The most copies of its inputs.
const MOST_TURNS: u64 = 64;

/// Calls a verb once, and returns what it made.
pub(super) type Call<B> = Box<dyn FnMut(&B) -> Result<Option<<B as Runtime>::Tensor>>>;

/// Uploads inputs, others each time.
type Prepare<B> = Box<dyn Fn(&mut Inputs<'_, B>) -> Result<Call<B>>>;

/// A verb at one size.
pub(super) struct Case<B: Backend> {
    pub name: String,
    what: String,
    flop: Option<f64>,
    prepare: Prepare<B>,
}

/// Boxes what a case calls.
pub(super) fn call<B: Backend>(call: impl FnMut(&B) -> Result<Option<B::Tensor>> + 'static) -> Result<Call<B>> {
    Ok(Box::new(call))
}

/// Makes inputs, and counts the bytes that one call has to move for them.
pub(super) struct Inputs<'a, B> {
    pub b: &'a B,
    /// Runs that are wanted at most.
    pub runs: usize,
    random: &'a RandomTensors,
    activations: DType,
    made: usize,
    bytes: u64,
}

impl<B: Backend> Inputs<'_, B> {
    fn random(&mut self, dtype: DType, shape: &[usize], mean: f32, spread: f32) -> HostTensor {
        self.made += 1;
        let tensor = self.random.normal(dtype, &self.made.to_string(), shape, mean, spread);
        self.bytes += tensor.bytes().len() as u64;
        tensor
    }

    /// Takes elements of activations out of the count.
    pub(super) fn uncounted(&mut self, elements: usize) {
        self.bytes -= (elements * self.activations.size()) as u64;
    }

    /// An activation that is read.
    pub(super) fn activation(&mut self, shape: &[usize]) -> Result<B::Tensor> {
        let tensor = self.random(self.activations, shape, 0.0, 1.0);
        self.b.upload(&tensor)
    }

    /// An activation that is read and written.
    pub(super) fn in_place(&mut self, shape: &[usize]) -> Result<B::Tensor> {
        let tensor = self.random(self.activations, shape, 0.0, 1.0);
        self.bytes += tensor.bytes().len() as u64;
        self.b.upload(&tensor)
    }

    /// Latents or a prediction, F32, that are read.
    pub(super) fn latents(&mut self, shape: &[usize]) -> Result<B::Tensor> {
        let tensor = self.random(DType::F32, shape, 0.0, 1.0);
        self.b.upload(&tensor)
    }

    /// Latents that are read and written.
    pub(super) fn latents_in_place(&mut self, shape: &[usize]) -> Result<B::Tensor> {
        let tensor = self.random(DType::F32, shape, 0.0, 1.0);
        self.bytes += tensor.bytes().len() as u64;
        self.b.upload(&tensor)
    }

    /// F32 values as they are.
    pub(super) fn floats(&mut self, shape: &[usize], values: &[f32]) -> Result<B::Tensor> {
        self.bytes += size_of_val(values) as u64;
        self.floats_uncounted(shape, values)
    }

    /// As [`Inputs::floats`], but hardly any of them is read.
    pub(super) fn floats_uncounted(&mut self, shape: &[usize], values: &[f32]) -> Result<B::Tensor> {
        self.b.upload(&HostTensor::from_f32(shape, values))
    }

    /// A vector of whole numbers.
    pub(super) fn numbers(&mut self, values: &[u32]) -> Result<B::Tensor> {
        self.b.upload(&HostTensor::from_u32(&[values.len()], values))
    }

    /// A vector of weights, at the scale of a tensor of this name.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<B::Tensor> {
        let tensor = self.random(DType::Bf16, &[len], if name == "norm" { 1.0 } else { 0.0 }, 0.05);
        self.b.upload(&tensor)
    }

    /// A bias to be uploaded with its matrix.
    pub(super) fn bias(&mut self, len: usize) -> HostTensor {
        self.random(DType::Bf16, &[len], 0.0, 0.05)
    }

    /// A matrix `[n, k]` to be uploaded.
    pub(super) fn matrix(&mut self, n: usize, k: usize) -> HostTensor {
        self.random(DType::Bf16, &[n, k], 0.0, 1.0 / (k as f32).sqrt())
    }

    /// A matrix `[n, k]`, and a bias when wanted.
    pub(super) fn linear(&mut self, n: usize, k: usize, bias: bool) -> Result<B::Linear> {
        let matrix = self.matrix(n, k);
        let bias = bias.then(|| self.bias(n));
        expect_ready(self.b.upload_linear(&[matrix.into()], bias.as_slice()))
    }

    /// The kernel of a convolution with its bias.
    pub(super) fn kernel(&mut self, output: usize, input: usize, side: usize) -> Result<B::Conv2d> {
        let spread = 1.0 / ((input * side * side) as f32).sqrt();
        let kernel = self.random(DType::Bf16, &[output, input, side, side], 0.0, spread);
        let bias = self.bias(output);
        self.b.upload_conv2d(&kernel, Some(&bias))
    }
}

impl<B: Backend> Case<B> {
    /// `name` goes on behind `verb/`; `flop` are the operations of one call where products are what takes the time.
    pub(super) fn new(
        name: String,
        what: String,
        flop: Option<f64>,
        prepare: impl Fn(&mut Inputs<'_, B>) -> Result<Call<B>> + 'static,
    ) -> Self {
        Self { name: format!("verb/{name}"), what, flop, prepare: Box::new(prepare) }
    }

    /// Measures it. What the device has no room for is a row without times.
    pub(super) async fn measure(&self, b: &B, random: &RandomTensors, activations: DType, runs: usize) -> Result<Row> {
        let measured = self.times(b, random, activations, runs).await;
        b.trim();
        match measured {
            Err(Error::OutOfMemory { problem, .. }) => Ok(Row::without_room(&self.name, &self.what, problem)),
            measured => measured,
        }
    }

    async fn times(&self, b: &B, random: &RandomTensors, activations: DType, runs: usize) -> Result<Row> {
        let mut inputs = Inputs { b, runs, random, activations, made: 0, bytes: 0 };
        let mut calls = vec![(self.prepare)(&mut inputs)?];
        let bytes = inputs.bytes;
        let turns = (TURNS / bytes.max(1)).clamp(1, MOST_TURNS) as usize;
        for _ in 1..turns {
            calls.push((self.prepare)(&mut inputs)?);
        }

        let mut count = 1;
        let (recording, written) = loop {
            let (recording, written) = recorded(b, &mut calls, count)?;
            let first = replayed(b, &recording).await?;
            if first > LONG || count == MOST_CALLS {
                break (recording, written);
            }
            let ms = replayed(b, &recording).await?;
            if ms >= LONG_ENOUGH && count > 1 {
                break (recording, written);
            }
            // Twice at least, and somewhat more than just enough.
            let wanted = (1.2 * LONG_ENOUGH / ms * count as f64).ceil() as usize;
            count = wanted.max(2 * count).min(MOST_CALLS);
        };
        let run = async || replayed(b, &recording).await.map(drop);
        let ms = timed(runs, run).await?.divided(count);
        let bytes = (bytes + written) as f64;
        Ok(Row::new(&self.name, &self.what, ms, count).with_flop(self.flop).with_bytes(Some(bytes)))
    }
}

/// A recording of so many calls, and the bytes that one of them writes to a tensor of its own.
fn recorded<B: Backend>(b: &B, calls: &mut [Call<B>], count: usize) -> Result<(B::Recording, u64)> {
    let mut written = 0;
    let recording = b.record(|b| {
        // A result is kept while others are made, so that they too take turns in memory.
        let mut kept: Vec<Option<B::Tensor>> = calls.iter().map(|_| None).collect();
        for i in 0..count {
            let turn = i % calls.len();
            kept[turn] = None;
            kept[turn] = calls[turn](b)?;
            if let Some(made) = &kept[turn] {
                written = (made.shape().iter().product::<usize>() * made.dtype().size()) as u64;
            }
        }
        Ok(())
    })?;
    Ok((recording, written))
}

/// Milliseconds of one replay.
async fn replayed<B: Backend>(b: &B, recording: &B::Recording) -> Result<f64> {
    since_start(async || {
        b.replay(recording)?;
        b.wait(b.event()?).await
    })
    .await
}
