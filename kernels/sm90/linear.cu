// linear on Hopper: out = x·Wᵀ + b. x `[m, k]`, W `[n, k]`, out `[m, n]`, all by TMA; k and n are
// multiples of 8.
// Grid, roles and barriers: sm90/gemm.cuh.
// Constants: HAS_BIAS, and those of sm90/gemm.cuh.

#include "sm90/gemm.cuh"

#ifndef HAS_BIAS
#define HAS_BIAS 1
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    linear(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights, const float *bias,
           const __grid_constant__ TensorMap out, unsigned m, unsigned n, unsigned k) {
    gemm(TmaRows{x, m}, weights, m, n, (k + TILE_K - 1) / TILE_K, out, BiasEpilogue<HAS_BIAS>{{}, bias, n});
}
