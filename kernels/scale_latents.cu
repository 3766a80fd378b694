// scale_latents: out[b, c, pixel] = (x[b, pixel, c] − shift)·scale for the first `channels` of
// `width`, BF16 to F32.
// Grid: a thread per value of out, 256 in a CTA.

#include "common/types.cuh"

extern "C" __global__ void __launch_bounds__(256)
    scale_latents(const bf16 *x, float *out, unsigned count, unsigned channels, unsigned width, unsigned pixels,
                  float scale, float shift) {
    const unsigned at = blockIdx.x * 256 + threadIdx.x;
    if (at >= count) return;
    const unsigned pixel = at % pixels, channel = at / pixels % channels, item = at / pixels / channels;
    out[at] = (to_float(x[(static_cast<u64>(item) * pixels + pixel) * width + channel]) - shift) * scale;
}
