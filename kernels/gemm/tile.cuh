// Tiled GEMM on tensor cores, C[m, n] = Σₖ A[m, k]·W[n, k]: mma.sync on a ring filled by cp.async.
//
// Grid: one CTA per tile of TILE_M × TILE_N, WARPS_M × WARPS_N warps, each with its part of the
//   tile.
// Pipeline: a ring of STAGES stages in shared memory, each 32 along k. All threads load stage
//   s + STAGES - 1 while stage s is multiplied.
// Swizzle: 16-byte chunks of a row are permuted (`chunk`), so that the eight rows of an ldmatrix
//   lie in different banks.
//
// An op passes an `Epilogue` (gemm/epilogue.cuh) and
//   A:  struct Row;  Row row(unsigned m);  void load(bf16 *to, const Row &, unsigned k): copies
//       eight values of a row from k on to shared memory, by cp_async_16 or by a store; zeros past
//       the ends of m and k.
#pragma once

#include "common/ptx/cp_async.cuh"
#include "common/ptx/mma.cuh"
#include "common/vec.cuh"
#include "gemm/epilogue.cuh"

// ALIGNED_OUT: rows of the output are a multiple of 8.
#ifndef TILE_M
#define TILE_M 128
#define TILE_N 128
#define WARPS_M 2
#define WARPS_N 4
#define STAGES 4
#define ALIGNED_OUT 1
#endif

constexpr unsigned TILE_K = 32, CHUNKS = TILE_K / 8;
constexpr unsigned THREADS = 32 * WARPS_M * WARPS_N;
// Elements of a stage.
constexpr unsigned A_SIZE = TILE_M * TILE_K, W_SIZE = TILE_N * TILE_K, STAGE_SIZE = A_SIZE + W_SIZE;
// A warp's part of the tile, in fragments of 16 rows and of 8 columns.
constexpr unsigned FRAGMENTS_M = TILE_M / WARPS_M / 16, FRAGMENTS_N = TILE_N / WARPS_N / 8;
// Rows of A and of W that a thread loads.
constexpr unsigned ROWS_A = (TILE_M * CHUNKS + THREADS - 1) / THREADS,
                   ROWS_W = (TILE_N * CHUNKS + THREADS - 1) / THREADS;
// CTAs go down this many tiles of m before the next tile of n: a wave shares its rows and columns
// in the L2.
constexpr unsigned BAND = 8;

static_assert(TILE_M % (16 * WARPS_M) == 0 && TILE_N % (16 * WARPS_N) == 0, "fragments of W are loaded two at a time");
static_assert(THREADS % CHUNKS == 0, "a thread loads the same chunk of every row");

// The offset of chunk c of a row in shared memory, in elements.
__device__ __forceinline__ unsigned chunk(unsigned row, unsigned c) {
    return (row * CHUNKS + (c ^ (row / 2 % CHUNKS))) * 8;
}

// The first row and column of a CTA's tile.
__device__ __forceinline__ uint2 tile_origin(unsigned cta, unsigned m, unsigned n) {
    const unsigned tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1) / TILE_N;
    const unsigned band = cta / (BAND * tiles_n);
    const unsigned height = min(BAND, tiles_m - BAND * band);
    const unsigned inside = cta % (BAND * tiles_n);
    return make_uint2((BAND * band + inside % height) * TILE_M, inside / height * TILE_N);
}

