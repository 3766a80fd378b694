// PTX conversions between float and 16-bit and 8-bit formats, ex2 and tanh.
#pragma once

// cvt.rn: to nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ unsigned short bf16_from_float(float x) {
    unsigned short out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out) : "f"(x));
    return out;
}

__device__ __forceinline__ float float_from_bf16(unsigned short bits) {
    return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

// Two BF16 in a word; `low` comes first in memory.
__device__ __forceinline__ unsigned bf16x2_from_floats(float low, float high) {
    unsigned out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

// Two E4M3 codes; `low` comes first in memory. To nearest, ties to even, at most ±448; NaN becomes
// 0x7f. From sm_89 on.
__device__ __forceinline__ unsigned short e4m3x2_from_floats(float low, float high) {
    unsigned short out;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(out) : "f"(high), "f"(low));
    return out;
}

__device__ __forceinline__ float float_from_f16(unsigned short bits) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(bits));
    return out;
}

// The hyperbolic tangent, to 2^-11 of it.
__device__ __forceinline__ float tanh_approx(float x) {
    float out;
    asm("tanh.approx.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// 2^x, to two ulps.
__device__ __forceinline__ float exp2_approx(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}
