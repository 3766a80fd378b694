// merge_taps: a 3×3 convolution of a picture upsampled to twice its size, as four 2×2 convolutions
// of the picture itself, one per position (py, px) of an output pixel inside its source pixel: of
// three taps in a row, two always read the same pixel. W `[n, 3·3·depth]` to `[4·n, 2·2·depth]`,
// position by position; sums of up to four taps, in F32.
// Tap k reads pixel ⌊(p + k − 1)/2⌋ relative to the source pixel, where p is the position.
// Grid: a CTA of 128 per position and output channel, a thread per input channel.

#include "common/types.cuh"

// The tap of two that takes over a tap of three.
__device__ __forceinline__ unsigned merged(unsigned position, unsigned tap) {
    return (position + tap + 1) / 2 - position;
}

extern "C" __global__ void __launch_bounds__(128)
    merge_taps(const bf16 *weights, bf16 *out, unsigned n, unsigned depth) {
    const unsigned row = blockIdx.x % n, position = blockIdx.x / n;
    const bf16 *from = weights + static_cast<u64>(row) * 9 * depth;
    bf16 *to = out + static_cast<u64>(blockIdx.x) * 4 * depth;
    for (unsigned c = threadIdx.x; c < depth; c += 128) {
        float sums[4] = {};
#pragma unroll
        for (unsigned tap = 0; tap < 9; tap++) {
            const unsigned y = merged(position / 2, tap / 3), x = merged(position % 2, tap % 3);
#pragma unroll
            for (unsigned i = 0; i < 4; i++) sums[i] += 2 * y + x == i ? to_float(from[tap * depth + c]) : 0.0f;
        }
#pragma unroll
        for (unsigned i = 0; i < 4; i++) to[i * depth + c] = to_bf16(sums[i]);
    }
}
