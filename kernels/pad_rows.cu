// pad_rows: x[b, t] = token for t ≥ lengths[b], a block a row. x `[items·tokens, width]`.
// Constants: VECTOR (8, or 1 where width is no multiple of 8).

extern "C" __global__ void __launch_bounds__(128)
    pad_rows(bf16 *x, const float *token, const unsigned *lengths, unsigned tokens, unsigned width) {
    if (blockIdx.x % tokens < lengths[blockIdx.x / tokens]) return;
    bf16 *row = x + static_cast<u64>(blockIdx.x) * width;
    for (unsigned at = threadIdx.x * VECTOR; at < width; at += 128 * VECTOR) {
        Values<VECTOR> values;
        read_values(values, token + at);
        write_values(row + at, values);
    }
}
