// Tiled GEMM on tensor cores, C[m, n] = Σₖ A[m, k]·W[n, k]: mma.sync on a ring filled by cp.async.
// A and W are BF16 or E4M3 (gemm/operand.cuh).
//
// Grid: one CTA per tile of TILE_M × TILE_N, WARPS_M × WARPS_N warps, each with its part of the
//   tile.
// Pipeline: a ring of STAGES stages in shared memory, each TILE_K along k. All threads load stage
//   s + STAGES - 1 while stage s is multiplied.
// Swizzle: 16-byte chunks of a row are permuted (`chunk`), so that the eight rows of an ldmatrix
//   lie in different banks.
//
// An op passes an `Epilogue` (gemm/epilogue.cuh) and
//   A:  struct Row;  Row row(unsigned m);  void load(Operand *to, const Row &, unsigned k): copies
//       16 bytes of a row from k on to shared memory, by cp_async_16 or by a store; zeros past the
//       ends of m and k.
#pragma once

#include "common/ptx/cp_async.cuh"
#include "common/ptx/mma.cuh"
#include "common/reduce.cuh"
#include "common/vec.cuh"
#include "gemm/epilogue.cuh"
#include "gemm/operand.cuh"

// ALIGNED_OUT: rows of the output are a multiple of 8.
#ifndef TILE_M
#define TILE_M 128
#define TILE_N 128
#define WARPS_M 2
#define WARPS_N 4
#define STAGES 4
#define ALIGNED_OUT 1
#endif

// Elements of a chunk of 16 bytes, chunks of a row of a stage, and elements of one mma along k.
constexpr unsigned CHUNK = 16 / sizeof(Operand), CHUNKS = 4, TILE_K = CHUNKS * CHUNK, MMA_K = 2 * CHUNK;
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
    return (row * CHUNKS + (c ^ (row / 2 % CHUNKS))) * CHUNK;
}

// The first row and column of a CTA's tile.
__device__ __forceinline__ uint2 tile_origin(unsigned cta, unsigned m, unsigned n) {
    const unsigned tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1) / TILE_N;
    const unsigned band = cta / (BAND * tiles_n);
    const unsigned height = min(BAND, tiles_m - BAND * band);
    const unsigned inside = cta % (BAND * tiles_n);
    return make_uint2((BAND * band + inside % height) * TILE_M, inside / height * TILE_N);
}

// acc += a·b, over 32 bytes of their rows.
__device__ __forceinline__ void multiply(float (&acc)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    if constexpr (IS_FP8) {
        mma_m16n8k32_e4m3(acc, a, b);
    } else {
        mma_m16n8k16_bf16(acc, a, b);
    }
}

// A thread, and the first row and column of its warp's part of the tile.
struct WarpTile {
    unsigned thread, lane, m, n;
};

// Loads the fragments of mma number `inner` of a step.
__device__ __forceinline__ void load_fragments(unsigned (&a_fragments)[FRAGMENTS_M][4],
                                               unsigned (&w_fragments)[FRAGMENTS_N][2], const Operand *stage_a,
                                               const Operand *stage_w, const WarpTile &own, unsigned inner) {
#pragma unroll
    for (unsigned i = 0; i < FRAGMENTS_M; i++) {
        ldmatrix_x4(a_fragments[i], stage_a + chunk(own.m + 16 * i + own.lane % 16, 2 * inner + own.lane / 16));
    }
#pragma unroll
    for (unsigned j = 0; j < FRAGMENTS_N; j += 2) {
        unsigned both[4];
        const unsigned row = own.n + 8 * j + own.lane / 16 * 8 + own.lane % 8;
        ldmatrix_x4(both, stage_w + chunk(row, 2 * inner + own.lane / 8 % 2));
        w_fragments[j][0] = both[0], w_fragments[j][1] = both[1];
        w_fragments[j + 1][0] = both[2], w_fragments[j + 1][1] = both[3];
    }
}

