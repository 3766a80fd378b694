// Quantised rows: sixteen elements at a time, as the file stores them and as floats.
//
// src/tensor/format and src/tensor/scales define the layouts and the order of the operations. The
// floats have the bits that they define: products that are added and not exact are __fmul_rn, which
// is never contracted to a fused multiply-add.
#pragma once

#include "common/vec.cuh"

enum StoredFormat : unsigned { Q4_0, Q8_0, Q4_K, Q5_K, Q6_K, F8_E4M3, F8_E4M3_ROWS, MXFP8, NVFP4 };

// Rows of codes, and the scales beside them.
struct QuantizedRows {
    // Rows are row_bytes apart. The first one is aligned to 16 bytes.
    const unsigned char *codes;
    // F8_E4M3_ROWS: a float a row. MXFP8 and NVFP4: bytes of blocks, in cuBLAS's tiles of 128 × 4.
    const void *scales;
    unsigned row_bytes;
    // The first row in its tile of scales, and the tiles side by side.
    unsigned scale_row, scale_tiles;
    // F8_E4M3 and NVFP4: the scale of the tensor.
    float tensor_scale;

    __device__ __forceinline__ const unsigned char *at(unsigned row, unsigned byte) const {
        return codes + (static_cast<u64>(row) * row_bytes + byte);
    }

    // The byte of the scale of a block.
    __device__ __forceinline__ unsigned block_scale(unsigned row, unsigned block) const {
        const unsigned in_tiles = scale_row + row, tile = in_tiles / 128 * scale_tiles + block / 4;
        const unsigned in_tile = in_tiles % 32 * 16 + in_tiles % 128 / 32 * 4 + block % 4;
        return static_cast<const unsigned char *>(scales)[static_cast<u64>(tile) * 512 + in_tile];
    }
};

// ---- codes to floats ----------------------------------------------------------------------------

// Byte i of a word, less Bias. The byte becomes the last bits of 2^23, so the difference is exact.
template <unsigned Bias> __device__ __forceinline__ float integer(unsigned word, unsigned i) {
    return __uint_as_float(__byte_perm(0x4b000000u, word, 0x3004u + i)) - static_cast<float>((1u << 23) + Bias);
}

// The E4M3 code in byte i of a word. Its sign, exponent and mantissa move to those of a float,
// whose exponent has a bias larger by 120; the multiplication also normalizes subnormals.
__device__ __forceinline__ float e4m3(unsigned word, unsigned i) {
    const int top = static_cast<int>(__byte_perm(word, 0, 0x0444u | i << 12));
    const float value = __uint_as_float(static_cast<unsigned>(top >> 4) & 0x87f00000u) * 0x1p120f;
    // The code of NaN would be the next value after the largest, 448.
    return fabsf(value) == 480.0f ? __uint_as_float(0x7fc00000u) : value;
}

// The E2M1 code in nibble i of a word, in the same way.
__device__ __forceinline__ float e2m1(unsigned word, unsigned i) {
    const int top = static_cast<int>(word << (28 - 4 * i));
    return __uint_as_float(static_cast<unsigned>(top >> 6) & 0x81c00000u) * 0x1p126f;
}

// scale·(byte − Bias) for eight bytes, the first in the lowest byte of x.
template <unsigned Bias> __device__ __forceinline__ Vec<8> scaled(uint2 bytes, float scale) {
    Vec<8> to;
#pragma unroll
    for (unsigned i = 0; i < 8; i++) to.value[i] = scale * integer<Bias>(i < 4 ? bytes.x : bytes.y, i % 4);
    return to;
}

// Some bits of each byte, from bit `shift` on.
__device__ __forceinline__ uint2 bits(uint2 bytes, unsigned shift, unsigned mask) {
    return make_uint2(bytes.x >> shift & mask, bytes.y >> shift & mask);
}

// Bytes whose low nibbles are `low` and whose high nibbles are `high`.
__device__ __forceinline__ uint2 join(uint2 low, uint2 high) {
    return make_uint2(low.x | high.x << 4, low.y | high.y << 4);
}

constexpr unsigned NIBBLES = 0x0f0f0f0f;

// ---- loads --------------------------------------------------------------------------------------

__device__ __forceinline__ unsigned short load_half(const unsigned char *from) {
    return *reinterpret_cast<const unsigned short *>(from);
}

__device__ __forceinline__ uint2 load_bytes8(const unsigned char *from) {
    return *reinterpret_cast<const uint2 *>(from);
}

// Eight bytes at an even address, from the aligned words that hold them.
__device__ __forceinline__ uint2 load_even8(const unsigned char *from) {
    const unsigned odd = static_cast<unsigned>(reinterpret_cast<u64>(from)) & 2;
    const unsigned *words = reinterpret_cast<const unsigned *>(from - odd);
    const unsigned first = words[0], second = words[1], last = words[odd ? 2 : 1];
    return make_uint2(__funnelshift_r(first, second, 8 * odd), __funnelshift_r(second, last, 8 * odd));
}

// ---- formats ------------------------------------------------------------------------------------

