//! Launches Hopper's gemm, `kernels/sm90/gemm.cuh`: its tile, its clusters, and the tensor maps.

use crate::backend::DeviceTensor;
use crate::backend::cuda::driver::program::{File, Program};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::launch::tensor_map::TensorMap;
pub(crate) use crate::backend::cuda::launch::tensor_map::{BOX_BYTES, BOX_ROWS};
use crate::backend::cuda::matrix::Matrix;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR};
use crate::error::Result;
use crate::tensor::DType;
use std::ops::Range;

/// Columns of a TMA box of BF16.
pub(crate) const BOX_COLUMNS: usize = BOX_BYTES / DType::Bf16.size();
/// Rows of the tiles of [`Sharing::None`].
pub(crate) const UNSHARED_TILE_M: usize = 128;
/// Rows of the tiles of [`Sharing::A`].
pub(crate) const A_SHARED_TILE_M: usize = Config::A_SHARED.tile.m();
/// Threads of a warpgroup.
const WARPGROUP: usize = 128;
/// The fixed time of a wave, in units of an output element's (measured on an H100).
const WAVE_OVERHEAD: usize = 4500;
/// Bytes of a consumer's output buffer.
const OUTPUT_BUFFER: usize = BOX_ROWS * BOX_BYTES;

/// The output tile of a CTA and its shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    /// Consumer warpgroups, with 64 rows each.
    consumers: usize,
    n: usize,
    /// Stages of the ring of operands.
    stages: usize,
    /// Output buffers of each consumer.
    buffers: usize,
}

impl Tile {
    /// Every tile, widest first, with as many stages as shared memory holds.
    const ALL: [Tile; 5] = [
        Tile { consumers: 3, n: 192, stages: 4, buffers: 1 },
        Tile { consumers: 2, n: 256, stages: 4, buffers: 2 },
        Tile { consumers: 2, n: 192, stages: 5, buffers: 1 },
        Tile { consumers: 2, n: 128, stages: 6, buffers: 2 },
        Tile { consumers: 2, n: 64, stages: 8, buffers: 2 },
    ];

    /// Rows of the tile.
    const fn m(self) -> usize {
        self.consumers * BOX_ROWS
    }

    /// Bytes of shared memory.
    fn shared(self) -> usize {
        self.stages * (self.m() + self.n) * BOX_BYTES + self.consumers * self.buffers * OUTPUT_BUFFER
    }
}

/// The tiles that a kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tiles {
    /// Every one.
    Any,
    /// The one with 256 columns: the 128 output columns of `swiglu` that share a scale.
    Widest,
}

impl Tiles {
    /// The tile of [`Tiles::Widest`].
    const WIDEST: Tile = Tile { consumers: 2, n: 256, stages: 4, buffers: 1 };

    fn all(self) -> Vec<Tile> {
        match self {
            Tiles::Any => Tile::ALL.into(),
            Tiles::Widest => vec![Self::WIDEST],
        }
    }

    /// The smallest one.
    fn smallest(self) -> Tile {
        match self {
            Tiles::Any => Tile::ALL[4],
            Tiles::Widest => Self::WIDEST,
        }
    }
}

/// The operand that the two CTAs of a cluster share by TMA multicast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// No operand: each CTA is a cluster of its own.
    None,
    /// W, between tiles one above the other, if that is faster than [`Sharing::None`].
    WIfFaster,
    /// A, between tiles side by side.
    A,
}

/// A tile, the CTAs of a cluster, and whether they share A instead of W.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Config {
    tile: Tile,
    cluster: usize,
    shares_a: bool,
}

impl Config {
    /// The configuration of [`Sharing::A`].
    const A_SHARED: Config = Config { tile: Tile::ALL[0], cluster: 2, shares_a: true };

