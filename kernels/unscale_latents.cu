// unscale_latents: out[i, pixel, c] = latents[first + i, c, pixel]/scale + shift, F32 to BF16.
// Grid: a thread per value of out, 256 in a CTA.

#include "common/types.cuh"

extern "C" __global__ void __launch_bounds__(256)
    unscale_latents(const float *latents, bf16 *out, unsigned count, unsigned channels, unsigned pixels, unsigned first,
                    float scale, float shift) {
    const unsigned at = blockIdx.x * 256 + threadIdx.x;
    if (at >= count) return;
    const unsigned channel = at % channels, pixel = at / channels % pixels, item = first + at / channels / pixels;
    out[at] = to_bf16(latents[(static_cast<u64>(item) * channels + channel) * pixels + pixel] / scale + shift);
}
