// swiglu on Hopper with FP8 operands: out = SiLU(x·Gᵀ) ⊙ (x·Uᵀ). x `[m, k]` and W `[n, k]` are E4M3
// codes with an F32 scale a row, k a multiple of 16. out is an FP8 activation `[m, n / 2]` with a
// scale for each 128 columns, n / 2 a multiple of 16.
// Rows of W: each 32 have those of 16 output columns. Row 8·(h % 4) + 2·(h / 4) is the row of G of
// column h, the next one that of U. So a thread has four neighbouring columns in its accumulators.
// Grid, roles and barriers: sm90/gemm.cuh. A tile is as wide as a block of 128 output columns.
// Constants: those of sm90/gemm.cuh; TILE_N is 256.

#ifndef CONSUMERS
#define CONSUMERS 2
#define TILE_N 256
#define STAGES 4
#define OUT_STAGES 1
#define CLUSTER_M 1
#define CLUSTER_N 1
#endif

#define FP8_OPERANDS
#include "sm90/gemm.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    swiglu(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights, const float *x_scales,
           const float *w_scales, float *out_scales, const __grid_constant__ TensorMap out, unsigned m, unsigned n,
           unsigned k) {
    const Fp8SwiGluEpilogue epilogue{{{}, x_scales, w_scales, m, n}, out_scales, k};
    gemm(TmaRows{x, m}, weights, m, n, (k + TILE_K - 1) / TILE_K, out, epilogue);
}
