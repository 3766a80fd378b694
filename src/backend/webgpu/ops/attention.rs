//! `attention` on the GPU's ordinary units and on cooperative matrices.

use super::{Binding, DType, Error, Program, Result, WebGpu, WebGpuTensor, f32s, uniform, wgsl};
use crate::backend::webgpu::driver::variant::{Cooperative, Reduction, Variant};
use crate::backend::webgpu::gemm::cooperative::matrix_size;
use crate::backend::{AttentionArgs, AttentionOp};

const OP: &str = "attention";
/// The widest head whose output fits a thread's registers.
const MAX_HEAD: usize = 512;

uniform! {
    /// `Params` of `attention.wgsl` and `attention_cooperative.wgsl`.
    struct Params {
        tokens: u32,
        query_heads: u32,
        key_heads: u32,
        items: u32,
        scale: f32,
    }
}

/// The shader for heads of some width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    /// `attention.wgsl` on F32.
    F32,
    /// `attention.wgsl` on F16.
    F16,
    /// `attention_cooperative.wgsl`.
    Cooperative(Cooperative, CooperativeTile),
}

impl Kernel {
    fn choose(variant: Variant, dim: usize) -> Self {
        match variant {
            Variant::Cooperative(cooperative) if let Some(tile) = CooperativeTile::new(cooperative, dim) => {
                Kernel::Cooperative(cooperative, tile)
            }
            Variant::Half(_) | Variant::Cooperative(_) if dim.is_multiple_of(4) => Kernel::F16,
            _ => Kernel::F32,
        }
    }

    /// Queries of a workgroup.
    fn queries(self, dim: usize) -> usize {
        match self {
            Kernel::F32 | Kernel::F16 => 8 * queries_of_thread(dim),
            Kernel::Cooperative(cooperative, tile) => tile.queries * cooperative.side,
        }
    }
}

/// Queries of a thread of `attention.wgsl`: as many as its registers hold for heads of this width.
fn queries_of_thread(dim: usize) -> usize {
    if dim <= 256 { 4 } else { 2 }
}

/// The tile of `attention_cooperative.wgsl`, in cooperative matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CooperativeTile {
    subgroups: usize,
    /// Queries and keys at a time.
    queries: usize,
    keys: usize,
    /// The width of a chunk of a head, and the number of chunks.
    chunk: usize,
    chunks: usize,
}

/// Subgroups, and matrices of queries and keys at a time.
struct Choice {
    subgroups: usize,
    queries: usize,
    keys: usize,
}

impl CooperativeTile {
    /// The widest chunk of a head, in values.
    const MAX_CHUNK: usize = 128;
    /// The tiles for heads of one chunk, the fastest first. Measured on an H100.
    const NARROW: [Choice; 2] =
        [Choice { subgroups: 8, queries: 8, keys: 2 }, Choice { subgroups: 4, queries: 4, keys: 1 }];
    /// The tiles for wider heads, whose sums fill the registers of two subgroups for each matrix of
    /// queries. Twice the queries halve the reads of keys and values: 44 against 22 TFLOP/s for the
    /// autoencoder's head on an H100.
    const WIDE: [Choice; 2] =
        [Choice { subgroups: 8, queries: 4, keys: 2 }, Choice { subgroups: 4, queries: 2, keys: 2 }];

    /// The fastest tile that fits workgroup memory; `None` for heads that chunks do not divide.
    fn new(Cooperative { side, lanes, memory }: Cooperative, dim: usize) -> Option<Self> {
        let chunk = dim.min(Self::MAX_CHUNK);
        if dim == 0 || !dim.is_multiple_of(chunk) || !chunk.is_multiple_of(side) {
            return None;
        }
        let choices = if dim > Self::MAX_CHUNK { Self::WIDE } else { Self::NARROW };
        let tiles = choices.map(|Choice { subgroups, queries, keys }| Self {
            subgroups,
            queries,
            keys,
            chunk: chunk / side,
            chunks: dim / chunk,
        });
        tiles.into_iter().find(|tile| tile.memory(side, lanes) <= memory)
    }

    /// Rows of the shader's `tile`: keys, then values or, for wide heads, queries.
    fn tile_rows(self, side: usize) -> usize {
        let second = if self.chunks > 1 { self.keys.max(self.queries) } else { self.keys };
        side * (self.keys + second)
    }

    /// Turns in which `tile` is filled with the queries of heads of one chunk.
    fn turns(self, side: usize) -> usize {
        (self.queries * side).div_ceil(self.tile_rows(side))
    }

