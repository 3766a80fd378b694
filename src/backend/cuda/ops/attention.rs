//! `attention` and what prepares its input, `qk_norm_rope`.

use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::recording::{Arg, Grid};
use crate::backend::cuda::launch::tensor_map::TensorMap;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR, aligned};
use crate::backend::{DeviceTensor, Heads, Mask, QkNormRope, RopePairs, shapes};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// The widest head of which a warp holds 16 rows of the output in registers.
const NARROW: usize = 128;
/// The widest head of all: shared memory holds no more.
const WIDEST: usize = 512;
/// Warps and keys of a block for narrow heads.
const WARPS: usize = 4;
const KEYS: usize = 64;
/// Warps, queries and keys of a block for wide heads.
const WIDE_WARPS: usize = 8;
const WIDE_QUERIES: usize = 32;
const WIDE_KEYS: usize = 32;

/// Queries and keys of a tile of Hopper's kernel, rows of the boxes that bring them; its heads, its threads, and bytes of shared
/// memory: two places for queries, for keys and for values.
const HOPPER_QUERIES: usize = 192;
const HOPPER_KEYS: usize = 128;
const HOPPER_BOX: usize = 64;
const HOPPER_HEAD: usize = 128;
const HOPPER_THREADS: usize = 512;
const HOPPER_SHARED: usize = 2 * (HOPPER_QUERIES + 2 * HOPPER_KEYS) * HOPPER_HEAD * 2;

fn hopper_program(causal: bool, lengths: bool, cluster: usize) -> Program {
    Program::new("attention", &[kernel!("sm90/instructions.cuh"), kernel!("sm90/attention.cu")])
        .with("CAUSAL", causal)
        .with("HAS_LENGTHS", lengths)
        .with("CLUSTER", cluster)
}

/// How many blocks share keys and values, 1 or 2, and how many there are for so many heads of all items: two share where
/// that takes no more rounds of tiles.
fn hopper_blocks(tokens: usize, heads: usize, processors: usize) -> (usize, usize) {
    let places = |cluster: usize| tokens.div_ceil(cluster * HOPPER_QUERIES) * heads;
    let clusters = |cluster: usize| (processors / cluster).max(1);
    let rounds = |cluster: usize| places(cluster).div_ceil(clusters(cluster));
    let cluster = if tokens > HOPPER_QUERIES && rounds(2) <= rounds(1) { 2 } else { 1 };
    (cluster, places(cluster).min(clusters(cluster)) * cluster)
}

/// The program for heads of `dim`, the queries and threads of its blocks, and their shared memory.
fn program(dim: usize, causal: bool, lengths: bool) -> (Program, usize, Grid) {
    let element = DType::Bf16.size();
    let (program, queries, grid) = if dim <= NARROW {
        let stride = dim.next_multiple_of(16) + VECTOR;
        let program = Program::new("attention", &[kernel!("attention.cu")]).with("WARPS", WARPS).with("KEYS", KEYS);
        // Two stages of keys and of values.
        let shared = 4 * KEYS * stride * element;
        (program, 16 * WARPS, Grid { blocks: [1; 3], threads: 32 * WARPS, shared })
    } else {
        let width = dim.next_multiple_of(64);
        let rows = (WIDE_QUERIES + 2 * WIDE_KEYS) * width * element;
        let weights = WIDE_QUERIES * WIDE_KEYS * element;
        let agreed = WIDE_QUERIES * 4 * DType::F32.size();
        let program = Program::new("attention", &[kernel!("attention_wide.cu")]);
        (program, WIDE_QUERIES, Grid { blocks: [1; 3], threads: 32 * WIDE_WARPS, shared: rows + weights + agreed })
    };
    let program =
        program.with("HEAD", dim).with("CAUSAL", causal).with("HAS_LENGTHS", lengths).with("ALIGNED", aligned(dim));
    (program, queries, grid)
}

pub(crate) fn attention(gpu: &Gpu, qkv: &CudaTensor, heads: Heads, mask: Mask<'_, CudaTensor>) -> Result<CudaTensor> {
    let verb = "attention";
    let shape @ [items, tokens, _] = shapes::attention(qkv.shape(), heads, mask.lengths.map(|l| l.shape()))?;
    if heads.dim > WIDEST {
        return Err(Error::Device(format!("attention: heads of {} are wider than {WIDEST}", heads.dim)));
    }
    let out = gpu.output(verb, &shape, DType::Bf16)?;
    let qkv = gpu.activation(qkv)?;
    let args = [
        Arg::Read(&qkv),
        Arg::optional(mask.lengths),
        Arg::Write(&out),
        Arg::U32(tokens),
        Arg::U32(heads.query),
        Arg::U32(heads.key_value),
        Arg::F32(1.0 / (heads.dim as f32).sqrt()),
    ];
    if gpu.device.hopper && heads.dim == HOPPER_HEAD {
        let map = |of: &CudaTensor, width| {
            TensorMap::new(verb, of.memory(), &[width, tokens, items], width, &[HOPPER_HEAD / 2, HOPPER_BOX])
        };
        let from = map(&qkv, heads.fused_width());
        let to = map(&out, heads.query * heads.dim);
        let [.., query_heads, key_heads, scale] = args;
        let args = [
            Arg::Map(&from),
            Arg::optional(mask.lengths),
            Arg::Map(&to),
            Arg::U32(tokens),
            Arg::U32(items),
            query_heads,
            key_heads,
            scale,
        ];
        let (cluster, blocks) = hopper_blocks(tokens, heads.query * items, gpu.device.processors);
        let grid = Grid { blocks: [blocks, 1, 1], threads: HOPPER_THREADS, shared: HOPPER_SHARED };
        gpu.launch(&hopper_program(mask.causal, mask.lengths.is_some(), cluster), verb, grid, &args)?;
        return Ok(out);
    }
    let (program, queries, grid) = program(heads.dim, mask.causal, mask.lengths.is_some());
    let grid = Grid { blocks: [tokens.div_ceil(queries), heads.query, items], ..grid };
    gpu.launch(&program, verb, grid, &args)?;
    Ok(out)
}