// W `[n, stride]` has zeros from column k on; out `[m, out_width]`.
template <class A, class E>
__device__ __forceinline__ void gemm(const A &a, const bf16 *weights, unsigned stride, unsigned m, unsigned n,
                                     unsigned k, const E &epilogue, bf16 *out, unsigned out_width) {
    extern __shared__ __align__(1024) unsigned char smem[];
    bf16 *ring = reinterpret_cast<bf16 *>(smem);
    const unsigned thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const uint2 origin = tile_origin(blockIdx.x, m, n);

    // A thread loads chunk `part` of these rows in every step.
    const unsigned part = thread % CHUNKS, first = thread / CHUNKS;
    typename A::Row rows[ROWS_A];
#pragma unroll
    for (unsigned i = 0; i < ROWS_A; i++) rows[i] = a.row(origin.x + first + i * (THREADS / CHUNKS));
    const bf16 *w_rows[ROWS_W];
    bool exists[ROWS_W];
#pragma unroll
    for (unsigned i = 0; i < ROWS_W; i++) {
        const unsigned column = origin.y + first + i * (THREADS / CHUNKS);
        exists[i] = column < n;
        w_rows[i] = weights + static_cast<u64>(exists[i] ? column : 0) * stride;
    }
    auto load = [&](unsigned step) {
        bf16 *stage = ring + step % STAGES * STAGE_SIZE;
        const unsigned at = step * TILE_K + part * 8;
#pragma unroll
        for (unsigned i = 0; i < ROWS_A; i++) {
            const unsigned row = first + i * (THREADS / CHUNKS);
            if (TILE_M * CHUNKS % THREADS == 0 || row < TILE_M) a.load(stage + chunk(row, part), rows[i], at);
        }
#pragma unroll
        for (unsigned i = 0; i < ROWS_W; i++) {
            const unsigned row = first + i * (THREADS / CHUNKS);
            const bool take = exists[i] && at < stride;
            if (TILE_N * CHUNKS % THREADS == 0 || row < TILE_N) {
                cp_async_16(stage + A_SIZE + chunk(row, part), w_rows[i] + (take ? at : 0), take ? 16 : 0);
            }
        }
    };

    float acc[FRAGMENTS_M][FRAGMENTS_N][4] = {};
    const unsigned steps = (k + TILE_K - 1) / TILE_K;
#pragma unroll
    for (unsigned step = 0; step < STAGES - 1; step++) {
        if (step < steps) load(step);
        cp_async_commit();
    }
    const unsigned warp_m = warp / WARPS_N * (TILE_M / WARPS_M), warp_n = warp % WARPS_N * (TILE_N / WARPS_N);
    for (unsigned step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        // This step has landed for all threads, and all are done with the stage that the next load
        // overwrites.
        __syncthreads();
        if (step + STAGES - 1 < steps) load(step + STAGES - 1);
        cp_async_commit();
        const bf16 *stage_a = ring + step % STAGES * STAGE_SIZE, *stage_w = stage_a + A_SIZE;
#pragma unroll
        for (unsigned inner = 0; inner < TILE_K / 16; inner++) {
            unsigned a_fragments[FRAGMENTS_M][4], w_fragments[FRAGMENTS_N][2];
#pragma unroll
            for (unsigned i = 0; i < FRAGMENTS_M; i++) {
                ldmatrix_x4(a_fragments[i], stage_a + chunk(warp_m + 16 * i + lane % 16, 2 * inner + lane / 16));
            }
#pragma unroll
            for (unsigned j = 0; j < FRAGMENTS_N; j += 2) {
                unsigned both[4];
                ldmatrix_x4(both, stage_w + chunk(warp_n + 8 * j + lane / 16 * 8 + lane % 8, 2 * inner + lane / 8 % 2));
                w_fragments[j][0] = both[0], w_fragments[j][1] = both[1];
                w_fragments[j + 1][0] = both[2], w_fragments[j + 1][1] = both[3];
            }
#pragma unroll
            for (unsigned i = 0; i < FRAGMENTS_M; i++) {
#pragma unroll
                for (unsigned j = 0; j < FRAGMENTS_N; j++) {
                    mma_m16n8k16_bf16(acc[i][j], a_fragments[i], w_fragments[j]);
                }
            }
        }
    }

    // The output passes through shared memory, so that a thread stores 16 bytes of a row.
    constexpr unsigned OUT_N = TILE_N * E::OUT_PER_PAIR / 2, OUT_STRIDE = OUT_N + 8;
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < FRAGMENTS_M; i++) {
#pragma unroll
        for (unsigned j = 0; j < FRAGMENTS_N; j++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned row = warp_m + 16 * i + 8 * half + lane / 4, column = warp_n + 8 * j + lane % 4 * 2;
                if (origin.x + row >= m || origin.y + column >= n) continue;
                const unsigned word =
                    epilogue.pair(origin.x + row, origin.y + column, acc[i][j][2 * half], acc[i][j][2 * half + 1]);
                if (E::OUT_PER_PAIR == 2) {
                    *reinterpret_cast<unsigned *>(ring + row * OUT_STRIDE + column) = word;
                } else {
                    ring[row * OUT_STRIDE + column / 2].bits = static_cast<unsigned short>(word);
                }
            }
        }
    }
    __syncthreads();
    const unsigned width = n * E::OUT_PER_PAIR / 2, start = origin.y * E::OUT_PER_PAIR / 2;
    for (unsigned at = thread; at < TILE_M * (OUT_N / 8); at += THREADS) {
        const unsigned row = at / (OUT_N / 8), column = at % (OUT_N / 8) * 8;
        if (origin.x + row < m && start + column < width) {
            const bf16 *from = ring + row * OUT_STRIDE + column;
            store8<ALIGNED_OUT>(out + static_cast<u64>(origin.x + row) * out_width, start + column, out_width, from);
        }
    }
}

// A row-major matrix `[m, k]` of BF16. Aligned: k is a multiple of 8.
template <bool Aligned> struct RowMajor {
    const bf16 *x;
    unsigned m, k;

    struct Row {
        const bf16 *start;
        unsigned k;
    };

    __device__ __forceinline__ Row row(unsigned at) const {
        return Row{x + static_cast<u64>(at < m ? at : 0) * k, at < m ? k : 0};
    }

    __device__ __forceinline__ void load(bf16 *to, const Row &row, unsigned at) const {
        const bool take = at < row.k;
        if (Aligned) {
            cp_async_16(to, row.start + (take ? at : 0), take ? 16 : 0);
        } else {
            for (unsigned i = 0; i < 8; i++) to[i] = at + i < row.k ? row.start[at + i] : bf16{0};
        }
    }
};
