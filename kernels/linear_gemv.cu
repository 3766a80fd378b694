// linear and modulation for up to 8 rows: out = f(x)·Wᵀ + b, where f is SiLU or nothing.
// x `[m, k]`, W `[n, stride]` with zeros from column k on, out `[m, n]`.
// Grid: gemm/gemv.cuh.
// Constants: ALIGNED (k is a multiple of 8), HAS_BIAS, SILU, and that of gemm/gemv.cuh.

#include "common/math.cuh"
#include "gemm/gemv.cuh"

#ifndef ALIGNED
#define ALIGNED 1
#define HAS_BIAS 1
#define SILU 0
#endif

struct Input {
    RowMajor<ALIGNED> x;

    __device__ __forceinline__ void load8(Vec<8> &to, unsigned row, unsigned at) const {
        x.load8(to, row, at);
        if (SILU) {
#pragma unroll
            for (int i = 0; i < 8; i++) to.value[i] = silu(to.value[i]);
        }
    }
};

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    linear(const bf16 *x, const bf16 *weights, const float *bias, bf16 *out, unsigned m, unsigned n, unsigned k,
           unsigned stride) {
    gemv(Input{{x, k}}, weights, stride, m, n, k, StoreBias<HAS_BIAS>{out, bias, n});
}
