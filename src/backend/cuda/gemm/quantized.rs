//! Launches Hopper's gemm with quantised rows, `kernels/sm90/quantized.cuh`, for few rows of x: its
//! tile, and how its tiles are split along k.

use super::sm90::{self, BOX_COLUMNS, BOX_ROWS};
use crate::backend::DeviceWeight;
use crate::backend::cuda::driver::program::{File, Program};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::matrix::quantized::QuantizedRows;
use crate::backend::cuda::matrix::{Segment, StoredMatrix};
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::gpu::quantized::StoredFormat;
use crate::error::Result;
use crate::tensor::DType;

/// The most rows of x: those of one tile. With more of them, writing and reading a dequantised
/// matrix costs less than dequantising it for every tile.
const MAX_ROWS: usize = 128;
/// Threads of a warpgroup, and of the consumers.
const WARPGROUP: usize = 128;
const CONSUMER_THREADS: usize = 2 * WARPGROUP;
/// Rows of W in a tile.
const TILE_N: usize = 2 * BOX_ROWS;
/// CTAs of a cluster, which share x.
const CLUSTER: usize = 2;
/// Values of k in a stage.
const STEP: usize = 2 * BOX_COLUMNS;

/// Rows of x in a tile, stages of its ring, and warpgroups of dequantisers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    m: usize,
    stages: usize,
    dequantizers: usize,
}

impl Tile {
    /// Every tile, with as many stages as shared memory holds.
    const ALL: [Tile; 2] = [Tile { m: 64, stages: 4, dequantizers: 4 }, Tile { m: 128, stages: 3, dequantizers: 2 }];

    /// The smallest tile that holds `m` rows, or the largest one.
    fn for_rows(m: usize) -> Self {
        let [small, large] = Self::ALL;
        if m <= small.m { small } else { large }
    }

    /// Bytes of shared memory.
    fn shared(self) -> usize {
        DType::Bf16.size() * self.stages * (self.m + TILE_N) * STEP
    }

    fn program(
        self,
        op: &'static str,
        file: File,
        format: StoredFormat,
        k: usize,
        constants: &[(&'static str, usize)],
    ) -> Program {
        Program::new(op, file)
            .with("FORMAT", format as usize)
            .with("WHOLE_STEPS", k.is_multiple_of(STEP))
            .with("TILE_M", self.m)
            .with("STAGES", self.stages)
            .with("DEQUANTIZERS", self.dequantizers)
            .with("CLUSTER", CLUSTER)
            .with_all(constants.iter().copied())
            .pdl()
    }
}

/// The groups of tiles that clusters compute whole, and the parts along k of each other group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Split {
    whole: usize,
    parts: usize,
}

impl Split {
    /// The most parts of a group.
    const MAX_PARTS: usize = 16;
    /// Times in nanoseconds: of a step, of writing and reading the partial sums of a part, and of
    /// the kernel that adds them.
    const STEP_TIME: usize = 900;
    const PART_TIME: usize = 30 * CLUSTER;
    const REDUCE_TIME: usize = 2500;

    /// The split with the shortest estimated time. Only the groups of the last, incomplete wave are
    /// split.
    fn for_size(groups: usize, steps: usize, clusters: usize) -> Self {
        let rest = groups % clusters;
        let time = |parts: &usize| {
            let waves = (rest * parts).div_ceil(clusters);
            let reduce = if *parts > 1 { rest * parts * Self::PART_TIME + Self::REDUCE_TIME } else { 0 };
            waves * steps.div_ceil(*parts) * Self::STEP_TIME + reduce
        };
        let parts = (1..=Self::MAX_PARTS.min(steps)).min_by_key(time).unwrap_or(1);
        Self { whole: if parts > 1 { groups - rest } else { groups }, parts }
    }
}

/// False for a format whose gemm was slower than a dequantised matrix: on an H200, Z-Image's text
/// encoder took 10.9 ms instead of 7.7.
fn pays(format: StoredFormat) -> bool {
    format != StoredFormat::Q8_0
}

/// The segments of a matrix for gemms with `m` rows that dequantise it as they load it; `None` if
/// they read a dense matrix.
pub(crate) fn segments<'a>(gpu: &Gpu, w: &'a StoredMatrix, m: usize) -> Option<&'a [Segment]> {
    let [_, k] = w.dims();
    let pays = |segments: &&[Segment]| segments.iter().all(|segment| pays(segment.rows.format()));
    w.segments().filter(|_| m <= MAX_ROWS && sm90::supports(gpu, [k, k])).filter(pays)
}

