// Parts that the attention kernels share.
#pragma once

#include "common/math.cuh"
#include "common/ptx/cp_async.cuh"
#include "common/types.cuh"

// The first row_max: less than any score, and differences to it do not overflow.
constexpr float MIN_ROW_MAX = -1e30f;

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
