// swiglu for up to 8 rows: out = SiLU(x·Gᵀ) ⊙ (x·Uᵀ); matrices as in swiglu.cu.
// Grid: gemm/gemv.cuh; the two columns of a warp are a gate and its factor.
// Constants: ALIGNED (k is a multiple of 8), and that of gemm/gemv.cuh.

#include "common/math.cuh"
#include "gemm/gemv.cuh"

#ifndef ALIGNED
#define ALIGNED 1
#endif

struct StoreSwiGlu {
    bf16 *out;
    unsigned width;

    __device__ __forceinline__ void store_pair(unsigned row, unsigned column, float gate, float up) const {
        out[static_cast<u64>(row) * width + column / 2] = to_bf16(silu(gate) * up);
    }
};

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    swiglu(const bf16 *x, const bf16 *weights, bf16 *out, unsigned m, unsigned n, unsigned k, unsigned stride) {
    gemv(RowMajor<ALIGNED>{x, k}, weights, stride, m, n, k, StoreSwiGlu{out, n / 2});
}
