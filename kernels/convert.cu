// convert: a tensor of F32, BF16 or F16 to F32 or BF16.
// Grid: a thread per element, 256 in a CTA.
// Constants: FROM, TO (0: F32, 1: BF16, 2: F16; TO is 0 or 1).

#include "common/types.cuh"

#ifndef FROM
#define FROM 2
#define TO 1
#endif

__device__ __forceinline__ float value(const void *from, unsigned at) {
    if (FROM == 1) return to_float(static_cast<const bf16 *>(from)[at]);
    if (FROM == 2) return float_from_f16(static_cast<const unsigned short *>(from)[at]);
    return static_cast<const float *>(from)[at];
}

extern "C" __global__ void __launch_bounds__(256) convert(const void *from, void *to, unsigned count) {
    const unsigned at = blockIdx.x * 256 + threadIdx.x;
    if (at >= count) return;
    if (TO == 1) {
        static_cast<bf16 *>(to)[at] = to_bf16(value(from, at));
    } else {
        static_cast<float *>(to)[at] = value(from, at);
    }
}
