// linear: out = x·Wᵀ + b. x `[m, k]`, W `[n, stride]` with zeros from column k on, out `[m, n]`.
// Grid and tiles: gemm/tile.cuh.
// Constants: ALIGNED (k is a multiple of 8), HAS_BIAS, and those of gemm/tile.cuh.

#include "gemm/tile.cuh"

#ifndef ALIGNED
#define ALIGNED 1
#define HAS_BIAS 1
#endif

extern "C" __global__ void __launch_bounds__(THREADS)
    linear(const bf16 *x, const bf16 *weights, const float *bias, bf16 *out, unsigned m, unsigned n, unsigned k,
           unsigned stride) {
    gemm(RowMajor<ALIGNED>{x, m, k}, weights, stride, m, n, k, BiasEpilogue<HAS_BIAS>{{}, bias, n}, out, n);
}