// A thread's sums: a fragment i has the rows 16·i and 16·i + 8 past the warp's first one plus
// lane / 4, where acc[i] has the layout that Epilogue::transform takes.
typedef float Sums[FRAGMENTS_M][FRAGMENTS_N][4];

// The two rows of fragment i, where the warp's first row is `first`.
struct FragmentRows {
    unsigned row[2];

    __device__ __forceinline__ FragmentRows(unsigned first, unsigned i, unsigned m) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const unsigned at = first + 16 * i + 8 * half + threadIdx.x % 32 / 4;
            row[half] = at < m ? at : NO_ROW;
        }
    }
};

// The scales of a block of A for the rows of a thread.
struct RowScales {
    float value[FRAGMENTS_M][2];

    template <class E>
    __device__ __forceinline__ void load(const E &epilogue, unsigned first, unsigned m, unsigned block) {
#pragma unroll
        for (unsigned i = 0; i < FRAGMENTS_M; i++) {
            const FragmentRows rows(first, i, m);
#pragma unroll
            for (unsigned half = 0; half < 2; half++) value[i][half] = epilogue.x_scale(rows.row[half], block);
        }
    }

    // Brings sums that are in units of these scales to units of others, and takes these over.
    __device__ __forceinline__ void change(Sums &acc, const RowScales &to) {
#pragma unroll
        for (unsigned i = 0; i < FRAGMENTS_M; i++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                if (value[i][half] == to.value[i][half]) continue;
                const float factor = value[i][half] / to.value[i][half];
#pragma unroll
                for (unsigned j = 0; j < FRAGMENTS_N; j++) {
                    acc[i][j][2 * half] *= factor;
                    acc[i][j][2 * half + 1] *= factor;
                }
                value[i][half] = to.value[i][half];
            }
        }
    }
};

// Stores a tile to `[m, out_width]`. It passes through shared memory, so that a thread stores 16
// bytes of a row.
template <class E>
__device__ __forceinline__ void store_tile(const Sums &acc, uint2 origin, const WarpTile &own, unsigned m, unsigned n,
                                           unsigned char *smem, const E &epilogue, bf16 *out, unsigned out_width) {
    constexpr unsigned OUT_N = TILE_N * E::OUT_PER_PAIR / 2, OUT_STRIDE = OUT_N + 8;
    const unsigned lane = own.lane;
    bf16 *buffer = reinterpret_cast<bf16 *>(smem);
#pragma unroll
    for (unsigned i = 0; i < FRAGMENTS_M; i++) {
#pragma unroll
        for (unsigned j = 0; j < FRAGMENTS_N; j++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned row = own.m + 16 * i + 8 * half + lane / 4, column = own.n + 8 * j + lane % 4 * 2;
                if (origin.x + row >= m || origin.y + column >= n) continue;
                const unsigned word =
                    epilogue.pair(origin.x + row, origin.y + column, acc[i][j][2 * half], acc[i][j][2 * half + 1]);
                if (E::OUT_PER_PAIR == 2) {
                    *reinterpret_cast<unsigned *>(buffer + row * OUT_STRIDE + column) = word;
                } else {
                    buffer[row * OUT_STRIDE + column / 2].bits = static_cast<unsigned short>(word);
                }
            }
        }
    }
    __syncthreads();
    const unsigned width = n * E::OUT_PER_PAIR / 2, start = origin.y * E::OUT_PER_PAIR / 2;
    for (unsigned at = own.thread; at < TILE_M * (OUT_N / 8); at += THREADS) {
        const unsigned row = at / (OUT_N / 8), column = at % (OUT_N / 8) * 8;
        if (origin.x + row < m && start + column < width) {
            const bf16 *from = buffer + row * OUT_STRIDE + column;
            store8<ALIGNED_OUT>(out + static_cast<u64>(origin.x + row) * out_width, start + column, out_width, from);
        }
    }
}