/// Threads of a block of `qk_norm_rope`.
const NORM_BLOCK: usize = 128;

/// Lanes that share a head, where each can have eight values of it in a row.
fn team(dim: usize) -> Option<usize> {
    let lanes = dim / VECTOR;
    let fits = dim.is_multiple_of(2 * VECTOR) && lanes.is_power_of_two() && lanes <= 32;
    fits.then_some(lanes)
}

fn norm_program(dim: usize, pairs: RopePairs) -> Program {
    Program::new("qk_norm_rope", &[kernel!("qk_norm_rope.cu")])
        .with("HEAD", dim)
        .with("INTERLEAVED", pairs == RopePairs::Interleaved)
        .with("FAST", team(dim).is_some())
        .with("TEAM", team(dim).unwrap_or(32))
}

pub(crate) fn qk_norm_rope(
    gpu: &Gpu,
    qkv: &mut CudaTensor,
    heads: Heads,
    how: QkNormRope<'_, CudaTensor>,
) -> Result<()> {
    let verb = "qk_norm_rope";
    let QkNormRope { q_norm, k_norm, eps, rotation, pairs } = how;
    shapes::qk_norm_rope(qkv.shape(), heads, q_norm.shape(), k_norm.shape(), rotation.shape())?;
    let (items, tokens) = (qkv.shape()[0], qkv.shape()[1]);
    gpu.make_activation(qkv)?;
    let (q_norm, k_norm, rotation) = (gpu.float(q_norm)?, gpu.float(k_norm)?, gpu.float(rotation)?);
    let stride = if rotation.shape()[0] == 1 { 0 } else { tokens * heads.dim };
    let args = [
        Arg::Write(qkv),
        Arg::Read(&q_norm),
        Arg::Read(&k_norm),
        Arg::Read(&rotation),
        Arg::U32(tokens),
        Arg::U32(items * tokens),
        Arg::U32(heads.query),
        Arg::U32(heads.key_value),
        Arg::U32(stride),
        Arg::F32(eps),
    ];
    let teams = items * tokens * (heads.query + heads.key_value);
    let blocks = teams.div_ceil(NORM_BLOCK / team(heads.dim).unwrap_or(32));
    gpu.launch(&norm_program(heads.dim, pairs), verb, Grid::row(blocks, NORM_BLOCK), &args)
}

/// The programs of these verbs that are for Hopper alone.
pub(crate) fn hopper_programs() -> Vec<Program> {
    let masks = [(false, false), (false, true), (true, false), (true, true)];
    masks
        .into_iter()
        .flat_map(|(causal, lengths)| [1, 2].map(|cluster| hopper_program(causal, lengths, cluster)))
        .collect()
}

/// Programs of these verbs for heads of the models and for odd ones.
pub(crate) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for (dim, causal, lengths) in [
        (18, true, true),
        (64, false, false),
        (96, true, false),
        (128, false, false),
        (128, false, true),
        (128, true, true),
        (390, true, true),
        (512, false, false),
    ] {
        programs.push(program(dim, causal, lengths).0);
    }
    for dim in [2, 64, 128, 256] {
        programs.extend([RopePairs::Interleaved, RopePairs::Halves].map(|pairs| norm_program(dim, pairs)));
    }
    programs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_share_keys_where_that_takes_no_more_rounds() {
        // The transformer with 4224 tokens: 11 pairs of tiles for each of 30 heads are five rounds of 66 clusters.
        assert_eq!(hopper_blocks(4224, 30, 132), (2, 132));
        assert_eq!(hopper_blocks(4096, 30, 132), (2, 132));
        // The text encoder with 128 tokens: one tile a head.
        assert_eq!(hopper_blocks(128, 32, 132), (1, 32));
        // Three tiles for each of 44 heads are one round; four would be two.
        assert_eq!(hopper_blocks(576, 44, 132), (1, 132));
        assert_eq!(hopper_blocks(200, 1, 132), (2, 2));
    }
}
