// to_rgb8: round(255·clamp(x/2 + 1/2, 0, 1)), halves to even, a thread eight values. An infinite value or
// NaN sets a word that the host reads with the picture.

constexpr float LARGEST = 3.402823466e38f;

extern "C" __global__ void __launch_bounds__(256) to_rgb8(const bf16 *x, unsigned char *out,
                                                              unsigned *not_numbers, unsigned count) {
    const unsigned first = 8 * (blockIdx.x * 256 + threadIdx.x);
    for (unsigned at = first; at < first + 8 && at < count; at++) {
        const float read = widen(x[at]);
        if (!(fabsf(read) <= LARGEST)) *not_numbers = 1;
        const float value = fminf(fmaxf(read * 0.5f + 0.5f, 0.0f), 1.0f);
        out[at] = static_cast<unsigned char>(rintf(255.0f * value));
    }
}