    /// Bytes of workgroup memory, as the shader declares it.
    fn memory(self, side: usize, lanes: usize) -> usize {
        let queries = self.queries * side;
        let keys = self.keys * side;
        let tile = self.tile_rows(side) * (self.chunk * side / 4 + 2) * 8;
        let query = (keys + 4) * 4 + (keys / 4 + 2) * 8 + 4;
        tile + queries * query + self.subgroups * (lanes + 1) * 4
    }

    /// Sets the constants of the shader.
    fn configure(self, program: Program, cooperative: Cooperative) -> Program {
        let Self { subgroups, queries, keys, chunk, chunks } = self;
        let Cooperative { side, lanes, .. } = cooperative;
        let across = subgroups / queries;
        matrix_size(program, cooperative)
            .with("SUBGROUPS", subgroups)
            .with("LANES", lanes)
            .with("QF", queries)
            .with("KF", keys)
            .with("CHUNK", chunk * side)
            .with("CHUNKS", chunks)
            .with("ROWS", self.tile_rows(side))
            .with("TURNS", self.turns(side))
            .with("DF", chunk)
            .with("SF", keys / across)
            .with("CF", chunk / across)
            .with("LOADS", (keys * chunk * side.pow(2) / 4).div_ceil(subgroups * lanes))
    }
}

fn program(kernel: Kernel, dim: usize, causal: bool, lengths: bool) -> Program {
    let scalar = || {
        let program = Program::new::<Params>(OP, wgsl!("attention"));
        program.with("RQ", queries_of_thread(dim)).with("OV", dim.div_ceil(64))
    };
    let program = match kernel {
        Kernel::F32 if dim.is_multiple_of(4) => scalar(),
        Kernel::F32 => scalar().define("X_SCALAR"),
        Kernel::F16 => scalar().define("X_F16"),
        Kernel::Cooperative(cooperative, tile) => {
            let program = Program::new::<Params>(OP, wgsl!("attention_cooperative"));
            tile.configure(program.define("X_F16"), cooperative)
        }
    };
    program.with("HEAD", dim).with("CAUSAL", causal).with("HAS_LENGTHS", lengths)
}

impl AttentionOp for WebGpu {
    fn run_attention(
        &self,
        args: AttentionArgs<'_, WebGpuTensor>,
        shape @ [items, tokens, _]: [usize; 3],
    ) -> Result<WebGpuTensor> {
        let AttentionArgs { qkv, heads, mask, output: _ } = args;
        let gpu = &self.0;
        let dim = heads.dim;
        if dim > MAX_HEAD {
            return Err(Error::Device(format!("attention: heads of {dim} are wider than {MAX_HEAD}")));
        }
        let out = gpu.output(OP, &shape, DType::F32)?;
        let kernel = Kernel::choose(gpu.device.variant, dim);
        let mut qkv = f32s(OP, qkv)?.clone();
        if kernel != Kernel::F32 {
            qkv = gpu.to_f16(&qkv, dim, dim)?;
        }
        let params = Params {
            tokens: tokens as u32,
            query_heads: heads.query as u32,
            key_heads: heads.key_value as u32,
            items: items as u32,
            scale: 1.0 / (dim as f32).sqrt(),
        };
        let groups = tokens.div_ceil(kernel.queries(dim)) * heads.query * items;
        let program = program(kernel, dim, mask.causal, mask.lengths.is_some());
        let bindings = [Binding::from(&qkv), gpu.optional(mask.lengths), Binding::from(&out)];
        gpu.dispatch(&program, &bindings, params, groups)?;
        Ok(out)
    }
}

/// Every program for heads of the models and for odd ones.
pub(super) fn programs() -> Vec<Program> {
    // With the workgroup memory of the known adapters, and with the least.
    let least = Cooperative::KNOWN.map(|known| Cooperative { memory: 32 << 10, ..known });
    let cooperative = Cooperative::KNOWN.into_iter().chain(least).map(Variant::Cooperative);
    let variants: Vec<Variant> =
        [Variant::Plain, Variant::Half(Reduction::Tree)].into_iter().chain(cooperative).collect();
    let mut programs = Vec::new();
    for dim in [2, 16, 20, 24, 48, 64, 96, 122, 128, 384, 512] {
        let mut kernels = Vec::new();
        for kernel in variants.iter().map(|variant| Kernel::choose(*variant, dim)) {
            if !kernels.contains(&kernel) {
                kernels.push(kernel);
            }
        }
        for kernel in kernels {
            for causal in [false, true] {
                programs.extend([false, true].map(|lengths| program(kernel, dim, causal, lengths)));
            }
        }
    }
    programs
}
