// Element types in memory.
#pragma once

#include "common/ptx/convert.cuh"

// An element offset, which may exceed 32 bits.
typedef unsigned long long u64;

// The upper half of a float: the element type of activations and matrices.
struct bf16 {
    unsigned short bits;
};

// The code of a sign, four bits of exponent and three of mantissa, up to ±448: the element type of
// FP8 activations and matrices.
struct fp8 {
    unsigned char bits;
};

__device__ __forceinline__ float to_float(bf16 x) {
    return float_from_bf16(x.bits);
}

__device__ __forceinline__ bf16 to_bf16(float x) {
    return bf16{bf16_from_float(x)};
}

// The two BF16 of a word; the low half comes first in memory.
__device__ __forceinline__ float low_bf16(unsigned word) {
    return __uint_as_float(word << 16);
}

__device__ __forceinline__ float high_bf16(unsigned word) {
    return __uint_as_float(word & 0xffff0000u);
}
