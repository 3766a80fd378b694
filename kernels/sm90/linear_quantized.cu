// linear on Hopper with quantised rows W `[n, k]`: out[:, first..first + n] = x·Wᵀ + b.
// x `[m, k]` by TMA, bias `[stride]`, out `[m, stride]`; k is a multiple of 8.
// Grid, roles and barriers: sm90/quantized.cuh.
// Constants: HAS_BIAS, and those of sm90/quantized.cuh.

#include "sm90/quantized.cuh"

#ifndef HAS_BIAS
#define HAS_BIAS 1
#endif

// The epilogue of columns `first` to `first + n` of the output.
__device__ __forceinline__ BiasEpilogue<HAS_BIAS> part_bias(const float *bias, unsigned first, unsigned n) {
    return {{}, HAS_BIAS ? bias + first : bias, n};
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    linear_quantized(const __grid_constant__ TensorMap x, const unsigned char *codes, const void *scales,
                     unsigned row_bytes, unsigned scale_row, unsigned scale_tiles, float tensor_scale,
                     const float *bias, float *partials, bf16 *out, unsigned m, unsigned n, unsigned k,
                     unsigned stride, unsigned first, unsigned whole, unsigned splits) {
    const QuantizedRows parts[] = {{codes, scales, row_bytes, scale_row, scale_tiles, tensor_scale}};
    quantized_gemm(x, parts, k, whole, splits, partials, Output{out, m, n, stride, first}, part_bias(bias, first, n));
}

extern "C" __global__ void __launch_bounds__(CONSUMER_THREADS)
    linear_reduce(const float *partials, const float *bias, bf16 *out, unsigned m, unsigned n, unsigned k,
                  unsigned stride, unsigned first, unsigned whole, unsigned splits) {
    reduce_partials(partials, k, whole, splits, Output{out, m, n, stride, first}, part_bias(bias, first, n));
}
