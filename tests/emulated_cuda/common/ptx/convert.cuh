// Emulates kernels/common/ptx/convert.cuh.
#pragma once

inline float float_from_bf16(unsigned short bits) { return __uint_as_float(unsigned(bits) << 16); }
inline unsigned short bf16_from_float(float x) {
    unsigned bits = __float_as_uint(x);
    if (x != x) return 0x7fff;
    return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline unsigned bf16x2_from_floats(float low, float high) {
    return unsigned(bf16_from_float(high)) << 16 | bf16_from_float(low);
}

inline float float_from_e4m3(unsigned char code) {
    unsigned sign = unsigned(code & 0x80) << 24, magnitude = unsigned(code & 0x7f) << 20;
    if (magnitude == 0x7fu << 20) return __uint_as_float(0x7fffffff);
    // The exponent biases differ by 120; the multiplication also normalizes subnormals.
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude) * 0x1p120f));
}
inline unsigned char e4m3_from_float(float x) {
    if (x != x) return 0x7f;
    const float size = fminf(fabsf(x), 448.f);
    unsigned bits = __float_as_uint(size), code;
    // Subnormals are multiples of 2^-9; the eighth is the first normal.
    if (size < 0x1p-6f) code = unsigned(rintf(size * 0x1p9f));
    else code = ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120 << 3);
    return (unsigned char)(__float_as_uint(x) >> 31 << 7 | code);
}
inline unsigned short e4m3x2_from_floats(float low, float high) {
    return (unsigned short)(e4m3_from_float(high) << 8 | e4m3_from_float(low));
}

inline float float_from_f16(unsigned short bits) {
    unsigned sign = unsigned(bits & 0x8000) << 16, magnitude = unsigned(bits & 0x7fff) << 13;
    if (magnitude >= 0x7c00u << 13) return __uint_as_float(sign | magnitude | 0x7f800000);
    // The exponent biases differ by 112; the multiplication also normalizes subnormals.
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude) * 0x1p112f));
}

inline float exp2_approx(float x) { return exp2f(x); }

// Rounded to ten bits behind the leading one, which is within the error of the instruction.
inline float tanh_approx(float x) {
    return __uint_as_float(__float_as_uint(tanhf(x)) + 0x1000 & ~0x1fffu);
}
