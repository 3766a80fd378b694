// FP8 activations: E4M3 codes `[rows, width]` and F32 scales beside them, one a row or one for each
// SCALE_BLOCK columns of a row. An element is its code times its scale.
#pragma once

#include "common/vec.cuh"

// Columns of a row that share a scale, where a row has several: `scales[block * rows + row]`.
constexpr unsigned SCALE_BLOCK = 128;

// The scale of values whose largest magnitude is `amax`, and the factor from values to codes.
// backend/cpu does the same operations, so no division is a fast one.
struct Fp8Scale {
    float scale, inverse;

    __device__ __forceinline__ explicit Fp8Scale(float amax) {
        const float largest = fmaxf(amax, 1e-30f);
        scale = largest / 448.0f;
        inverse = 448.0f / largest;
    }

    // The codes of two values; `low` comes first in memory.
    __device__ __forceinline__ unsigned short codes(float low, float high) const {
        return e4m3x2_from_floats(low * inverse, high * inverse);
    }

    // The codes of four values; `a` comes first in memory.
    __device__ __forceinline__ unsigned codes(float a, float b, float c, float d) const {
        return codes(a, b) | static_cast<unsigned>(codes(c, d)) << 16;
    }
};

// The bound on the elements of a head of Head that was RMS-normed, with `largest` the largest
// magnitude of the norm's weight, and then rotated: √Head · largest bounds the norm of the head.
template <int Head> __device__ __forceinline__ float head_bound(float largest) {
    return sqrtf(static_cast<float>(Head)) * largest;
}

// Stores eight codes at an address that is a multiple of 8 bytes.
template <int N>
__device__ __forceinline__ void store_codes(fp8 *to, const Vec<N> &from, const Fp8Scale &scale) {
    static_assert(N == 8, "two words");
    unsigned words[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float *v = from.value + 4 * i;
        words[i] = scale.codes(v[0], v[1], v[2], v[3]);
    }
    *reinterpret_cast<uint2 *>(to) = make_uint2(words[0], words[1]);
}
