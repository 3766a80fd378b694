// Parts that the attention kernels share.
#pragma once

#include "common/math.cuh"
#include "common/ptx/cp_async.cuh"
#include "common/types.cuh"

// The first row_max: less than any score, and differences to it do not overflow.
constexpr float MIN_ROW_MAX = -1e30f;

// The scale of a block of values in the loops of attention. It is no factor of the values: its
// logarithm is added to the block's scores, so a probability is that of the softmax times the
// scale, and the sum of the block's probabilities is divided by it. Both are exact for a power of
// two. The output is the quotient of the two sums as ever.
struct ValueScale {
    float log2, inverse;

    __device__ __forceinline__ ValueScale(float scale) {
        const unsigned exponent = __float_as_uint(scale) >> 23;
        log2 = static_cast<float>(static_cast<int>(exponent) - 127);
        inverse = __uint_as_float((254 - exponent) << 23);
    }
};

// Probabilities in FP8 are relative to a power of two, the least that is no less than any so far,
// in units of 2^-PROBABILITY_SHIFT: the largest code is from 128 to 256. Normal codes reach down to
// 2^-14 of the power, and only below 2^-18 a probability becomes 0, so the sum of thousands of
// small ones keeps its weight. The significand that a probability is rounded to does not depend on
// the power, nor on the order of the keys. The sum of a row is that before rounding.
constexpr float PROBABILITY_SHIFT = 8.0f;

// A register of the left operand of p·v: the codes of exp2(score·scale + base) for the scores that
// a lane has of one row in two neighbouring blocks of 8 keys, in the order of value_place
// (common/fp8.cuh). Adds the exponentials to `sum`.
__device__ __forceinline__ unsigned probability_codes(const float *low, const float *high, float scale, float base,
                                                      float &sum) {
    const float a = exp2_approx(low[0] * scale + base), b = exp2_approx(low[1] * scale + base);
    const float next_a = exp2_approx(high[0] * scale + base), next_b = exp2_approx(high[1] * scale + base);
    sum += (a + b) + (next_a + next_b);
    return e4m3x2_from_floats(a, next_a) | static_cast<unsigned>(e4m3x2_from_floats(b, next_b)) << 16;
}

// Starts to copy Rows rows of a head to shared memory by a CTA of Threads: rows from `first` on,
// zeros from row `end` on and from column Head to Width. Layout::address(to, row, column) is that
// of eight elements. Aligned: Head is a multiple of 8.
template <class Layout, unsigned Rows, unsigned Head, unsigned Width, unsigned Threads, bool Aligned>
__device__ __forceinline__ void load_head(bf16 *to, const bf16 *from, u64 stride, unsigned first, unsigned end) {
    constexpr unsigned PARTS = Width / 8;
    for (unsigned at = threadIdx.x; at < Rows * PARTS; at += Threads) {
        const unsigned row = at / PARTS, column = at % PARTS * 8;
        bf16 *eight = Layout::address(to, row, column);
        const bf16 *source = from + (first + row) * stride + column;
        if (Aligned) {
            const bool take = first + row < end && column < Head;
            cp_async_16(eight, take ? source : from, take ? 16 : 0);
        } else {
            for (unsigned i = 0; i < 8; i++) {
                eight[i] = first + row < end && column + i < Head ? source[i] : bf16{0};
            }
        }
    }
}
