// swiglu with FP8 operands: out = SiLU(x·Gᵀ) ⊙ (x·Uᵀ). x `[m, k]` and W `[n, stride]` are E4M3
// codes with an F32 scale a row, k and stride multiples of 16, zeros from column k of W on. out is
// an FP8 activation `[m, n / 2]` with a scale for each 128 columns, n / 2 a multiple of 16.
// Rows of W: each 32 have those of 16 output columns. Row 8·(h % 4) + 2·(h / 4) is the row of G of
// column h, the next one that of U. So a thread has four neighbouring columns in its accumulators.
// Grid and tiles: gemm/tile.cuh. A tile is as wide as a block of 128 output columns.
// Constants: those of gemm/tile.cuh; TILE_N is 256.

#ifndef TILE_M
#define TILE_M 64
#define TILE_N 256
#define WARPS_M 2
#define WARPS_N 4
#define STAGES 4
#define ALIGNED_OUT 1
#endif

#define FP8_OPERANDS
#include "gemm/tile.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    swiglu(const unsigned char *x, const unsigned char *weights, const float *x_scales, const float *w_scales,
           unsigned char *out, float *out_scales, unsigned m, unsigned n, unsigned k, unsigned stride) {
    const RowMajor<true> rows{reinterpret_cast<const fp8 *>(x), m, k};
    const Fp8SwiGluEpilogue epilogue{{{}, x_scales, w_scales, m, n}, out_scales, k};
    gemm(rows, reinterpret_cast<const fp8 *>(weights), stride, m, n, k, epilogue, reinterpret_cast<fp8 *>(out), n / 2);
}
