// timestep_embedding: W₂·SiLU(W₁·e + b₁) + b₂ with e = [cos(u·f), sin(u·f)], u row `step` of
// `times` `[rows, m]`, f the frequencies `[k / 2]`.
// Grid: gemm/gemv.cuh. `hidden` makes SiLU(W₁·e + b₁) in F32 `[m, n]`, `embed` the rest in BF16.
// Constants: HAS_BIAS, and that of gemm/gemv.cuh.

#include "common/math.cuh"
#include "gemm/gemv.cuh"

#ifndef HAS_BIAS
#define HAS_BIAS 1
#endif

// A row-major matrix `[m, k]` of F32.
struct RowMajorF32 {
    const float *x;
    unsigned k;

    __device__ __forceinline__ void load8(Vec<8> &to, unsigned row, unsigned at) const {
#pragma unroll
        for (unsigned i = 0; i < 8; i++) to.value[i] = at + i < k ? x[row * k + at + i] : 0.0f;
    }
};

struct StoreHidden {
    float *out;
    const float *bias;
    unsigned n;

    __device__ __forceinline__ void store_pair(unsigned row, unsigned column, float a, float b) const {
        float *to = out + static_cast<u64>(row) * n + column;
        to[0] = silu(HAS_BIAS ? a + bias[column] : a);
        if (column + 1 < n) to[1] = silu(HAS_BIAS ? b + bias[column + 1] : b);
    }
};

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    hidden(const float *times, const unsigned *step, const float *frequencies, const bf16 *weights, const float *bias,
           float *out, unsigned rows, unsigned m, unsigned n, unsigned k, unsigned stride) {
    extern __shared__ __align__(1024) unsigned char smem[];
    // Every CTA computes the sinusoids of all items.
    float *sinusoids = reinterpret_cast<float *>(smem);
    const float *row = times + min(*step, rows - 1) * m;
    for (unsigned i = threadIdx.x; i < m * (k / 2); i += 32 * WARPS) {
        const unsigned item = i / (k / 2), frequency = i % (k / 2);
        const float angle = row[item] * frequencies[frequency];
        sinusoids[item * k + frequency] = cosf(angle);
        sinusoids[item * k + k / 2 + frequency] = sinf(angle);
    }
    __syncthreads();
    gemv(RowMajorF32{sinusoids, k}, weights, stride, m, n, k, StoreHidden{out, bias, n});
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    embed(const float *x, const bf16 *weights, const float *bias, bf16 *out, unsigned m, unsigned n, unsigned k,
          unsigned stride) {
    gemv(RowMajorF32{x, k}, weights, stride, m, n, k, StoreBias<HAS_BIAS>{out, bias, n});
}
