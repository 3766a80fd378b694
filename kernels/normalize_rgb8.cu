// normalize_rgb8: pixel/127.5 − 1, a thread a value.

extern "C" __global__ void __launch_bounds__(256)
    normalize_rgb8(const unsigned char *pixels, bf16 *out, unsigned count) {
    const unsigned at = blockIdx.x * 256 + threadIdx.x;
    if (at < count) out[at] = narrow(pixels[at] / 127.5f - 1.0f);
}
