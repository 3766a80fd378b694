// linear with FP8 operands: out = x·Wᵀ + b. x `[m, k]` and W `[n, stride]` are E4M3 codes, k and
// stride multiples of 16, zeros from column k of W on. F32 scales lie beside them: one a row of W,
// and one a row of x, or one for each 128 columns of a row, `[⌈k / 128⌉, m]`. out `[m, n]` is BF16.
// Grid and tiles: gemm/tile.cuh.
// Constants: HAS_BIAS, BLOCK_SCALES (x has a scale for each 128 columns), and those of
// gemm/tile.cuh.

#define FP8_OPERANDS
#include "gemm/tile.cuh"

#ifndef HAS_BIAS
#define HAS_BIAS 1
#define BLOCK_SCALES 1
#endif

extern "C" __global__ void __launch_bounds__(THREADS)
    linear(const unsigned char *x, const unsigned char *weights, const float *x_scales, const float *w_scales,
           const float *bias, bf16 *out, unsigned m, unsigned n, unsigned k, unsigned stride) {
    const RowMajor<true> rows{reinterpret_cast<const fp8 *>(x), m, k};
    const ScaledEpilogue<BiasEpilogue<HAS_BIAS>, BLOCK_SCALES> epilogue{{{}, bias, n}, x_scales, w_scales, m, n};
    gemm(rows, reinterpret_cast<const fp8 *>(weights), stride, m, n, k, epilogue, out, n);
}
