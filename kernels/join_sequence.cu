// join_sequence: out[n] = [image[n mod pictures], caption[captions[n]]]. Rows of `width`.
// Grid: a CTA of 128 per row of out.
// Constants: VECTOR (8, or 1 if width is not a multiple of 8).

#include "common/types.cuh"

#ifndef VECTOR
#define VECTOR 8
#endif

extern "C" __global__ void __launch_bounds__(128)
    join_sequence(const bf16 *image, const bf16 *caption, const unsigned *captions, bf16 *out, unsigned pictures,
                  unsigned image_tokens, unsigned prompts, unsigned caption_tokens, unsigned width) {
    const unsigned tokens = image_tokens + caption_tokens, item = blockIdx.x / tokens, token = blockIdx.x % tokens;
    const unsigned prompt = min(captions[item], prompts - 1);
    const bf16 *from = token < image_tokens
                           ? image + (static_cast<u64>(item % pictures) * image_tokens + token) * width
                           : caption + (static_cast<u64>(prompt) * caption_tokens + token - image_tokens) * width;
    bf16 *to = out + static_cast<u64>(blockIdx.x) * width;
    for (unsigned at = threadIdx.x * VECTOR; at < width; at += 128 * VECTOR) {
        if (VECTOR == 8) {
            *reinterpret_cast<uint4 *>(to + at) = *reinterpret_cast<const uint4 *>(from + at);
        } else {
            to[at] = from[at];
        }
    }
}