    /// The configurations of the other kinds. Clusters of one CTA have tiles of
    /// [`UNSHARED_TILE_M`] rows.
    fn all(sharing: Sharing, tiles: Tiles) -> impl Iterator<Item = Self> {
        let config = |tile, cluster| Config { tile, cluster, shares_a: false };
        let configs = tiles.all().into_iter().flat_map(move |tile| [config(tile, 2), config(tile, 1)]);
        configs.filter(move |config| {
            if config.cluster == 2 { sharing == Sharing::WIfFaster } else { config.tile.m() == UNSHARED_TILE_M }
        })
    }

    /// The configuration with the shortest estimated time: waves × (tile area + [`WAVE_OVERHEAD`]),
    /// a tenth longer without a cluster, whose CTAs wait for the L2 (measured on an H100).
    fn for_size(m: usize, n: usize, sms: usize, sharing: Sharing, tiles: Tiles) -> Self {
        if sharing == Sharing::A {
            return Self::A_SHARED;
        }
        let usable = Self::all(sharing, tiles).filter(|config| config.cluster == 1 || m > config.tile.m());
        let time = |config: &Config| {
            let waves = config.cluster_tiles(m, n).div_ceil(config.max_clusters(sms));
            waves * (config.tile.m() * config.tile.n + WAVE_OVERHEAD) * if config.cluster == 1 { 11 } else { 10 }
        };
        usable.min_by_key(time).unwrap_or(Config { tile: tiles.smallest(), cluster: 1, shares_a: false })
    }

    /// Clusters that run at once.
    fn max_clusters(self, sms: usize) -> usize {
        (sms / self.cluster).max(1)
    }

    /// The number of a cluster's tile indices, as the kernel counts them.
    fn cluster_tiles(self, m: usize, n: usize) -> usize {
        let tiles_m = m.div_ceil(self.tile.m());
        let tiles_n = n.div_ceil(self.tile.n);
        if self.shares_a {
            return tiles_m * tiles_n.div_ceil(self.cluster);
        }
        let last = if tiles_m.is_multiple_of(self.cluster) { 0 } else { tiles_n.div_ceil(self.cluster) };
        tiles_m / self.cluster * tiles_n + last
    }

    fn program(self, op: &'static str, file: File, constants: &[(&'static str, usize)]) -> Program {
        let [cluster_m, cluster_n] = if self.shares_a { [1, self.cluster] } else { [self.cluster, 1] };
        Program::new(op, file)
            .with("CONSUMERS", self.tile.consumers)
            .with("TILE_N", self.tile.n)
            .with("STAGES", self.tile.stages)
            .with("OUT_STAGES", self.tile.buffers)
            .with("CLUSTER_M", cluster_m)
            .with("CLUSTER_N", cluster_n)
            .with_all(constants.iter().copied())
            .pdl()
    }

    fn grid(self, m: usize, n: usize, sms: usize) -> Grid {
        let clusters = self.cluster_tiles(m, n).min(self.max_clusters(sms));
        Grid {
            ctas: [clusters * self.cluster, 1, 1],
            // The producer is a warpgroup as well.
            threads: WARPGROUP * (self.tile.consumers + 1),
            shared: self.tile.shared(),
        }
    }
}

/// One gemm `A·Wᵀ` on Hopper.
pub(crate) struct Sm90Gemm<'a> {
    /// The op, which is also the name of its kernel.
    pub op: &'static str,
    pub file: File,
    pub constants: &'a [(&'static str, usize)],
    /// Rows of the gemm, including those that pad the last tiles.
    pub m: usize,
    pub weights: Rows<'a>,
    /// The rows of the matrix to multiply by, which are the output's columns.
    pub columns: Range<usize>,
    /// The map of A, with boxes of 64 rows.
    pub a: TensorMap,
    /// The map of the output, with boxes of 64 rows.
    pub out: TensorMap,
    pub sharing: Sharing,
    pub tiles: Tiles,
}

/// A matrix `[N, K]` in BF16 or E4M3, with rows that are padded to multiples of 16 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// `[N, stride]`.
    pub tensor: &'a CudaTensor,
    pub dims: [usize; 2],
}

impl<'a> From<&'a Matrix> for Rows<'a> {
    fn from(matrix: &'a Matrix) -> Self {
        Self { tensor: matrix.tensor(), dims: matrix.dims() }
    }
}

