// swiglu: out = SiLU(x·Gᵀ) ⊙ (x·Uᵀ). x `[m, k]`, out `[m, n / 2]`. Rows of G and U alternate in
// W `[n, stride]`, so that a thread holds both factors of a value; zeros from column k on.
// Grid and tiles: gemm/tile.cuh.
// Constants: ALIGNED (k is a multiple of 8), and those of gemm/tile.cuh.

#include "gemm/tile.cuh"

#ifndef ALIGNED
#define ALIGNED 1
#endif

extern "C" __global__ void __launch_bounds__(THREADS)
    swiglu(const bf16 *x, const bf16 *weights, bf16 *out, unsigned m, unsigned n, unsigned k, unsigned stride) {
    gemm(RowMajor<ALIGNED>{x, m, k}, weights, stride, m, n, k, SwiGluEpilogue{}, out, n / 2);
}
