// linear on Hopper with FP8 operands: out = x·Wᵀ + b. x `[m, k]` and W `[n, k]` are E4M3 codes, k a
// multiple of 16, with F32 scales beside them: one a row of W, and one a row of x, or one for each
// 128 columns of a row, `[⌈k / 128⌉, m]`. out `[m, n]` is BF16, n a multiple of 8.
// Grid, roles and barriers: sm90/gemm.cuh. Tiles run top-down, from the rows that swiglu_fp8.cu
// wrote last.
// Constants: HAS_BIAS, BLOCK_SCALES (x has a scale for each 128 columns), and those of
// sm90/gemm.cuh.

#define FP8_OPERANDS
#define TOP_DOWN
#include "sm90/gemm.cuh"

#ifndef HAS_BIAS
#define HAS_BIAS 1
#define BLOCK_SCALES 1
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    linear(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights, const float *x_scales,
           const float *w_scales, const float *bias, const __grid_constant__ TensorMap out, unsigned m, unsigned n,
           unsigned k) {
    const ScaledEpilogue<BiasEpilogue<HAS_BIAS>, BLOCK_SCALES> epilogue{{{}, bias, n}, x_scales, w_scales, m, n};
    gemm(TmaRows{x, m}, weights, m, n, (k + TILE_K - 1) / TILE_K, out, epilogue);
}
