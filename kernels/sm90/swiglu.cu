// swiglu on Hopper: out = SiLU(x·Gᵀ) ⊙ (x·Uᵀ). x `[m, k]`, out `[m, n / 2]`; rows of G and U
// alternate in W `[n, k]`. k and n / 2 are multiples of 8.
// Grid, roles and barriers: sm90/gemm.cuh.
// Constants: those of sm90/gemm.cuh.

#include "sm90/gemm.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    swiglu(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights,
           const __grid_constant__ TensorMap out, unsigned m, unsigned n, unsigned k) {
    gemm(TmaRows{x, m}, weights, m, n, (k + TILE_K - 1) / TILE_K, out, SwiGluEpilogue{});
}