// Quantises a tile of SCALE_BLOCK output columns and stores it to `[m, out_width]`, with its
// scales. The maximum of a row crosses the warps through shared memory.
template <class E>
__device__ __forceinline__ void store_tile(const Sums &acc, uint2 origin, const WarpTile &own, unsigned m, unsigned,
                                           unsigned char *smem, const E &epilogue, fp8 *out, unsigned out_width) {
    static_assert(TILE_N == 2 * SCALE_BLOCK || !E::OUT_FP8, "a tile has one scale a row");
    static_assert(FRAGMENTS_N % 4 == 0 || !E::OUT_FP8, "a lane has whole words");
    constexpr unsigned OUT_STRIDE = SCALE_BLOCK + 16;
    const unsigned lane = own.lane, warp_column = own.thread / 32 % WARPS_N;
    float(*maxima)[TILE_M] = reinterpret_cast<float(*)[TILE_M]>(smem);
    fp8 *buffer = reinterpret_cast<fp8 *>(maxima + WARPS_N);
#pragma unroll
    for (unsigned i = 0; i < FRAGMENTS_M; i++) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            // Past column n are zeros, or NaN, which the maximum ignores.
            float amax = 0.0f;
#pragma unroll
            for (unsigned j = 0; j < FRAGMENTS_N; j++) amax = fmaxf(amax, fabsf(acc[i][j][2 * half]));
            amax = lane_max<4>(amax);
            if (lane % 4 == 0) maxima[warp_column][own.m + 16 * i + 8 * half + lane / 4] = amax;
        }
    }
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < FRAGMENTS_M; i++) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const unsigned row = own.m + 16 * i + 8 * half + lane / 4;
            float amax = maxima[0][row];
#pragma unroll
            for (unsigned other = 1; other < WARPS_N; other++) amax = fmaxf(amax, maxima[other][row]);
            const Fp8Scale scale = epilogue.block_scale(origin.x + row < m ? origin.x + row : NO_ROW, amax);
            if (warp_column == 0 && lane % 4 == 0 && origin.x + row < m) {
                epilogue.store_scale(origin.x + row, origin.y / TILE_N, scale.scale);
            }
            // A lane has four neighbouring columns of each 16.
            fp8 *to = buffer + row * OUT_STRIDE + own.n / 2 + lane % 4 * 4;
#pragma unroll
            for (unsigned j = 0; j < FRAGMENTS_N; j += 4) {
                *reinterpret_cast<unsigned *>(to + 4 * j) =
                    scale.codes(acc[i][j][2 * half], acc[i][j + 1][2 * half], acc[i][j + 2][2 * half],
                                acc[i][j + 3][2 * half]);
            }
        }
    }
    __syncthreads();
    for (unsigned at = own.thread; at < TILE_M * (SCALE_BLOCK / 16); at += THREADS) {
        const unsigned row = at / (SCALE_BLOCK / 16), column = at % (SCALE_BLOCK / 16) * 16;
        const unsigned start = origin.y / 2 + column;
        if (origin.x + row < m && start < out_width) {
            *reinterpret_cast<uint4 *>(out + static_cast<u64>(origin.x + row) * out_width + start) =
                *reinterpret_cast<const uint4 *>(buffer + row * OUT_STRIDE + column);
        }
    }
}

