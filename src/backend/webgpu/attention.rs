//! `attention` and what prepares its input, `qk_norm_rope`.

use super::super::{DType, DeviceTensor, Heads, Mask, QkNormRope, RopePairs, shapes};
use super::gpu::Gpu;
use super::program::{Program, wgsl};
use super::recording::Arg;
use super::tensor::WebGpuTensor;
use crate::error::{Error, Result};

/// The widest head that the accumulators of a thread hold.
const WIDEST: usize = 512;

/// Queries a thread: as many as its registers hold for heads of this width.
fn rows(dim: usize) -> usize {
    if dim <= 256 { 4 } else { 2 }
}

fn program(dim: usize, causal: bool, lengths: bool) -> Program {
    let input = if dim.is_multiple_of(4) { wgsl!("input_vec4") } else { wgsl!("input_scalar") };
    Program::new("attention", &[wgsl!("common"), input, wgsl!("attention")])
        .with("HEAD", dim)
        .with("RQ", rows(dim))
        .with("OV", dim.div_ceil(64))
        .with("CAUSAL", causal)
        .with("HAS_LENGTHS", lengths)
}

pub(super) fn attention(
    gpu: &Gpu,
    qkv: &WebGpuTensor,
    heads: Heads,
    mask: Mask<'_, WebGpuTensor>,
) -> Result<WebGpuTensor> {
    let verb = "attention";
    let shape @ [items, tokens, _] = shapes::attention(qkv.shape(), heads, mask.lengths.map(|l| l.shape()))?;
    if heads.dim > WIDEST {
        return Err(Error::Device(format!("attention: heads of {} are wider than {WIDEST}", heads.dim)));
    }
    let out = gpu.output(verb, &shape, DType::F32)?;
    let qkv = gpu.float(qkv)?;
    let mut parameters = [tokens, heads.query, heads.key_value, items].map(|value| value as u32).to_vec();
    parameters.push((1.0 / (heads.dim as f32).sqrt()).to_bits());
    let groups = tokens.div_ceil(8 * rows(heads.dim)) * heads.query * items;
    let args = [Arg::from(&qkv), gpu.optional(mask.lengths), Arg::from(&out)];
    gpu.dispatch(&program(heads.dim, mask.causal, mask.lengths.is_some()), &args, parameters, groups)?;
    Ok(out)
}

/// Threads a head: a power of two up to the workgroup's size, no more than there are pairs to turn.
fn team(dim: usize) -> usize {
    (dim / 2).next_power_of_two().clamp(1, 64)
}

fn norm_program(dim: usize, pairs: RopePairs) -> Program {
    Program::new("qk_norm_rope", &[wgsl!("common"), wgsl!("qk_norm_rope")])
        .with("HEAD", dim)
        .with("TEAM", team(dim))
        .with("INTERLEAVED", pairs == RopePairs::Interleaved)
}

pub(super) fn qk_norm_rope(
    gpu: &Gpu,
    qkv: &mut WebGpuTensor,
    heads: Heads,
    how: QkNormRope<'_, WebGpuTensor>,
) -> Result<()> {
    let QkNormRope { q_norm, k_norm, eps, rotation, pairs } = how;
    shapes::qk_norm_rope(qkv.shape(), heads, q_norm.shape(), k_norm.shape(), rotation.shape())?;
    let (items, tokens) = (qkv.shape()[0], qkv.shape()[1]);
    gpu.make_float(qkv)?;
    let (q_norm, k_norm, rotation) = (gpu.float(q_norm)?, gpu.float(k_norm)?, gpu.float(rotation)?);
    let stride = if rotation.shape()[0] == 1 { 0 } else { tokens * heads.dim };
    let mut parameters =
        [tokens, items * tokens, heads.query, heads.key_value, stride].map(|value| value as u32).to_vec();
    parameters.push(eps.to_bits());
    let groups = (items * tokens * (heads.query + heads.key_value)).div_ceil(64 / team(heads.dim));
    let args = [Arg::from(&*qkv), Arg::from(&q_norm), Arg::from(&k_norm), Arg::from(&rotation)];
    gpu.dispatch(&norm_program(heads.dim, pairs), &args, parameters, groups)
}

/// Programs of these verbs for heads of the models and for odd ones.
pub(super) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for dim in [2, 16, 20, 24, 48, 64, 96, 122, 128, 384, 512] {
        for (causal, lengths) in [(false, false), (false, true), (true, false), (true, true)] {
            programs.push(program(dim, causal, lengths));
        }
        programs.push(norm_program(dim, RopePairs::Interleaved));
        programs.push(norm_program(dim, RopePairs::Halves));
    }
    programs
}
