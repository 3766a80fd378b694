// merge_taps: the kernel of a 3×3 convolution over a picture of twice the size, as four kernels of 2×2 taps over the picture
// as it is, one for each place (py, px) that an output pixel has in its pixel: of the three taps across, two always fall
// on the same pixel. W `[n, 3·3·depth]` to `[4·n, 2·2·depth]`, a place after the other; sums of up to four taps, in F32.
// Tap k of the three reads pixel ⌊(p + k − 1)/2⌋ from the output's own, p being its place.

__device__ __forceinline__ unsigned merged(unsigned place, unsigned tap) {
    return (place + tap + 1) / 2 - place;
}

extern "C" __global__ void __launch_bounds__(128)
    merge_taps(const bf16 *weights, bf16 *out, unsigned n, unsigned depth) {
    // A block an output channel and place, a thread some input channels.
    const unsigned row = blockIdx.x % n, place = blockIdx.x / n;
    const bf16 *from = weights + static_cast<u64>(row) * 9 * depth;
    bf16 *to = out + static_cast<u64>(blockIdx.x) * 4 * depth;
    for (unsigned c = threadIdx.x; c < depth; c += 128) {
        float sums[4] = {};
#pragma unroll
        for (unsigned tap = 0; tap < 9; tap++) {
            const unsigned y = merged(place / 2, tap / 3), x = merged(place % 2, tap % 3);
#pragma unroll
            for (unsigned i = 0; i < 4; i++) sums[i] += 2 * y + x == i ? widen(from[tap * depth + c]) : 0.0f;
        }
#pragma unroll
        for (unsigned i = 0; i < 4; i++) to[i * depth + c] = narrow(sums[i]);
    }
}
