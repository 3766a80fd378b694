//! Launches the tiled tensor-core gemm, `kernels/gemm/tile.cuh`.

use crate::backend::cuda::driver::program::{File, Program};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::kernel::{Grid, WARP};
use crate::error::Result;
use crate::tensor::DType;

/// Stages of k in shared memory.
const STAGES: usize = 4;
/// Bytes of a row of a stage: 32 values of k in BF16, 64 in E4M3.
const STEP_BYTES: usize = 64;

/// The output tile of a CTA, and the warps that share it along m and n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    m: usize,
    n: usize,
    warps: [usize; 2],
}

impl Tile {
    /// Every tile, widest first.
    const ALL: [Tile; 4] = [
        Tile { m: 128, n: 128, warps: [2, 4] },
        Tile { m: 128, n: 64, warps: [4, 2] },
        Tile { m: 64, n: 64, warps: [2, 2] },
        Tile { m: 128, n: 16, warps: [4, 1] },
    ];

    /// The largest tile that keeps all SMs busy and wastes little, for an output of `m` rows and
    /// `n` columns.
    fn for_size(m: usize, n: usize, sms: usize) -> Self {
        let [large, narrow, small, slim] = Self::ALL;
        let tiles = |tile: Tile| m.div_ceil(tile.m) * n.div_ceil(tile.n);
        if n <= slim.n {
            slim
        } else if n > narrow.n && tiles(large) >= sms {
            large
        } else if tiles(narrow) >= sms {
            narrow
        } else {
            small
        }
    }

    /// Bytes of shared memory: the ring of stages, which the output tile overwrites at the end.
    fn shared(self) -> usize {
        (STAGES * (self.m + self.n) * STEP_BYTES).max(self.m * (self.n + 8) * DType::Bf16.size())
    }
}

/// The tiles that a kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tiles {
    /// Every one.
    Any,
    /// The one with 256 columns: the 128 output columns of `swiglu` that share a scale in FP8.
    Widest,
}

impl Tiles {
    /// The tile of [`Tiles::Widest`].
    const WIDEST: Tile = Tile { m: 64, n: 256, warps: [2, 4] };

    fn for_size(self, m: usize, n: usize, sms: usize) -> Tile {
        match self {
            Tiles::Any => Tile::for_size(m, n, sms),
            Tiles::Widest => Self::WIDEST,
        }
    }
}

/// One gemm `[m, k]·[n, k]ᵀ` with an op's epilogue.
pub(crate) struct TiledGemm<'a> {
    /// The op, which is also the name of its kernel.
    pub op: &'static str,
    pub file: File,
    pub constants: &'a [(&'static str, usize)],
    pub m: usize,
    pub n: usize,
    pub args: &'a [Arg<'a>],
    pub tiles: Tiles,
}

impl TiledGemm<'_> {
    /// Launches it.
    pub(crate) fn launch(self, gpu: &Gpu) -> Result<()> {
        let tile = self.tiles.for_size(self.m, self.n, gpu.device.sms);
        let grid = Grid {
            ctas: [self.m.div_ceil(tile.m) * self.n.div_ceil(tile.n), 1, 1],
            threads: WARP * tile.warps[0] * tile.warps[1],
            shared: tile.shared(),
        };
        gpu.launch(&program(self.op, self.file, tile, self.constants), self.op, grid, self.args)
    }
}

fn program(op: &'static str, file: File, tile: Tile, constants: &[(&'static str, usize)]) -> Program {
    Program::new(op, file)
        .with("TILE_M", tile.m)
        .with("TILE_N", tile.n)
        .with("WARPS_M", tile.warps[0])
        .with("WARPS_N", tile.warps[1])
        .with("STAGES", STAGES)
        .with_all(constants.iter().copied())
}

/// The gemm around `file` with the largest and with the smallest tile.
pub(crate) fn extreme_programs(op: &'static str, file: File, constants: &[(&'static str, usize)]) -> Vec<Program> {
    let [large, .., slim] = Tile::ALL;
    [large, slim].map(|tile| program(op, file, tile, constants)).to_vec()
}

/// The gemm around `file` with each of its tiles.
pub(crate) fn programs(
    op: &'static str,
    file: File,
    constants: &[(&'static str, usize)],
    tiles: Tiles,
) -> Vec<Program> {
    let program = |tile: &Tile| program(op, file, *tile, constants);
    match tiles {
        Tiles::Any => Tile::ALL.iter().map(program).collect(),
        Tiles::Widest => vec![program(&Tiles::WIDEST)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_gemms_have_large_tiles() {
        let tile = |m, n| {
            let tile = Tile::for_size(m, n, 132);
            (tile.m, tile.n)
        };
        assert_eq!(tile(4224, 11_520), (128, 128));
        assert_eq!(tile(4224, 3840), (128, 128));
        assert_eq!(tile(1 << 20, 128), (128, 128));
        assert_eq!(tile(128, 3840), (64, 64));
        assert_eq!(tile(16_384, 64), (64, 64));
        assert_eq!(tile(1 << 20, 3), (128, 16));
        assert!(Tile::ALL.iter().chain([&Tiles::WIDEST]).all(|tile| tile.shared() <= 99 << 10));
    }
}
