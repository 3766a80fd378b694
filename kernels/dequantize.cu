// dequantize: out[first_row + row_step·r, c] = value of the quantised element [r, c], rounded to
// BF16; zeros from column `width` to `stride`.
//
// Grid: (rows / ROWS, units of a row / threads), at most 256 threads. A thread converts the same
// sixteen columns of ROWS rows. It issues all of its loads before it uses any, because the kernel
// is bound by the memory's bandwidth. No pointer is `restrict`, as in residual_norm.cu.
// Constants: FORMAT (a StoredFormat), ALIGNED (width is a multiple of 8), ROWS.

#include "common/quantized.cuh"
#include "sm90/ptx/pdl.cuh"

#ifndef FORMAT
#define FORMAT Q4_K
#define ALIGNED 1
#define ROWS 4
#endif

extern "C" __global__ void __launch_bounds__(256)
    dequantize(const unsigned char *codes, const void *scales, unsigned row_bytes, unsigned scale_row,
               unsigned scale_tiles, float tensor_scale, bf16 *out, unsigned rows, unsigned width, unsigned stride,
               unsigned first_row, unsigned row_step) {
    using Stored = Sixteen<FORMAT>;
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    const QuantizedRows from{codes, scales, row_bytes, scale_row, scale_tiles, tensor_scale};
    const unsigned column = unit_column<FORMAT>(blockIdx.y * blockDim.x + threadIdx.x), row = blockIdx.x * ROWS;
    if (column >= stride) return;
    Stored stored[ROWS];
#pragma unroll
    for (unsigned i = 0; i < ROWS; i++) {
        if (row + i < rows) stored[i].load(from, row + i, column, stride);
    }
#pragma unroll
    for (unsigned i = 0; i < ROWS; i++) {
        if (row + i >= rows) break;
        Vec<8> values[2];
        stored[i].values(values, column);
        bf16 *to = out + static_cast<u64>(first_row + row_step * (row + i)) * stride;
#pragma unroll
        for (unsigned j = 0; j < 2; j++) {
            const unsigned start = column + j * Stored::DISTANCE;
            if (start >= stride) break;
#pragma unroll
            for (unsigned k = 0; k < 8; k++) {
                if (!ALIGNED && start + k >= width) values[j].value[k] = 0.0f;
            }
            store_vec(to + start, values[j]);
        }
    }
}
