// gather_rows: out[i] = table[ids[i]]. table `[rows, width]` of F32, BF16 or F16.
// Grid: a CTA of 128 per row.
// Constants: TYPE (0: F32, 1: BF16, 2: F16), VECTOR (8, or 1 if width is not a multiple of 8).

#include "common/vec.cuh"

#ifndef TYPE
#define TYPE 1
#define VECTOR 8
#endif

#if TYPE == 2
struct f16 {
    unsigned short bits;
};

__device__ __forceinline__ void load_vec(Vec<1> &to, const f16 *from) {
    to.value[0] = float_from_f16(from->bits);
}

__device__ __forceinline__ void load_vec(Vec<8> &to, const f16 *from) {
#pragma unroll
    for (int i = 0; i < 8; i++) to.value[i] = float_from_f16(from[i].bits);
}

typedef f16 Entry;
#elif TYPE == 1
typedef bf16 Entry;
#else
typedef float Entry;
#endif

extern "C" __global__ void __launch_bounds__(128)
    gather_rows(const void *table, const unsigned *ids, bf16 *out, unsigned rows, unsigned width) {
    const Entry *from = static_cast<const Entry *>(table) + static_cast<u64>(min(ids[blockIdx.x], rows - 1)) * width;
    bf16 *to = out + static_cast<u64>(blockIdx.x) * width;
    for (unsigned at = threadIdx.x * VECTOR; at < width; at += 128 * VECTOR) {
        Vec<VECTOR> values;
        load_vec(values, from + at);
        store_vec(to + at, values);
    }
}