impl Sm90Gemm<'_> {
    /// Launches it. The kernel takes the maps of A and W, the `epilogue`'s inputs, the map of the
    /// output, and `numbers`.
    pub(crate) fn launch(self, gpu: &Gpu, epilogue: &[Arg<'_>], numbers: &[Arg<'_>]) -> Result<()> {
        let n = self.columns.len();
        let Rows { tensor, dims: [_, k] } = self.weights;
        let stride = tensor.shape()[1];
        let sms = gpu.device.sms;
        let config = Config::for_size(self.m, n, sms, self.sharing, self.tiles);
        let half = config.tile.n / 2;
        let start = self.columns.start * stride;
        let step = BOX_BYTES / tensor.dtype().size();
        let weights = TensorMap::part(self.op, tensor, start, &[k, n], &[stride], &[step, half]);
        let mut args = vec![Arg::Map(&self.a), Arg::Map(&weights)];
        args.extend(epilogue);
        args.push(Arg::Map(&self.out));
        args.extend(numbers);
        let program = config.program(self.op, self.file, self.constants);
        gpu.launch(&program, self.op, config.grid(self.m, n, sms), &args)
    }
}

/// True if the device is Hopper and TMA supports rows of these widths.
pub(crate) fn supports(gpu: &Gpu, widths: [usize; 2]) -> bool {
    gpu.device.sm90 && widths.iter().all(|width| width.is_multiple_of(VECTOR))
}

/// The map of a matrix `[rows, width]` with boxes of 64 rows and `columns` columns.
pub(crate) fn row_map(op: &'static str, x: &CudaTensor, [rows, width]: [usize; 2], columns: usize) -> TensorMap {
    TensorMap::new(op, x, &[width, rows], width, &[columns, BOX_ROWS])
}

/// The gemm around `file` in every configuration of this kind.
pub(crate) fn programs(
    op: &'static str,
    file: File,
    constants: &[(&'static str, usize)],
    sharing: Sharing,
    tiles: Tiles,
) -> Vec<Program> {
    let configs = if sharing == Sharing::A { vec![Config::A_SHARED] } else { Config::all(sharing, tiles).collect() };
    configs.into_iter().map(|config| config.program(op, file, constants)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_config_fills_the_device() {
        let config = |m, n| {
            let Config { tile, cluster, .. } = Config::for_size(m, n, 132, Sharing::WIfFaster, Tiles::Any);
            (tile.m(), tile.n, cluster)
        };
        // The transformer at 1024×1024 with 128 caption tokens, one picture and two.
        assert_eq!(
            [config(4224, 11_520), config(4224, 3840), config(4224, 20_480)],
            [(192, 192, 2), (128, 192, 2), (192, 192, 2)]
        );
        assert_eq!(
            [config(8448, 11_520), config(8448, 3840), config(8448, 20_480)],
            [(192, 192, 2), (192, 192, 2), (192, 192, 2)]
        );
        // The text encoder with 128 tokens.
        assert_eq!(
            [config(128, 6144), config(128, 2560), config(128, 19_456)],
            [(128, 64, 1), (128, 64, 1), (128, 192, 1)]
        );
        assert!(Tile::ALL.iter().all(|tile| tile.shared() + 1024 <= 227 << 10));
    }

    #[test]
    fn cluster_tiles_cover_all_tiles() {
        let tile = Tile::ALL[1];
        // 33 rows of tiles are 16 pairs and one row, whose tiles pair with their neighbours.
        let count = |m, n, cluster| Config { tile, cluster, shares_a: false }.cluster_tiles(m, n);
        assert_eq!((count(4224, 11_520, 2), count(4224, 11_520, 1)), (16 * 45 + 23, 33 * 45));
        assert_eq!((count(1, 1, 2), count(1, 1, 1)), (1, 1));
        // 22 rows of 30 pairs of tiles.
        let count = |m, n| Config::A_SHARED.cluster_tiles(m, n);
        assert_eq!((count(4224, 11_520), count(193, 385)), (22 * 30, 2 * 2));
    }
}
