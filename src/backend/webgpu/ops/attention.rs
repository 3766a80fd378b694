//! `attention` and what prepares its input, `qk_norm_rope`.

use crate::backend::webgpu::driver::variant::Reduction;
use crate::backend::webgpu::driver::variant::{Cooperative, Variant};
use crate::backend::webgpu::gemm::cooperative_file;
use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::{Program, wgsl};
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::backend::{DeviceTensor, Heads, Mask, QkNormRope, RopePairs, shapes};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// The widest head that the accumulators of a thread hold.
const WIDEST: usize = 512;

/// How an attention over heads of some width is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `attention.wgsl`, in F32 or reading halves.
    Scalar { halves: bool },
    /// `attention_cooperative.wgsl`.
    Cooperative(Cooperative),
}

impl Kind {
    fn choose(variant: Variant, dim: usize) -> Self {
        match variant {
            Variant::Cooperative(cooperative) if Blocks::new(cooperative, dim).is_some() => {
                Kind::Cooperative(cooperative)
            }
            Variant::Plain | Variant::Direct => Kind::Scalar { halves: false },
            _ => Kind::Scalar { halves: dim.is_multiple_of(4) },
        }
    }

    fn halves(self) -> bool {
        self != Kind::Scalar { halves: false }
    }

    /// Queries that a workgroup takes.
    fn queries(self, dim: usize) -> usize {
        match self {
            Kind::Scalar { .. } => 8 * rows(dim),
            Kind::Cooperative(cooperative) => Blocks::new(cooperative, dim).map_or(1, |b| b.queries * cooperative.side),
        }
    }
}

/// Queries a thread of `attention.wgsl`: as many as its registers hold for heads of this width.
fn rows(dim: usize) -> usize {
    if dim <= 256 { 4 } else { 2 }
}

/// The constants of `attention_cooperative.wgsl`, in cooperative matrices.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    subgroups: usize,
    /// Queries and keys at a time.
    queries: usize,
    keys: usize,
    chunk: usize,
    chunks: usize,
}

impl Blocks {
    /// The widest chunk of a head, in values.
    const CHUNK: usize = 128;
    /// Subgroups, queries and keys, the fastest first, for heads of one chunk. Measured on an H100.
    const NARROW: [[usize; 3]; 2] = [[8, 8, 2], [4, 4, 1]];
    /// The same for wider heads, whose sums fill the registers of two subgroups for each matrix of queries: twice the
    /// queries halve what is read of keys and values. 44 against 22 TFLOP/s for the autoencoder's head on an H100.
    const WIDE: [[usize; 3]; 2] = [[8, 4, 2], [4, 2, 2]];

    /// The fastest that workgroup memory holds; `None` for heads that chunks do not divide.
    fn new(Cooperative { side, lanes, memory }: Cooperative, dim: usize) -> Option<Self> {
        let chunk = dim.min(Self::CHUNK);
        if dim == 0 || !dim.is_multiple_of(chunk) || !chunk.is_multiple_of(side) {
            return None;
        }
        let choices = if dim > Self::CHUNK { Self::WIDE } else { Self::NARROW };
        let blocks = choices.map(|[subgroups, queries, keys]| Self {
            subgroups,
            queries,
            keys,
            chunk: chunk / side,
            chunks: dim / chunk,
        });
        blocks.into_iter().find(|blocks| blocks.memory(side, lanes) <= memory)
    }

    /// Rows of `tile`: keys, and values or, of wide heads, queries.
    fn tile_rows(self, side: usize) -> usize {
        side * (self.keys + if self.chunks > 1 { self.keys.max(self.queries) } else { self.keys })
    }

    /// Times that `tile` is filled with queries of heads of one chunk.
    fn turns(self, side: usize) -> usize {
        (self.queries * side).div_ceil(self.tile_rows(side))
    }

    /// Bytes of workgroup memory, as the shader declares it.
    fn memory(self, side: usize, lanes: usize) -> usize {
        let (queries, keys, chunk) = (self.queries * side, self.keys * side, self.chunk * side);
        let tile = self.tile_rows(side) * (chunk / 4 + 2) * 8;
        let query = (keys + 4) * 4 + (keys / 4 + 2) * 8 + 4;
        tile + queries * query + self.subgroups * (lanes + 1) * 4
    }
}

