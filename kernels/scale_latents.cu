// scale_latents: out[b, c, pixel] = (x[b, pixel, c] − shift)·scale for the first `channels` of `width`, BF16 to F32, a thread
// a value of the output.

extern "C" __global__ void __launch_bounds__(256)
    scale_latents(const bf16 *x, float *out, unsigned count, unsigned channels, unsigned width, unsigned pixels,
                  float scale, float shift) {
    const unsigned at = blockIdx.x * 256 + threadIdx.x;
    if (at >= count) return;
    const unsigned pixel = at % pixels, channel = at / pixels % channels, item = at / pixels / channels;
    out[at] = (widen(x[(static_cast<u64>(item) * pixels + pixel) * width + channel]) - shift) * scale;
}
