//! `attention`: fused softmax attention in four kernels: Hopper's for heads of 128 and of 512, one
//! for heads up to 128, and one for wider heads.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::kernel::{Grid, WARP};
use crate::backend::cuda::launch::tensor_map::{BOX_BYTES, BOX_ROWS, TensorMap};
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR, aligned};
use crate::backend::{AttentionArgs, AttentionOp, DeviceTensor, Heads};
use crate::error::{Error, Result};
use crate::tensor::{Compute, DType};

const OP: &str = "attention";

/// The widest head whose output a warp has in registers, for [`WARP_QUERIES`] queries.
const NARROW_HEAD: usize = 128;
/// The widest head that fits shared memory.
const MAX_HEAD: usize = 512;
/// Warps of a CTA for narrow heads, and queries of a warp.
const WARPS: usize = 4;
const WARP_QUERIES: usize = 16;
/// Keys of a stage for narrow heads.
const KEYS: usize = 64;
/// Warps, queries and keys of a CTA for wide heads.
const WIDE_WARPS: usize = 8;
const WIDE_QUERIES: usize = 32;
const WIDE_KEYS: usize = 32;

/// Queries and keys of a tile of Hopper's kernel.
const SM90_QUERIES: usize = 192;
const SM90_KEYS: usize = 128;
/// The head of Hopper's kernel, and the threads of its CTAs.
const SM90_HEAD: usize = 128;
const SM90_THREADS: usize = 512;
/// The head, the queries and keys of a tile, and the threads of a CTA of Hopper's kernel for the
/// autoencoder, which knows no mask.
const SM90_WIDE_HEAD: usize = 512;
const SM90_WIDE_TILE: usize = 64;
const SM90_WIDE_THREADS: usize = 384;
/// Shared memory of a CTA in bytes, less what barriers take.
const SM90_FREE: usize = (227 << 10) - 1024;

/// The types that a kernel reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Types {
    /// Of queries, keys and values, and so of probabilities.
    qkv: Compute,
    output: Compute,
}

impl Types {
    const NATIVE: Self = Self { qkv: Compute::Native, output: Compute::Native };
    /// Every combination.
    const ALL: [Self; 4] = [
        Self::NATIVE,
        Self { qkv: Compute::Native, output: Compute::Fp8 },
        Self { qkv: Compute::Fp8, output: Compute::Native },
        Self { qkv: Compute::Fp8, output: Compute::Fp8 },
    ];

    /// The constants of a kernel.
    fn constants(self) -> [(&'static str, bool); 2] {
        [("OUT_FP8", self.output == Compute::Fp8), ("QKV_FP8", self.qkv == Compute::Fp8)]
    }
}

/// The bytes of an element of this type.
fn element(compute: Compute) -> usize {
    match compute {
        Compute::Native => DType::Bf16.size(),
        Compute::Fp8 => DType::U8.size(),
    }
}

/// A kernel for one width of heads.
struct Variant {
    program: Program,
    /// Queries of a CTA.
    queries: usize,
    threads: usize,
    /// Bytes of shared memory.
    shared: usize,
}

impl Variant {
    fn new(dim: usize, causal: bool, lengths: bool, types: Types) -> Self {
        let variant = if dim <= NARROW_HEAD { Self::narrow(dim, types) } else { Self::wide(dim) };
        let program = variant
            .program
            .with("HEAD", dim)
            .with("CAUSAL", causal)
            .with("HAS_LENGTHS", lengths)
            .with("ALIGNED", aligned(dim));
        Self { program, ..variant }
    }

    fn narrow(dim: usize, types: Types) -> Self {
        let padding = VECTOR * DType::Bf16.size();
        let padded = |elements: usize| elements * element(types.qkv) + padding;
        let keys = KEYS * padded(dim.next_multiple_of(16));
        let values = match types.qkv {
            Compute::Native => keys,
            Compute::Fp8 => dim * padded(KEYS),
        };
        let program = Program::new(OP, kernel!("attention.cu")).with("WARPS", WARPS).with("KEYS", KEYS);
        Self {
            program: program.with_all(types.constants()),
            queries: WARP_QUERIES * WARPS,
            threads: WARP * WARPS,
            // Two stages of keys and of values.
            shared: 2 * (keys + values),
        }
    }

