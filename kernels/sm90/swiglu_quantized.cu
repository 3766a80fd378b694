// swiglu on Hopper with quantised G and U `[n / 2, k]`: out = SiLU(x·Gᵀ) ⊙ (x·Uᵀ).
// x `[m, k]` by TMA, out `[m, n / 2]`; k is a multiple of 8. Rows of G and U alternate in a tile.
// Grid, roles and barriers: sm90/quantized.cuh.
// Constants: those of sm90/quantized.cuh.

#include "sm90/quantized.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    swiglu_quantized(const __grid_constant__ TensorMap x, const unsigned char *gate_codes, const void *gate_scales,
                     unsigned gate_row_bytes, unsigned gate_scale_row, unsigned gate_scale_tiles,
                     float gate_tensor_scale, const unsigned char *up_codes, const void *up_scales,
                     unsigned up_row_bytes, unsigned up_scale_row, unsigned up_scale_tiles, float up_tensor_scale,
                     float *partials, bf16 *out, unsigned m, unsigned n, unsigned k, unsigned whole,
                     unsigned splits) {
    const QuantizedRows parts[] = {
        {gate_codes, gate_scales, gate_row_bytes, gate_scale_row, gate_scale_tiles, gate_tensor_scale},
        {up_codes, up_scales, up_row_bytes, up_scale_row, up_scale_tiles, up_tensor_scale}};
    quantized_gemm(x, parts, k, whole, splits, partials, Output{out, m, n, n / 2, 0}, SwiGluEpilogue{});
}

extern "C" __global__ void __launch_bounds__(CONSUMER_THREADS)
    swiglu_reduce(const float *partials, bf16 *out, unsigned m, unsigned n, unsigned k, unsigned whole,
                  unsigned splits) {
    reduce_partials(partials, k, whole, splits, Output{out, m, n, n / 2, 0}, SwiGluEpilogue{});
}
