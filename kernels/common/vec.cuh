// Vectors of elements: floats in registers, loaded and stored 8 at an address that is a multiple of
// 16 bytes, or one at a time.
#pragma once

#include "common/types.cuh"

template <int N> struct Vec {
    float value[N];
};

// N elements in their BF16 representation, which takes half the registers.
template <int N> struct PackedVec;

template <> struct PackedVec<8> {
    uint4 words;
};

template <> struct PackedVec<1> {
    bf16 value;
};

__device__ __forceinline__ void load_packed(PackedVec<8> &to, const bf16 *from) {
    to.words = *reinterpret_cast<const uint4 *>(from);
}

__device__ __forceinline__ void load_packed(PackedVec<1> &to, const bf16 *from) {
    to.value = *from;
}

__device__ __forceinline__ Vec<8> unpack(const PackedVec<8> &from) {
    const unsigned word[4] = {from.words.x, from.words.y, from.words.z, from.words.w};
    Vec<8> to;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to.value[2 * i] = low_bf16(word[i]);
        to.value[2 * i + 1] = high_bf16(word[i]);
    }
    return to;
}

__device__ __forceinline__ Vec<1> unpack(const PackedVec<1> &from) {
    return Vec<1>{to_float(from.value)};
}

__device__ __forceinline__ uint4 pack(const Vec<8> &x) {
    const float *v = x.value;
    return make_uint4(bf16x2_from_floats(v[0], v[1]), bf16x2_from_floats(v[2], v[3]), bf16x2_from_floats(v[4], v[5]),
                      bf16x2_from_floats(v[6], v[7]));
}

__device__ __forceinline__ void load_vec(Vec<8> &to, const bf16 *from) {
    PackedVec<8> packed;
    load_packed(packed, from);
    to = unpack(packed);
}

__device__ __forceinline__ void load_vec(Vec<1> &to, const bf16 *from) {
    to.value[0] = to_float(*from);
}

__device__ __forceinline__ void load_vec(Vec<8> &to, const float *from) {
    const float4 low = reinterpret_cast<const float4 *>(from)[0], high = reinterpret_cast<const float4 *>(from)[1];
    to.value[0] = low.x, to.value[1] = low.y, to.value[2] = low.z, to.value[3] = low.w;
    to.value[4] = high.x, to.value[5] = high.y, to.value[6] = high.z, to.value[7] = high.w;
}

__device__ __forceinline__ void load_vec(Vec<1> &to, const float *from) {
    to.value[0] = *from;
}

__device__ __forceinline__ void store_vec(bf16 *to, const Vec<8> &from) {
    *reinterpret_cast<uint4 *>(to) = pack(from);
}

__device__ __forceinline__ void store_vec(bf16 *to, const Vec<1> &from) {
    *to = to_bf16(from.value[0]);
}

__device__ __forceinline__ void store_vec(float *to, const Vec<8> &from) {
    const float *v = from.value;
    reinterpret_cast<float4 *>(to)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4 *>(to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

__device__ __forceinline__ void store_vec(float *to, const Vec<1> &from) {
    *to = from.value[0];
}

// Stores eight elements to a row of `width` from `column` on; those past its end are dropped.
// Aligned: rows are a multiple of 8 elements.
template <bool Aligned>
__device__ __forceinline__ void store8(bf16 *row, unsigned column, unsigned width, const bf16 *from) {
    if (Aligned) {
        *reinterpret_cast<uint4 *>(row + column) = *reinterpret_cast<const uint4 *>(from);
    } else {
        for (unsigned i = 0; i < 8 && column + i < width; i++) row[column + i] = from[i];
    }
}
