// normalize_rgb8: out = pixel/127.5 − 1.
// Grid: a thread per value, 256 in a CTA.

#include "common/types.cuh"

extern "C" __global__ void __launch_bounds__(256)
    normalize_rgb8(const unsigned char *pixels, bf16 *out, unsigned count) {
    const unsigned at = blockIdx.x * 256 + threadIdx.x;
    if (at < count) out[at] = to_bf16(pixels[at] / 127.5f - 1.0f);
}