// Sixteen elements of a row as they are stored, in registers: eight from `column` on, a multiple of
// 8, and eight from `column + DISTANCE` on. The nibbles of a byte are that far apart; elsewhere a
// quarter of a warp stores 128 contiguous bytes. `load` reads those that are before column `end`,
// `values` converts them.
template <unsigned Format> struct Sixteen;

// The column of unit `unit` of a row.
template <unsigned Format> __device__ __forceinline__ unsigned unit_column(unsigned unit) {
    constexpr unsigned VECTORS = Sixteen<Format>::DISTANCE / 8;
    return unit / VECTORS * (2 * VECTORS * 8) + unit % VECTORS * 8;
}

template <> struct Sixteen<Q4_0> {
    static constexpr unsigned DISTANCE = 16;
    uint2 bytes;
    unsigned short d;

    __device__ __forceinline__ void load(const QuantizedRows &from, unsigned row, unsigned column, unsigned) {
        const unsigned char *block = from.at(row, column / 32 * 18);
        d = load_half(block);
        bytes = load_even8(block + 2 + column % 32);
    }

    __device__ __forceinline__ void values(Vec<8> (&to)[2], unsigned) const {
        const float scale = float_from_f16(d);
        to[0] = scaled<8>(bits(bytes, 0, NIBBLES), scale);
        to[1] = scaled<8>(bits(bytes, 4, NIBBLES), scale);
    }
};

template <> struct Sixteen<Q8_0> {
    static constexpr unsigned DISTANCE = 64;
    uint2 bytes[2];
    unsigned short d[2];

    __device__ __forceinline__ void load(const QuantizedRows &from, unsigned row, unsigned column, unsigned end) {
#pragma unroll
        for (unsigned i = 0; i < 2; i++, column += DISTANCE) {
            if (column >= end) break;
            const unsigned char *block = from.at(row, column / 32 * 34);
            d[i] = load_half(block);
            bytes[i] = load_even8(block + 2 + column % 32);
        }
    }

    __device__ __forceinline__ void values(Vec<8> (&to)[2], unsigned) const {
        // A signed byte with its sign bit flipped is larger by 128.
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            const uint2 flipped = make_uint2(bytes[i].x ^ 0x80808080u, bytes[i].y ^ 0x80808080u);
            to[i] = scaled<128>(flipped, float_from_f16(d[i]));
        }
    }
};

// The first 16 bytes of a super-block of Q4_K and Q5_K: d, dmin, and 6-bit scales and minima.
struct GroupScales {
    uint4 words;

    // (d·sc)·byte − (dmin·m) with the scales and minima of the groups 2·pair and 2·pair + 1, whose
    // bytes are next to each other. (d·sc)·byte has 22 bits at most, so fmaf rounds as the two
    // operations do.
    __device__ __forceinline__ void apply(Vec<8> (&to)[2], const uint2 (&bytes)[2], unsigned pair) const {
        const unsigned shift = pair % 2 * 16;
        const unsigned first = words.y >> shift, second = words.z >> shift, third = words.w >> shift;
        const unsigned sc = pair < 2 ? first & 0x3f3f : (third & 0x0f0f) | (first >> 2 & 0x3030);
        const unsigned m = pair < 2 ? second & 0x3f3f : (third >> 4 & 0x0f0f) | (second >> 2 & 0x3030);
        const float d = float_from_f16(static_cast<unsigned short>(words.x));
        const float dmin = float_from_f16(static_cast<unsigned short>(words.x >> 16));
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            const float scale = __fmul_rn(d, integer<0>(sc, i)), minimum = __fmul_rn(dmin, integer<0>(m, i));
#pragma unroll
            for (unsigned j = 0; j < 8; j++) {
                to[i].value[j] = fmaf(scale, integer<0>(j < 4 ? bytes[i].x : bytes[i].y, j % 4), -minimum);
            }
        }
    }
};

template <> struct Sixteen<Q4_K> {
    static constexpr unsigned DISTANCE = 32;
    GroupScales scales;
    uint2 bytes;

    __device__ __forceinline__ void load(const QuantizedRows &from, unsigned row, unsigned column, unsigned) {
        const unsigned char *block = from.at(row, column / 256 * 144);
        scales.words = *reinterpret_cast<const uint4 *>(block);
        bytes = load_bytes8(block + 16 + column % 256 / 64 * 32 + column % 32);
    }

    __device__ __forceinline__ void values(Vec<8> (&to)[2], unsigned column) const {
        scales.apply(to, {bits(bytes, 0, NIBBLES), bits(bytes, 4, NIBBLES)}, column % 256 / 64);
    }
};

template <> struct Sixteen<Q5_K> {
    static constexpr unsigned DISTANCE = 32;
    GroupScales scales;
    uint2 high, bytes;

    __device__ __forceinline__ void load(const QuantizedRows &from, unsigned row, unsigned column, unsigned) {
        const unsigned char *block = from.at(row, column / 256 * 176);
        scales.words = *reinterpret_cast<const uint4 *>(block);
        high = load_bytes8(block + 16 + column % 32);
        bytes = load_bytes8(block + 48 + column % 256 / 64 * 32 + column % 32);
    }

    __device__ __forceinline__ void values(Vec<8> (&to)[2], unsigned column) const {
        const unsigned pair = column % 256 / 64, ones = 0x01010101;
        scales.apply(to,
                     {join(bits(bytes, 0, NIBBLES), bits(high, 2 * pair, ones)),
                      join(bits(bytes, 4, NIBBLES), bits(high, 2 * pair + 1, ones))},
                     pair);
    }
};

