//! Single ops, each at the size of a [`Case`].
//!
//! An op is recorded often enough to keep the device busy for some milliseconds. The calls rotate
//! over several sets of inputs and weights, so that these come from memory and not from a cache, as
//! in a model. The recording is replayed and waited for, and its time is divided by the number of
//! calls.

use super::report::Row;
use super::timing::{since_start, timed};
use crate::backend::{Backend, DeviceTensor};
use crate::catalogue::{Call, Case, Inputs, Written};
use crate::error::{Error, Result};
use crate::weights::RandomTensors;

/// Maximum calls in a recording.
pub(super) const MAX_CALLS: usize = 1024;
/// Minimum duration of a recording in milliseconds, unless it has the maximum number of calls.
const MIN_MS: f64 = 5.0;
/// An op slower than this many milliseconds is called once.
const MAX_REPEATED_MS: f64 = 100.0;
/// Bytes of all input sets of an op: several times the cache of a GPU.
const ROTATED_BYTES: u64 = 256 << 20;
/// Maximum number of input sets.
const MAX_SETS: u64 = 64;

/// The name of a case's row.
pub(super) fn name<B: Backend>(case: &Case<B>) -> String {
    format!("op/{}", case.name)
}

/// Measures a case. The row has no times if the device is out of memory.
pub(super) async fn measure<B: Backend>(case: &Case<B>, b: &B, random: &RandomTensors, runs: usize) -> Result<Row> {
    let measured = times(case, b, random, runs).await;
    b.trim();
    match measured {
        Err(Error::OutOfMemory { problem, .. }) => Ok(Row::without_room(&name(case), &case.sizes, problem)),
        measured => measured,
    }
}

async fn times<B: Backend>(case: &Case<B>, b: &B, random: &RandomTensors, runs: usize) -> Result<Row> {
    let mut inputs = Inputs::of_normal_numbers(b, random);
    let mut calls = vec![case.prepare(&mut inputs)?];
    let read = inputs.bytes();
    let sets = (ROTATED_BYTES / read.max(1)).clamp(1, MAX_SETS);
    for _ in 1..sets {
        calls.push(case.prepare(&mut inputs)?);
    }

    let mut count = 1;
    let (recording, written) = loop {
        let (recording, written) = recorded(b, &calls, count)?;
        let first = replayed(b, &recording).await?;
        if first > MAX_REPEATED_MS || count == MAX_CALLS {
            break (recording, written);
        }
        let ms = replayed(b, &recording).await?;
        if ms >= MIN_MS && count > 1 {
            break (recording, written);
        }
        // The count at least doubles and exceeds the estimate a little.
        let wanted = (1.2 * MIN_MS / ms * count as f64).ceil() as usize;
        count = wanted.max(2 * count).min(MAX_CALLS);
    };
    let run = async || replayed(b, &recording).await.map(drop);
    let ms = timed(runs, run).await?.divided(count);
    let bytes = (read + written) as f64;
    Ok(Row::new(&name(case), &case.sizes, ms, count).with_flop(case.flop).with_bytes(Some(bytes)))
}

/// A recording of `count` calls, and the bytes that one of them writes to new tensors.
fn recorded<B: Backend>(b: &B, calls: &[Call<B>], count: usize) -> Result<(B::Recording, u64)> {
    let mut written = 0;
    let recording = b.record(|b| {
        // Results stay alive while others are made, so that they rotate in memory like the inputs.
        let mut results: Vec<Option<Written<B::Tensor>>> = calls.iter().map(|_| None).collect();
        for i in 0..count {
            let set = i % calls.len();
            results[set] = None;
            let result = calls[set](b)?;
            written = result.new.iter().map(bytes).sum();
            results[set] = Some(result);
        }
        Ok(())
    })?;
    Ok((recording, written))
}

fn bytes(tensor: &impl DeviceTensor) -> u64 {
    (tensor.shape().iter().product::<usize>() * tensor.dtype().size()) as u64
}

/// Milliseconds of one replay.
async fn replayed<B: Backend>(b: &B, recording: &B::Recording) -> Result<f64> {
    since_start(async || {
        b.replay(recording)?;
        b.wait(b.event()?).await
    })
    .await
}
