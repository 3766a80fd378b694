// Skinny GEMM for up to 8 rows, C[m, n] = Σₖ A[m, k]·W[n, k], bound by the bandwidth of reading W.
//
// Grid: (n / 8, m / ROWS), 4 warps. A warp computes two neighbouring columns of ROWS rows, its
// lanes side by side along k.
// An op passes
//   A:         void load8(Vec<8> &to, m, k): eight values of a row from k on, zeros past its end;
//   Epilogue:  void store_pair(m, n, a, b): stores columns n and n + 1, as far as they exist.
#pragma once

#include "common/reduce.cuh"
#include "common/vec.cuh"

#ifndef ROWS
#define ROWS 8
#endif

constexpr unsigned WARPS = 4;

template <class A, class Epilogue>
__device__ __forceinline__ void gemv(const A &a, const bf16 *weights, unsigned stride, unsigned m, unsigned n,
                                     unsigned k, const Epilogue &epilogue) {
    const unsigned lane = threadIdx.x % 32, column = 2 * (blockIdx.x * WARPS + threadIdx.x / 32);
    const unsigned first = blockIdx.y * ROWS;
    if (column >= n) return;
    const bf16 *row0 = weights + static_cast<u64>(column) * stride, *row1 = column + 1 < n ? row0 + stride : row0;
    float acc[ROWS][2] = {};
    for (unsigned at = 8 * lane; at < k; at += 8 * 32) {
        Vec<8> w[2];
        load_vec(w[0], row0 + at);
        load_vec(w[1], row1 + at);
#pragma unroll
        for (unsigned row = 0; row < ROWS; row++) {
            Vec<8> x;
            a.load8(x, first + row < m ? first + row : 0, at);
#pragma unroll
            for (unsigned i = 0; i < 8; i++) {
                acc[row][0] += x.value[i] * w[0].value[i];
                acc[row][1] += x.value[i] * w[1].value[i];
            }
        }
    }
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) {
        const float sum0 = lane_sum<32>(acc[row][0]), sum1 = lane_sum<32>(acc[row][1]);
        if (lane == 0 && first + row < m) epilogue.store_pair(first + row, column, sum0, sum1);
    }
}

// A row-major matrix `[m, k]` of BF16. Aligned: k is a multiple of 8.
template <bool Aligned> struct RowMajor {
    const bf16 *x;
    unsigned k;

    __device__ __forceinline__ void load8(Vec<8> &to, unsigned row, unsigned at) const {
        const bf16 *from = x + static_cast<u64>(row) * k + at;
        if (Aligned) {
            load_vec(to, from);
        } else {
#pragma unroll
            for (unsigned i = 0; i < 8; i++) to.value[i] = at + i < k ? to_float(from[i]) : 0.0f;
        }
    }
};

// x·Wᵀ + bias to a row-major matrix `[m, n]` of BF16.
template <bool HasBias> struct StoreBias {
    bf16 *out;
    const float *bias;
    unsigned n;

    __device__ __forceinline__ void store_pair(unsigned row, unsigned column, float a, float b) const {
        bf16 *to = out + static_cast<u64>(row) * n + column;
        to[0] = to_bf16(HasBias ? a + bias[column] : a);
        if (column + 1 < n) to[1] = to_bf16(HasBias ? b + bias[column + 1] : b);
    }
};