template <> struct Sixteen<Q6_K> {
    static constexpr unsigned DISTANCE = 64;
    uint2 low, high;
    unsigned short d;
    signed char scale[2];

    __device__ __forceinline__ void load(const QuantizedRows &from, unsigned row, unsigned column, unsigned) {
        const unsigned char *block = from.at(row, column / 256 * 210);
        const unsigned half = column % 256 / 128;
        low = load_even8(block + half * 64 + column % 64);
        high = load_even8(block + 128 + half * 32 + column % 32);
        const unsigned char *group = block + 192 + column % 256 / 16;
        scale[0] = static_cast<signed char>(group[0]), scale[1] = static_cast<signed char>(group[DISTANCE / 16]);
        d = load_half(block + 208);
    }

    __device__ __forceinline__ void values(Vec<8> (&to)[2], unsigned column) const {
        // Run 0 or 1 of the half; the second vector is of run 2 or 3.
        const unsigned run = column % 64 / 32, twos = 0x03030303;
        const float factor = float_from_f16(d);
        to[0] = scaled<32>(join(bits(low, 0, NIBBLES), bits(high, 2 * run, twos)), factor * scale[0]);
        to[1] = scaled<32>(join(bits(low, 4, NIBBLES), bits(high, 2 * run + 4, twos)), factor * scale[1]);
    }
};

// Sixteen E4M3 codes.
struct Codes16 {
    static constexpr unsigned DISTANCE = 64;
    uint2 bytes[2];

    __device__ __forceinline__ void load_codes(const QuantizedRows &from, unsigned row, unsigned column, unsigned end) {
        bytes[0] = load_bytes8(from.at(row, column));
        if (column + DISTANCE < end) bytes[1] = load_bytes8(from.at(row, column + DISTANCE));
    }

    __device__ __forceinline__ void multiply(Vec<8> (&to)[2], float first, float second) const {
#pragma unroll
        for (unsigned i = 0; i < 8; i++) {
            to[0].value[i] = e4m3(i < 4 ? bytes[0].x : bytes[0].y, i % 4) * first;
            to[1].value[i] = e4m3(i < 4 ? bytes[1].x : bytes[1].y, i % 4) * second;
        }
    }
};

template <> struct Sixteen<F8_E4M3> : Codes16 {
    float scale;

    __device__ __forceinline__ void load(const QuantizedRows &from, unsigned row, unsigned column, unsigned end) {
        load_codes(from, row, column, end);
        scale = from.tensor_scale;
    }

    __device__ __forceinline__ void values(Vec<8> (&to)[2], unsigned) const {
        multiply(to, scale, scale);
    }
};

template <> struct Sixteen<F8_E4M3_ROWS> : Codes16 {
    float scale;

    __device__ __forceinline__ void load(const QuantizedRows &from, unsigned row, unsigned column, unsigned end) {
        load_codes(from, row, column, end);
        scale = static_cast<const float *>(from.scales)[row];
    }

    __device__ __forceinline__ void values(Vec<8> (&to)[2], unsigned) const {
        multiply(to, scale, scale);
    }
};

template <> struct Sixteen<MXFP8> : Codes16 {
    unsigned scale[2];

    __device__ __forceinline__ void load(const QuantizedRows &from, unsigned row, unsigned column, unsigned end) {
        load_codes(from, row, column, end);
        scale[0] = from.block_scale(row, column / 32);
        if (column + DISTANCE < end) scale[1] = from.block_scale(row, (column + DISTANCE) / 32);
    }

    __device__ __forceinline__ void values(Vec<8> (&to)[2], unsigned) const {
        // E8M0 is the exponent of a float.
        multiply(to, __uint_as_float(scale[0] << 23), __uint_as_float(scale[1] << 23));
    }
};

template <> struct Sixteen<NVFP4> {
    static constexpr unsigned DISTANCE = 64;
    unsigned codes[2], block[2];
    float tensor_scale;

    __device__ __forceinline__ void load(const QuantizedRows &from, unsigned row, unsigned column, unsigned end) {
        tensor_scale = from.tensor_scale;
#pragma unroll
        for (unsigned i = 0; i < 2; i++, column += DISTANCE) {
            if (column >= end) break;
            codes[i] = *reinterpret_cast<const unsigned *>(from.at(row, column / 2));
            block[i] = from.block_scale(row, column / 16);
        }
    }

    __device__ __forceinline__ void values(Vec<8> (&to)[2], unsigned) const {
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            const float scale = tensor_scale * e4m3(block[i], 0);
            // The even column is in the high nibble.
#pragma unroll
            for (unsigned j = 0; j < 8; j++) to[i].value[j] = e2m1(codes[i], j ^ 1) * scale;
        }
    }
};