fn program(kind: Kind, dim: usize, causal: bool, lengths: bool) -> Program {
    let input = match kind {
        _ if kind.halves() => wgsl!("input_half"),
        _ if dim.is_multiple_of(4) => wgsl!("input_vec4"),
        _ => wgsl!("input_scalar"),
    };
    let program = Program::new("attention", &[wgsl!("common"), input])
        .with("HEAD", dim)
        .with("CAUSAL", causal)
        .with("HAS_LENGTHS", lengths);
    match kind {
        Kind::Cooperative(cooperative) if let Some(blocks) = Blocks::new(cooperative, dim) => {
            let Blocks { subgroups, queries, keys, chunk, chunks } = blocks;
            let Cooperative { side, lanes, .. } = cooperative;
            let across = subgroups / queries;
            program
                .with("SUBGROUPS", subgroups)
                .with("LANES", lanes)
                .with("QF", queries)
                .with("KF", keys)
                .with("CHUNK", chunk * side)
                .with("CHUNKS", chunks)
                .with("ROWS", blocks.tile_rows(side))
                .with("TURNS", blocks.turns(side))
                .with("DF", chunk)
                .with("SF", keys / across)
                .with("CF", chunk / across)
                .with("LOADS", (keys * chunk * side.pow(2) / 4).div_ceil(subgroups * lanes))
                .file(cooperative_file(cooperative))
                .file(wgsl!("attention_cooperative"))
        }
        _ => program.with("RQ", rows(dim)).with("OV", dim.div_ceil(64)).file(wgsl!("attention")),
    }
}

pub(crate) fn attention(
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
    let kind = Kind::choose(gpu.device.variant, heads.dim);
    let mut qkv = gpu.float(verb, qkv)?;
    if kind.halves() {
        qkv = gpu.to_f16(&qkv, heads.dim, heads.dim)?;
    }
    let mut parameters = [tokens, heads.query, heads.key_value, items].map(|value| value as u32).to_vec();
    parameters.push((1.0 / (heads.dim as f32).sqrt()).to_bits());
    let groups = tokens.div_ceil(kind.queries(heads.dim)) * heads.query * items;
    let args = [Binding::from(&qkv), gpu.optional(mask.lengths), Binding::from(&out)];
    gpu.dispatch(&program(kind, heads.dim, mask.causal, mask.lengths.is_some()), &args, parameters, groups)?;
    Ok(out)
}

/// Threads of a workgroup of `qk_norm_rope`.
const NORM_THREADS: usize = 64;

/// Threads a head: a power of two up to the workgroup's size, no more than there are pairs to turn.
fn team(dim: usize) -> usize {
    (dim / 2).next_power_of_two().clamp(1, NORM_THREADS)
}

fn norm_program(reduction: Reduction, dim: usize, pairs: RopePairs) -> Program {
    let program = Program::new("qk_norm_rope", &[wgsl!("common"), wgsl!("qk_norm_rope")])
        .with("HEAD", dim)
        .with("INTERLEAVED", pairs == RopePairs::Interleaved);
    program.reduces(reduction, NORM_THREADS, team(dim))
}

pub(crate) fn qk_norm_rope(
    gpu: &Gpu,
    qkv: &mut WebGpuTensor,
    heads: Heads,
    how: QkNormRope<'_, WebGpuTensor>,
) -> Result<()> {
    let QkNormRope { q_norm, k_norm, eps, rotation, pairs } = how;
    shapes::qk_norm_rope(qkv.shape(), heads, q_norm.shape(), k_norm.shape(), rotation.shape())?;
    let (items, tokens) = (qkv.shape()[0], qkv.shape()[1]);
    let verb = "qk_norm_rope";
    gpu.float(verb, qkv)?;
    let (q_norm, k_norm, rotation) = (gpu.float(verb, q_norm)?, gpu.float(verb, k_norm)?, gpu.float(verb, rotation)?);
    let stride = if rotation.shape()[0] == 1 { 0 } else { tokens * heads.dim };
    let mut parameters =
        [tokens, items * tokens, heads.query, heads.key_value, stride].map(|value| value as u32).to_vec();
    parameters.push(eps.to_bits());
    let groups = (items * tokens * (heads.query + heads.key_value)).div_ceil(NORM_THREADS / team(heads.dim));
    let args = [Binding::from(&*qkv), Binding::from(&q_norm), Binding::from(&k_norm), Binding::from(&rotation)];
    gpu.dispatch(&norm_program(gpu.device.variant.reduction(), heads.dim, pairs), &args, parameters, groups)
}

/// Programs of these verbs for heads of the models and for odd ones.
pub(crate) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for dim in [2, 16, 20, 24, 48, 64, 96, 122, 128, 384, 512] {
        for (causal, lengths) in [(false, false), (false, true), (true, false), (true, true)] {
            // With the memory that they have, and with the least.
            let least = Cooperative::KNOWN.map(|known| Cooperative { memory: 32 << 10, ..known });
            let variants = Cooperative::KNOWN.into_iter().chain(least).map(Variant::Cooperative);
            let mut kinds = [Variant::Plain, Variant::Half(Reduction::Tree)].into_iter().chain(variants);
            let mut made = Vec::new();
            while let Some(kind) = kinds.next().map(|variant| Kind::choose(variant, dim)) {
                if !made.contains(&kind) {
                    programs.push(program(kind, dim, causal, lengths));
                    made.push(kind);
                }
            }
        }
        for pairs in [RopePairs::Interleaved, RopePairs::Halves] {
            programs.push(norm_program(Reduction::Tree, dim, pairs));
            if team(dim) == NORM_THREADS {
                programs.push(norm_program(Reduction::Subgroups, dim, pairs));
            }
        }
    }
    programs
}
