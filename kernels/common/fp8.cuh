// FP8 activations: E4M3 codes `[rows, width]` and F32 scales beside them, one a row or one for each
// SCALE_BLOCK columns of a row. An element is its code times its scale.
// Fused projections in FP8: codes of queries and keys `[items, tokens, (query + key)·HEAD]`, then
// those of the values, transposed, `[items, key·HEAD, value_stride(tokens)]`. F32 scales beside
// them: one of all queries, one of all keys, then those of the values, `[items, key,
// value_blocks(tokens)]`. HEAD is 128.
#pragma once

#include "common/vec.cuh"

// Columns of a row that share a scale, where a row has several: `scales[block * rows + row]`.
constexpr unsigned SCALE_BLOCK = 128;

// The scale of values whose largest magnitude is `amax`, and the factor from values to codes.
// tensor/fp8.rs gives the reasons and does the same operations for `cpu`, except that its unit is
// always 1. So no division is a fast one.
struct Fp8Scale {
    float scale, inverse;

    // The scale of a whole row: the largest code is 448.
    static __device__ __forceinline__ Fp8Scale of_row(float amax) {
        const float largest = fmaxf(amax, 1e-30f);
        return Fp8Scale{largest / 448.0f, 448.0f / largest};
    }

    // The scale of a block of a row: `unit` times a power of 2^8, the least one from 2^-40 on with
    // which no code exceeds 448. `unit` counts as the power of two below it. It is the scale of a
    // block of zeros, so that the sums in front of that are not rescaled. Infinity has the inverse
    // 0, which makes NaN of it.
    static __device__ __forceinline__ Fp8Scale of_block(float amax, float unit = 1.0f) {
        const unsigned wanted = __float_as_uint(unit) >> 23;
        const unsigned least = max((__float_as_uint(amax * (1.0f / 448.0f)) + 0x7fffff) >> 23, 87u);
        const unsigned nearest = least + ((wanted - least) & (least < 255 ? 7 : 0));
        const unsigned exponent = amax == 0.0f ? min(max(wanted, 87u), 247u) : nearest;
        return Fp8Scale{__uint_as_float(exponent << 23),
                        exponent == 255 ? 0.0f : __uint_as_float((254 - exponent) << 23)};
    }

    // The scale of a block of values: the least power of two from 2^-40 on with which no code
    // exceeds 448. That is the scale of zeros too, so that they weigh nothing in attention's choice
    // of a unit. With infinity all codes are NaN.
    static __device__ __forceinline__ Fp8Scale of_values(float amax) {
        const unsigned exponent = max((__float_as_uint(amax * (1.0f / 448.0f)) + 0x7fffff) >> 23, 87u);
        return Fp8Scale{__uint_as_float(exponent << 23),
                        __uint_as_float(exponent == 255 ? 0x7fffffffu : (254 - exponent) << 23)};
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

// The place of the code of a column in a query or key head of a projection in FP8. In each 64
// columns, columns 8·j + 2·q and the next are bytes 16·q + 2·j and the next. So lane q of the four
// that share a row of an accumulator has 16 neighbouring codes. A score is a sum over the columns
// in any order that queries and keys share. memory/projection.rs inverts the order for downloads.
__device__ __forceinline__ constexpr unsigned code_place(unsigned column) {
    return column / 64 * 64 + column % 8 / 2 * 16 + column % 64 / 8 * 2 + column % 2;
}

// The place of the code of a token in a row of transposed values. Tokens g and g + 8 of each 16 are
// bytes 2·g and the next. So the two rows of a lane in an accumulator of project_qkv are one 16-bit
// element of stmatrix, and the columns 2·q, 2·q + 1 of two neighbouring blocks of 8 scores in
// attention are the four bytes of lane q in the left operand of p·v. memory/projection.rs inverts
// the order for downloads.
__device__ __forceinline__ constexpr unsigned value_place(unsigned token) {
    return token / 16 * 16 + token % 8 * 2 + token % 16 / 8;
}

// Tokens of a head's values that share a scale.
constexpr unsigned VALUE_BLOCK = 64;

// The bytes of a row of transposed values. Behind the last token are zeros.
__device__ __forceinline__ unsigned value_stride(unsigned tokens) {
    return (tokens + 15) / 16 * 16;
}

__device__ __forceinline__ unsigned value_blocks(unsigned tokens) {
    return (tokens + VALUE_BLOCK - 1) / VALUE_BLOCK;
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