    fn wide(dim: usize) -> Self {
        let width = dim.next_multiple_of(64);
        let rows = (WIDE_QUERIES + 2 * WIDE_KEYS) * width * DType::Bf16.size();
        let probabilities = WIDE_QUERIES * WIDE_KEYS * DType::Bf16.size();
        let statistics = WIDE_QUERIES * 4 * DType::F32.size();
        Self {
            program: Program::new(OP, kernel!("attention_wide.cu")),
            queries: WIDE_QUERIES,
            threads: WARP * WIDE_WARPS,
            shared: rows + probabilities + statistics,
        }
    }
}

/// The stages of keys and values in shared memory, as many as fit beside the barriers, and the
/// bytes of queries and stages. The output takes the place of the queries.
fn sm90_memory(types: Types) -> (usize, usize) {
    let row = |compute| SM90_HEAD * element(compute);
    let queries = 2 * SM90_QUERIES * row(types.qkv).max(row(types.output));
    let stage = 2 * SM90_KEYS * row(types.qkv);
    let stages = (SM90_FREE - queries) / stage;
    (stages, queries + stages * stage)
}

fn sm90_program(causal: bool, lengths: bool, cluster: usize, types: Types) -> Program {
    Program::new(OP, kernel!("sm90/attention.cu"))
        .with("CAUSAL", causal)
        .with("HAS_LENGTHS", lengths)
        .with("CLUSTER", cluster)
        .with_all(types.constants())
        .with("STAGES", sm90_memory(types).0)
        .pdl()
}

/// Hopper's kernel for wide heads in clusters of so many CTAs.
fn sm90_wide_program(cluster: usize) -> Program {
    Program::new(OP, kernel!("sm90/attention_wide.cu")).with("CLUSTER", cluster).pdl()
}

/// Bytes of shared memory of the kernel for wide heads: tiles of queries, keys and values, and the
/// probabilities of two tiles of keys.
fn sm90_wide_memory() -> usize {
    (3 * SM90_WIDE_HEAD + 2 * SM90_WIDE_TILE) * SM90_WIDE_TILE * DType::Bf16.size()
}

/// The clusters of Hopper's kernel.
#[derive(Debug, PartialEq, Eq)]
struct Clusters {
    /// CTAs of a cluster, which share keys and values: 1 or 2.
    size: usize,
    /// CTAs of all clusters.
    ctas: usize,
}

impl Clusters {
    /// The clusters for `heads` heads of all items: pairs if they need no more waves than single
    /// CTAs.
    fn new(tokens: usize, heads: usize, sms: usize) -> Self {
        let tiles = |size: usize| tokens.div_ceil(size * SM90_QUERIES) * heads;
        let resident = |size: usize| (sms / size).max(1);
        let waves = |size: usize| tiles(size).div_ceil(resident(size));
        let size = if tokens > SM90_QUERIES && waves(2) <= waves(1) { 2 } else { 1 };
        Self { size, ctas: tiles(size).min(resident(size)) * size }
    }
}

impl AttentionOp for Cuda {
    fn run_attention(&self, args: AttentionArgs<'_, CudaTensor>, shape: [usize; 3]) -> Result<CudaTensor> {
        let AttentionArgs { heads, ref mask, output, .. } = args;
        if heads.dim > MAX_HEAD {
            return Err(Error::Device(format!("attention: heads of {} are wider than {MAX_HEAD}", heads.dim)));
        }
        let out = self.gpu.output_operand(OP, &shape, output, heads.query)?;
        let is_masked = mask.causal || mask.lengths.is_some();
        match heads.dim {
            SM90_HEAD if self.gpu.device.sm90 => self.attention_sm90(args, shape, &out)?,
            SM90_WIDE_HEAD if self.gpu.device.sm90 && !is_masked => self.attention_sm90_wide(args, shape, &out)?,
            _ => self.attention_portable(args, shape, &out)?,
        }
        Ok(out)
    }
}

/// The launches of the kernels, whose output has `shape`.
impl Cuda {
    fn attention_sm90(&self, args: AttentionArgs<'_, CudaTensor>, shape: [usize; 3], out: &CudaTensor) -> Result<()> {
        let gpu = &self.gpu;
        let AttentionArgs { qkv, heads, mask, output } = args;
        let [items, tokens, _] = shape;
        let types = Types { qkv: qkv.compute(), output };
        let [qkv_map, values_map] = match types.qkv {
            Compute::Native => {
                let fused = rows_map(&gpu.activation(qkv)?, [items, tokens, heads.fused_width()]);
                [fused.clone(), fused]
            }
            Compute::Fp8 => TensorMap::of_projection(OP, qkv, BOX_BYTES),
        };
        let out_map = rows_map(out, shape);
        let args = [
            Arg::Map(&qkv_map),
            Arg::optional(mask.lengths),
            Arg::Map(&out_map),
            Arg::write_scales(out),
            Arg::U32(tokens),
            Arg::U32(items),
            Arg::U32(heads.query),
            Arg::U32(heads.key_value),
            score_scale(heads),
            Arg::Map(&values_map),
            Arg::read_scales(qkv),
        ];
        let clusters = Clusters::new(tokens, heads.query * items, gpu.device.sms);
        let program = sm90_program(mask.causal, mask.lengths.is_some(), clusters.size, types);
        let shared = sm90_memory(types).1;
        gpu.launch(&program, OP, Grid { ctas: [clusters.ctas, 1, 1], threads: SM90_THREADS, shared }, &args)
    }