/// One gemm `x·Wᵀ` on Hopper with quantised rows, which are columns of the output.
pub(crate) struct QuantizedGemm<'a> {
    pub op: &'static str,
    pub file: File,
    /// The kernel of the gemm, and the one that adds partial sums.
    pub entries: [&'static str; 2],
    pub constants: &'a [(&'static str, usize)],
    /// BF16 `[m, k]`.
    pub x: &'a CudaTensor,
    pub m: usize,
    /// The parts of W, of one format and one size, whose rows alternate.
    pub parts: &'a [&'a QuantizedRows],
    pub out: &'a CudaTensor,
    /// The inputs of the epilogue.
    pub epilogue: &'a [Arg<'a>],
    /// The numbers of the output's columns.
    pub columns: &'a [Arg<'a>],
}

impl QuantizedGemm<'_> {
    /// Launches it.
    pub(crate) fn launch(self, gpu: &Gpu) -> Result<()> {
        let Self { op, file, entries, constants, x, m, parts, out, epilogue, columns } = self;
        let [rows, k] = parts[0].dims();
        let n = rows * parts.len();
        let tile = Tile::for_rows(m);
        let clusters = (gpu.device.sms / CLUSTER).max(1);
        let groups = m.div_ceil(tile.m) * n.div_ceil(TILE_N * CLUSTER);
        let split = Split::for_size(groups, k.div_ceil(STEP), clusters);
        let divided = groups - split.whole;
        let partials = match divided {
            0 => None,
            _ => Some(gpu.output(op, &[divided * split.parts * CLUSTER, tile.m * TILE_N], DType::F32)?),
        };
        let program = tile.program(op, file, parts[0].format(), k, constants);
        let sizes = [m, n, k].map(Arg::U32);
        let numbers = [&sizes[..], columns, &[split.whole, split.parts].map(Arg::U32)].concat();
        let map = sm90::row_map(op, x, [m, k], BOX_COLUMNS);
        let mut args = vec![Arg::Map(&map)];
        let staged = parts.iter().map(|rows| rows.staged(gpu, op)).collect::<Result<Vec<_>>>()?;
        staged.iter().for_each(|rows| args.extend(rows.args()));
        args.extend(epilogue);
        args.extend([partials.as_ref().map_or(Arg::Absent, Arg::Write), Arg::Write(out)]);
        args.extend(&numbers);
        let items = split.whole + divided * split.parts;
        let threads = CONSUMER_THREADS + tile.dequantizers * WARPGROUP;
        let grid = Grid { ctas: [items.min(clusters) * CLUSTER, 1, 1], threads, shared: tile.shared() };
        gpu.launch(&program, entries[0], grid, &args)?;
        let Some(partials) = &partials else { return Ok(()) };
        let args = [&[Arg::Read(partials)], epilogue, &[Arg::Write(out)], &numbers].concat();
        let grid = Grid { ctas: [divided, tile.m / 8, CLUSTER], threads: CONSUMER_THREADS, shared: 0 };
        gpu.launch(&program, entries[1], grid, &args)
    }
}

/// The gemm around `file` with every format, tile, and kind of k.
pub(crate) fn programs(op: &'static str, file: File, constants: &[(&'static str, usize)]) -> Vec<Program> {
    let [small, large] = Tile::ALL;
    let program = |tile: Tile, format, k| tile.program(op, file, format, k, constants);
    let all = StoredFormat::ALL.into_iter();
    all.flat_map(|format| [program(large, format, STEP), program(small, format, STEP / 2)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_waves_are_split() {
        let split = |n: usize, k: usize| {
            let Split { whole, parts } = Split::for_size(n.div_ceil(TILE_N * CLUSTER), k.div_ceil(STEP), 66);
            (whole, parts)
        };
        // The text encoder with 128 tokens: qkv, out, gate and up, down.
        assert_eq!([split(6144, 2560), split(2560, 4096)], [(0, 2), (0, 6)]);
        assert_eq!([split(19_456, 2560), split(2560, 9728)], [(66, 5), (0, 6)]);
        // A whole wave, and a step that cannot be split.
        assert_eq!([split(132 * TILE_N, 4096), split(256, 128)], [(66, 1), (1, 1)]);
        assert!(Tile::ALL.iter().all(|tile| tile.shared() + 1024 <= 227 << 10));
        assert_eq!([1, 64, 65, 256].map(|m| Tile::for_rows(m).m), [64, 64, 128, 128]);
    }
}
