// unscale_latents: out[i, pixel, c] = latents[first + i, c, pixel]/scale + shift, F32 to BF16, a thread a value of the output.

extern "C" __global__ void __launch_bounds__(256)
    unscale_latents(const float *latents, bf16 *out, unsigned count, unsigned channels, unsigned pixels, unsigned first,
                    float scale, float shift) {
    const unsigned at = blockIdx.x * 256 + threadIdx.x;
    if (at >= count) return;
    const unsigned channel = at % channels, pixel = at / channels % pixels, item = first + at / channels / pixels;
    out[at] = narrow(latents[(static_cast<u64>(item) * channels + channel) * pixels + pixel] / scale + shift);
}
