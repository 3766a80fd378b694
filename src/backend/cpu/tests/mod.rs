//! Every op against its definition, written once more in f64 with plain loops and indices.
//!
//! The figure is `‖out − reference‖ / ‖reference‖`. F32 rounds to 6e-8, and sums here have up to a
//! few thousand terms of either sign, so 1e-5 allows another order of a sum and nothing else.

mod autoencoder;
mod diffusion;
mod order;
mod threads;
mod tokens;

use super::super::*;
use super::{Cpu, CpuLinear, CpuTensor};
use crate::error::Result;
use crate::future::expect_ready;
use crate::numbers::{noise, relative_error};
use crate::tensor::{Compute, DType, HostTensor, Weight};
use pollster::block_on;

const TOLERANCE: f64 = 1e-5;

/// Values between −`scale` and `scale`.
fn random(seed: u64, shape: &[usize], scale: f32) -> HostTensor {
    let values: Vec<f32> = noise(seed, shape.iter().product()).iter().map(|v| v * scale).collect();
    HostTensor::from_f32(shape, &values)
}

/// Values near 1 for weights, so that a forgotten weight changes the result.
fn near_one(seed: u64, shape: &[usize]) -> HostTensor {
    let values: Vec<f32> = noise(seed, shape.iter().product()).iter().map(|v| 1.0 + 0.5 * v).collect();
    HostTensor::from_f32(shape, &values)
}

/// `tensor` rounded to `dtype`, in unaligned memory if `odd`, and the rounded values.
fn stored(tensor: &HostTensor, dtype: DType, odd: bool) -> (HostTensor, Vec<f64>) {
    let mut bytes = vec![0xa5; usize::from(odd)];
    let mut values = Vec::new();
    for v in tensor.to_f32() {
        match dtype {
            DType::F16 => {
                let v = half::f16::from_f32(v);
                bytes.extend(v.to_le_bytes());
                values.push(v.to_f64());
            }
            DType::Bf16 => {
                let v = half::bf16::from_f32(v);
                bytes.extend(v.to_le_bytes());
                values.push(v.to_f64());
            }
            _ => {
                bytes.extend(v.to_le_bytes());
                values.push(f64::from(v));
            }
        }
    }
    let bytes = bytes::Bytes::from(bytes).slice(usize::from(odd)..);
    (HostTensor::new(dtype, tensor.shape(), bytes).unwrap(), values)
}

fn f64s(tensor: &HostTensor) -> Vec<f64> {
    tensor.to_f32().into_iter().map(f64::from).collect()
}

fn linear(parts: &[HostTensor], biases: &[HostTensor]) -> CpuLinear {
    let parts: Vec<Weight<'_>> = parts.iter().map(Weight::from).collect();
    expect_ready(Cpu::new().upload_linear(&parts, biases)).unwrap()
}

fn silu(a: f64) -> f64 {
    a / (1.0 + (-a).exp())
}

/// `x·Wᵀ + b`, `x` `[M, K]`, `w` `[N, K]`.
fn naive_linear(x: &[f64], w: &[f64], bias: Option<&[f64]>, k: usize) -> Vec<f64> {
    let (m, n) = (x.len() / k, w.len() / k);
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            for l in 0..k {
                out[i * n + j] += x[i * k + l] * w[j * k + l];
            }
            out[i * n + j] += bias.map_or(0.0, |bias| bias[j]);
        }
    }
    out
}

/// `x / √(mean(x²) + eps)`.
fn naive_rms(x: &[f64], eps: f64) -> Vec<f64> {
    let mut squares = 0.0;
    for v in x {
        squares += v * v;
    }
    x.iter().map(|v| v / (squares / x.len() as f64 + eps).sqrt()).collect()
}

#[track_caller]
fn expect(case: &dyn std::fmt::Debug, out: &[f32], reference: &[f64]) {
    expect_within(case, out, reference, TOLERANCE);
}

#[track_caller]
fn expect_within(case: &dyn std::fmt::Debug, out: &[f32], reference: &[f64], tolerance: f64) {
    let reference: Vec<f32> = reference.iter().map(|&v| v as f32).collect();
    assert!(reference.iter().any(|&v| v != 0.0), "{case:?}: a reference of zeros shows nothing");
    let error = relative_error(out, &reference);
    assert!(error <= tolerance, "{case:?}: {error:e} is more than {tolerance:e}");
}

/// The results of an op.
struct Ran {
    out: Vec<f32>,
    /// The inputs afterwards: ops may change them in place.
    inputs: Vec<Vec<f32>>,
}

/// Calls an op twice, and records and replays it twice. Both must give bit-identical results and
/// inputs, and recording alone must change nothing. Returns the results of the first call.
#[track_caller]
fn both<const N: usize>(inputs: [HostTensor; N], op: impl Fn(&Cpu, &mut [CpuTensor; N]) -> Result<CpuTensor>) -> Ran {
    let b = Cpu::new();
    let host = |tensor: &CpuTensor| block_on(b.download(tensor)).unwrap();
    let upload = || inputs.each_ref().map(|input| b.upload(input).unwrap());
    let (mut called, mut kept) = (upload(), upload());
    let mut out = None;
    let recording = b.record(|b| {
        out = Some(op(b, &mut kept)?);
        Ok(())
    });
    let (recording, out) = (recording.unwrap(), out.unwrap());
    for (kept, input) in kept.iter().zip(&inputs) {
        assert_eq!(host(kept).bytes(), input.bytes(), "an op ran while it was recorded");
    }
    let mut first = None;
    for call in 0..2 {
        let direct = op(&b, &mut called);
        let replayed = b.replay(&recording);
        assert_eq!(direct.is_err(), replayed.is_err(), "call {call}: {direct:?}, {replayed:?}");
        // Some ops fail in the end, for example past the last row of a table.
        let Ok(direct) = direct else { break };
        for (direct, replayed) in std::iter::once((&direct, &out)).chain(called.iter().zip(&kept)) {
            let (direct, replayed) = (host(direct), host(replayed));
            assert!(direct.bytes() == replayed.bytes(), "call {call}: a recording does not do what its ops do");
            assert_eq!((direct.dtype(), direct.shape()), (replayed.dtype(), replayed.shape()));
        }
        let ran =
            || Ran { out: host(&direct).to_f32(), inputs: called.iter().map(|input| host(input).to_f32()).collect() };
        first.get_or_insert_with(ran);
    }
    first.expect("the op's first call succeeds")
}
