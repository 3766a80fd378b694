// pad_rows: x[b, t] = token for t ≥ lengths[b], in place. x `[items·tokens, width]`.
// Grid: a CTA of 128 per row.
// Constants: VECTOR (8, or 1 if width is not a multiple of 8).

#include "common/vec.cuh"

#ifndef VECTOR
#define VECTOR 8
#endif

extern "C" __global__ void __launch_bounds__(128)
    pad_rows(bf16 *x, const float *token, const unsigned *lengths, unsigned tokens, unsigned width) {
    if (blockIdx.x % tokens < lengths[blockIdx.x / tokens]) return;
    bf16 *row = x + static_cast<u64>(blockIdx.x) * width;
    for (unsigned at = threadIdx.x * VECTOR; at < width; at += 128 * VECTOR) {
        Vec<VECTOR> values;
        load_vec(values, token + at);
        store_vec(row + at, values);
    }
}
