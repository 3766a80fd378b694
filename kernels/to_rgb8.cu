// to_rgb8: out = round(255·clamp(x/2 + 1/2, 0, 1)), ties to even. An infinity or NaN sets the word
// `not_numbers`, which the host reads together with the picture.
// Grid: a thread per eight values, 256 in a CTA.

#include "common/types.cuh"

constexpr float FLT_MAX = 3.402823466e38f;

extern "C" __global__ void __launch_bounds__(256) to_rgb8(const bf16 *x, unsigned char *out,
                                                              unsigned *not_numbers, unsigned count) {
    const unsigned first = 8 * (blockIdx.x * 256 + threadIdx.x);
    for (unsigned at = first; at < first + 8 && at < count; at++) {
        const float read = to_float(x[at]);
        if (!(fabsf(read) <= FLT_MAX)) *not_numbers = 1;
        const float value = fminf(fmaxf(read * 0.5f + 0.5f, 0.0f), 1.0f);
        out[at] = static_cast<unsigned char>(rintf(255.0f * value));
    }
}
