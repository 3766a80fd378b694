// conv2d on Hopper, as in ../conv2d.cu: an implicit GEMM, with stride 1 and without upsampling.
// x `[items, height, width, CHANNELS]`, W `[n, taps·DEPTH]`, out
// `[items, out_height, out_width, n]`; CHANNELS and n are multiples of 8.
// Grid, roles and barriers: sm90/gemm.cuh, without clusters. A row of the product is an output
// pixel; a tile is 16 pixels wide and TILE_M / 16 high.
// Constants: CHANNELS, KERNEL_WIDTH, HAS_BIAS, HAS_RESIDUAL, and those of sm90/gemm.cuh.

#include "sm90/gemm.cuh"

#ifndef CHANNELS
#define CHANNELS 128
#define KERNEL_WIDTH 3
#define HAS_BIAS 1
#define HAS_RESIDUAL 1
#endif

constexpr unsigned DEPTH = (CHANNELS + 7) / 8 * 8;
// Registers hold the residual of a tile during its k loop, so that both consumers need not wait for
// it at the end.
constexpr bool EARLY = CONSUMERS == 2 && TILE_N <= 192;

// The receptive fields of a tile of output pixels: for each tap a box of 4 × 16 pixels and 64
// channels, shifted by the tap. TMA fills the padding with zeros.
struct TmaPixels {
    const TensorMap &map;
    unsigned out_height, out_width;
    int top, left;

    static constexpr unsigned TILE_WIDTH = 16, TILE_HEIGHT = TILE_M / TILE_WIDTH;
    // Steps of a tap.
    static constexpr unsigned PARTS = (CHANNELS + TILE_K - 1) / TILE_K;

    // The first pixel of the tile.
    struct Tile {
        unsigned item, y, x;
    };

    __device__ __forceinline__ Tile tile(unsigned m) const {
        const unsigned across = (out_width + TILE_WIDTH - 1) / TILE_WIDTH,
                       down = (out_height + TILE_HEIGHT - 1) / TILE_HEIGHT;
        const unsigned tile = m / TILE_M;
        return Tile{tile / (across * down), tile / across % down * TILE_HEIGHT, tile % across * TILE_WIDTH};
    }

    __device__ __forceinline__ void load(bf16 *to, Barrier &full, unsigned step, const Tile &tile,
                                         unsigned first) const {
        tma_load(to, map, full, step % PARTS * TILE_K, x(step, tile), y(step, tile, first), tile.item);
    }

    __device__ __forceinline__ unsigned column(unsigned step) const {
        return step / PARTS * DEPTH + step % PARTS * TILE_K;
    }

    __device__ __forceinline__ unsigned row(const Tile &tile, unsigned i) const {
        const unsigned y = tile.y + i / TILE_WIDTH, x = tile.x + i % TILE_WIDTH;
        return y < out_height && x < out_width ? (tile.item * out_height + y) * out_width + x : NO_ROW;
    }

    __device__ __forceinline__ void store(const TensorMap &out, const void *from, const Tile &tile, unsigned first,
                                          unsigned column) const {
        tma_store(out, from, column, tile.x, tile.y + first / TILE_WIDTH, tile.item);
    }

    __device__ __forceinline__ int x(unsigned step, const Tile &tile) const {
        return static_cast<int>(tile.x + step / PARTS % KERNEL_WIDTH) - left;
    }

    __device__ __forceinline__ int y(unsigned step, const Tile &tile, unsigned first) const {
        return static_cast<int>(tile.y + first / TILE_WIDTH + step / PARTS / KERNEL_WIDTH) - top;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    conv2d(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights, const float *bias,
           const bf16 *residual, const __grid_constant__ TensorMap out, unsigned m, unsigned n, unsigned taps,
           unsigned out_height, unsigned out_width, unsigned top, unsigned left) {
    const TmaPixels pixels{x, out_height, out_width, static_cast<int>(top), static_cast<int>(left)};
    // n is a multiple of 8, which the output's map demands.
    const ResidualEpilogue<HAS_BIAS, HAS_RESIDUAL, true, EARLY> epilogue{{{}, bias, n}, residual};
    gemm(pixels, weights, m, n, taps * TmaPixels::PARTS, out, epilogue);
}
