// gather_rows of a quantised table `[rows, width]`: out[i] = table[ids[i]], rounded to BF16.
// Grid: a CTA of 128 per row.
// Constants: FORMAT (a StoredFormat), ALIGNED (width is a multiple of 8).

#include "common/quantized.cuh"

#ifndef FORMAT
#define FORMAT Q4_K
#define ALIGNED 1
#endif

extern "C" __global__ void __launch_bounds__(128)
    gather_quantized(const unsigned char *codes, const void *scales, unsigned row_bytes, unsigned scale_row,
                     unsigned scale_tiles, float tensor_scale, const unsigned *ids, bf16 *out, unsigned rows,
                     unsigned width) {
    using Stored = Sixteen<FORMAT>;
    const QuantizedRows from{codes, scales, row_bytes, scale_row, scale_tiles, tensor_scale};
    const unsigned row = min(ids[blockIdx.x], rows - 1);
    bf16 *to = out + static_cast<u64>(blockIdx.x) * width;
    for (unsigned unit = threadIdx.x, column; (column = unit_column<FORMAT>(unit)) < width; unit += 128) {
        Stored stored;
        Vec<8> values[2];
        stored.load(from, row, column, width);
        stored.values(values, column);
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            const unsigned start = column + i * Stored::DISTANCE;
            if (ALIGNED) {
                if (start < width) store_vec(to + start, values[i]);
            } else {
                for (unsigned j = 0; j < 8 && start + j < width; j++) to[start + j] = to_bf16(values[i].value[j]);
            }
        }
    }
}