// W `[n, stride]` has zeros from column k on; out `[m, out_width]` is fp8 if E::OUT_FP8, else bf16.
template <class A, class E, class Out>
__device__ __forceinline__ void gemm(const A &a, const Operand *weights, unsigned stride, unsigned m, unsigned n,
                                     unsigned k, E epilogue, Out *out, unsigned out_width) {
    extern __shared__ __align__(1024) unsigned char smem[];
    Operand *ring = reinterpret_cast<Operand *>(smem);
    const unsigned thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const uint2 origin = tile_origin(blockIdx.x, m, n);

    // A thread loads chunk `part` of these rows in every step.
    const unsigned part = thread % CHUNKS, first = thread / CHUNKS;
    typename A::Row rows[ROWS_A];
#pragma unroll
    for (unsigned i = 0; i < ROWS_A; i++) rows[i] = a.row(origin.x + first + i * (THREADS / CHUNKS));
    const Operand *w_rows[ROWS_W];
    bool exists[ROWS_W];
#pragma unroll
    for (unsigned i = 0; i < ROWS_W; i++) {
        const unsigned column = origin.y + first + i * (THREADS / CHUNKS);
        exists[i] = column < n;
        w_rows[i] = weights + static_cast<u64>(exists[i] ? column : 0) * stride;
    }
    auto load = [&](unsigned step) {
        Operand *stage = ring + step % STAGES * STAGE_SIZE;
        const unsigned at = step * TILE_K + part * CHUNK;
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

    epilogue.begin();
    Sums acc = {};
    const unsigned steps = (k + TILE_K - 1) / TILE_K;
#pragma unroll
    for (unsigned step = 0; step < STAGES - 1; step++) {
        if (step < steps) load(step);
        cp_async_commit();
    }
    const WarpTile own{thread, lane, warp / WARPS_N * (TILE_M / WARPS_M), warp % WARPS_N * (TILE_N / WARPS_N)};
    constexpr unsigned INNER = TILE_K / MMA_K;
    // With block scales: those that the sums are in units of, and those of the next block.
    RowScales unit, next;
    if constexpr (E::HAS_BLOCK_SCALES) {
        unit.load(epilogue, origin.x + own.m, m, 0);
        next = unit;
    }
    for (unsigned step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        // This step has landed for all threads, and all are done with the stage that the next load
        // overwrites.
        __syncthreads();
        if (step + STAGES - 1 < steps) load(step + STAGES - 1);
        cp_async_commit();
        const Operand *stage_a = ring + step % STAGES * STAGE_SIZE, *stage_w = stage_a + A_SIZE;
        if constexpr (E::HAS_BLOCK_SCALES) {
            constexpr unsigned STEPS = SCALE_BLOCK / TILE_K;
            if (step % STEPS == 0) {
                unit.change(acc, next);
                if (step + STEPS < steps) next.load(epilogue, origin.x + own.m, m, step / STEPS + 1);
            }
        }
#pragma unroll
        for (unsigned inner = 0; inner < INNER; inner++) {
            unsigned a_fragments[FRAGMENTS_M][4], w_fragments[FRAGMENTS_N][2];
            load_fragments(a_fragments, w_fragments, stage_a, stage_w, own, inner);
#pragma unroll
            for (unsigned i = 0; i < FRAGMENTS_M; i++) {
#pragma unroll
                for (unsigned j = 0; j < FRAGMENTS_N; j++) multiply(acc[i][j], a_fragments[i], w_fragments[j]);
            }
        }
    }

    // The output overwrites the ring.
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < FRAGMENTS_M; i++) {
        const FragmentRows rows(origin.x + own.m, i, m);
        auto &sums = reinterpret_cast<float(&)[4 * FRAGMENTS_N]>(acc[i]);
        auto inputs = epilogue.template load_inputs<4 * FRAGMENTS_N>(rows.row, origin.y + own.n);
        if constexpr (E::HAS_BLOCK_SCALES) {
            inputs.x[0] = unit.value[i][0], inputs.x[1] = unit.value[i][1];
        }
        epilogue.apply(sums, inputs);
        epilogue.transform(sums, rows.row, origin.y + own.n);
    }
    store_tile(acc, origin, own, m, n, smem, epilogue, out, out_width);
}

// A row-major matrix `[m, k]`. Aligned: rows are a multiple of 16 bytes.
template <bool Aligned> struct RowMajor {
    const Operand *x;
    unsigned m, k;

    struct Row {
        const Operand *start;
        unsigned k;
    };

    __device__ __forceinline__ Row row(unsigned at) const {
        return Row{x + static_cast<u64>(at < m ? at : 0) * k, at < m ? k : 0};
    }

    __device__ __forceinline__ void load(Operand *to, const Row &row, unsigned at) const {
        const bool take = at < row.k;
        if (Aligned) {
            cp_async_16(to, row.start + (take ? at : 0), take ? 16 : 0);
        } else {
            for (unsigned i = 0; i < CHUNK; i++) to[i] = at + i < row.k ? row.start[at + i] : Operand{0};
        }
    }
};
