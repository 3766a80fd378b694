// mma.sync with operands loaded from global memory straight into the fragments: for matrices that
// are read once, or that stay in the L1.
//
// A lane's fragment has pairs of values along k that are apart in memory. The sum over k may be
// taken in any order, so a lane loads eight neighbouring values instead, 16 bytes, of both operands
// alike: lane i those from 8·(i%4) on of row i/4. Four lanes read 64 bytes of a row; a step is 32
// along k, two mma.
#pragma once

#include "common/ptx/mma.cuh"
#include "common/vec.cuh"

constexpr unsigned STEP = 32;

// Loads eight values of a row of `k` from `at` on, zeros past its end.
template <bool Aligned> __device__ __forceinline__ uint4 load_fragment(const bf16 *row, unsigned at, unsigned k) {
    if (Aligned) return at < k ? *reinterpret_cast<const uint4 *>(row + at) : make_uint4(0, 0, 0, 0);
    Vec<8> values;
#pragma unroll
    for (unsigned i = 0; i < 8; i++) values.value[i] = at + i < k ? to_float(row[at + i]) : 0.0f;
    return pack(values);
}

// acc += A·Wᵀ with 16 rows of A (a: this lane's row, a_below: eight rows below) and eight rows of
// W.
__device__ __forceinline__ void mma_step(float (&acc)[4], uint4 a, uint4 a_below, uint4 w) {
    const unsigned first[4] = {a.x, a_below.x, a.y, a_below.y}, second[4] = {a.z, a_below.z, a.w, a_below.w};
    const unsigned first_w[2] = {w.x, w.y}, second_w[2] = {w.z, w.w};
    mma_m16n8k16_bf16(acc, first, first_w);
    mma_m16n8k16_bf16(acc, second, second_w);
}