    fn attention_sm90_wide(
        &self,
        args: AttentionArgs<'_, CudaTensor>,
        shape: [usize; 3],
        out: &CudaTensor,
    ) -> Result<()> {
        let AttentionArgs { qkv, heads, .. } = args;
        let [items, tokens, _] = shape;
        let qkv_map = rows_map(&self.gpu.activation(qkv)?, [items, tokens, heads.fused_width()]);
        let out_map = rows_map(out, shape);
        let args = [
            Arg::Map(&qkv_map),
            Arg::Map(&out_map),
            Arg::U32(tokens),
            Arg::U32(heads.query),
            Arg::U32(heads.key_value),
            score_scale(heads),
        ];
        let tiles = tokens.div_ceil(SM90_WIDE_TILE);
        let cluster = tiles.min(2);
        let ctas = [tiles.next_multiple_of(cluster), heads.query, items];
        let grid = Grid { ctas, threads: SM90_WIDE_THREADS, shared: sm90_wide_memory() };
        self.gpu.launch(&sm90_wide_program(cluster), OP, grid, &args)
    }

    fn attention_portable(
        &self,
        args: AttentionArgs<'_, CudaTensor>,
        shape: [usize; 3],
        out: &CudaTensor,
    ) -> Result<()> {
        let AttentionArgs { qkv, heads, mask, output } = args;
        let [items, tokens, _] = shape;
        let types = Types { qkv: qkv.compute(), output };
        let scales = Arg::read_scales(qkv);
        let qkv = match types.qkv {
            Compute::Native => self.gpu.activation(qkv)?,
            Compute::Fp8 => qkv.elements(DType::Bf16),
        };
        let is_narrow = heads.dim <= NARROW_HEAD;
        let mut args = vec![Arg::Read(&qkv), Arg::optional(mask.lengths), Arg::Write(out)];
        args.extend(is_narrow.then_some(Arg::write_scales(out)));
        args.extend([Arg::U32(tokens), Arg::U32(heads.query), Arg::U32(heads.key_value), score_scale(heads)]);
        args.extend(is_narrow.then_some(scales));
        let Variant { program, queries, threads, shared } =
            Variant::new(heads.dim, mask.causal, mask.lengths.is_some(), types);
        let ctas = [tokens.div_ceil(queries), heads.query, items];
        self.gpu.launch(&program, OP, Grid { ctas, threads, shared }, &args)
    }
}

/// The factor of q·kᵀ.
fn score_scale(heads: Heads) -> Arg<'static> {
    Arg::F32(1.0 / (heads.dim as f32).sqrt())
}

/// A map of `[items, tokens, width]` for Hopper's kernels.
fn rows_map(of: &CudaTensor, [items, tokens, width]: [usize; 3]) -> TensorMap {
    let boxes = [BOX_BYTES / of.dtype().size(), BOX_ROWS];
    TensorMap::new(OP, of, &[width, tokens, items], width, &boxes)
}

/// The programs for Hopper.
pub(crate) fn sm90_programs() -> Vec<Program> {
    let masks = [(false, false), (false, true), (true, false), (true, true)];
    masks
        .into_iter()
        .flat_map(|(causal, lengths)| [1, 2].map(|cluster| (causal, lengths, cluster)))
        .flat_map(|(causal, lengths, cluster)| Types::ALL.map(|types| sm90_program(causal, lengths, cluster, types)))
        .chain([1, 2].map(sm90_wide_program))
        .collect()
}

/// Programs that read or write FP8.
pub(crate) fn fp8_programs() -> Vec<Program> {
    let fp8 = Types::ALL.into_iter().filter(|types| *types != Types::NATIVE);
    let masks = [(false, false), (true, true)];
    fp8.flat_map(|types| masks.map(|(causal, lengths)| Variant::new(NARROW_HEAD, causal, lengths, types).program))
        .collect()
}

/// Programs for the models' heads and for odd ones.
pub(crate) fn programs() -> Vec<Program> {
    [
        (18, true, true),
        (64, false, false),
        (96, true, false),
        (128, false, false),
        (128, false, true),
        (128, true, true),
        (390, true, true),
        (512, false, false),
    ]
    .map(|(dim, causal, lengths)| Variant::new(dim, causal, lengths, Types::NATIVE).program)
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaller_operands_leave_room_for_stages() {
        // Keys, values and two tiles of queries or outputs are 32, 32 and 96 KB in BF16.
        assert_eq!(Types::ALL.map(sm90_memory), [(2, 224), (2, 224), (4, 224), (5, 208)].map(|(n, kb)| (n, kb << 10)));
    }

    #[test]
    fn clusters_share_keys_without_more_waves() {
        let clusters = |tokens, heads| {
            let Clusters { size, ctas } = Clusters::new(tokens, heads, 132);
            (size, ctas)
        };
        // The transformer with 4224 tokens: 11 pairs of tiles for each of 30 heads are five waves
        // of 66 clusters.
        assert_eq!(clusters(4224, 30), (2, 132));
        assert_eq!(clusters(4096, 30), (2, 132));
        // The text encoder with 128 tokens: one tile per head.
        assert_eq!(clusters(128, 32), (1, 32));
        // Three tiles for each of 44 heads are one wave; four would be two.
        assert_eq!(clusters(576, 44), (1, 132));
        assert_eq!(clusters(200, 1), (2, 2));
    }
}
