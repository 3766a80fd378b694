// Warp-specialised GEMM for Hopper, C[m, n] = Σₖ A[m, k]·W[n, k]: TMA, wgmma, persistent CTAs.
// A and W are BF16 or E4M3 (gemm/operand.cuh).
//
// Grid: one CTA per SM, each of which takes tiles of 64·CONSUMERS × TILE_N until none is left.
// Roles:
//   producer   the last warpgroup; one thread of it loads steps of TILE_K along k by TMA into a
//              ring of STAGES stages. It runs ahead into the next tile while the consumers store
//              this one.
//   consumers  CONSUMERS warpgroups: wgmma on 64 rows of the tile each, then the epilogue, whose
//              output leaves by TMA through OUT_STAGES buffers per consumer. With block scales
//              (Epilogue::HAS_BLOCK_SCALES) a consumer waits for its wgmma and rescales its sums in
//              front of a step where the scale of one of its rows changes.
// Barriers: full[s] completes when stage s has landed, empty[s] when every consumer of the cluster
//   is done with it.
// Clusters: CLUSTER_M × CLUSTER_N CTAs, two at most, have neighbouring tiles and share an operand,
//   so that it crosses the L2 once. CLUSTER_M = 2: tiles one below the other share W; each CTA
//   loads half of it and multicasts. CLUSTER_N = 2: tiles side by side share A, whose boxes they
//   load in turn. With CLUSTER_M = 2, an odd last row of tiles is paired side by side as well.
//
// An op passes an `Epilogue` (gemm/epilogue.cuh) and
//   A:  struct Tile;  Tile tile(unsigned m): the tile of A that starts at row m;
//       void load(Operand *to, Barrier &full, unsigned step, const Tile &, unsigned first): loads
//       64 rows of the tile from `first` on, of one step;  void load_multicast(…): loads them to
//       the whole cluster (not called without clusters);
//       unsigned column(unsigned step): the column of W where the step starts;
//       unsigned row(const Tile &, unsigned i): the row of the output that row i of the tile is, or
//       NO_ROW;
//       void store(const TensorMap &out, const void *from, const Tile &, unsigned first, unsigned
//       column): stores 64 rows of the tile from `first` on to a box of columns of the output;
//       void store_rows(const TensorMap &out, const void *from, unsigned row, unsigned column) and
//       store_transposed (in its place with Epilogue::OUT_PROJECTION): store 64 rows from `row` of
//       the output on to a box of columns, or of rows of a transposed output.
#pragma once

#include "common/reduce.cuh"
#include "gemm/epilogue.cuh"
#include "gemm/operand.cuh"
#include "sm90/ptx/barrier.cuh"
#include "sm90/ptx/cluster.cuh"
#include "sm90/ptx/pdl.cuh"
#include "sm90/ptx/stmatrix.cuh"
#include "sm90/ptx/tma.cuh"
#include "sm90/ptx/wgmma.cuh"

#ifndef CONSUMERS
#define CONSUMERS 2
#define TILE_N 128
#define STAGES 6
#define OUT_STAGES 2
#define CLUSTER_M 1
#define CLUSTER_N 1
#endif

// Rows of a consumer and of a TMA box, and columns of a box of the output.
constexpr unsigned BOX = 64;
// Bytes of a row of a box of A or W: the widest swizzle.
constexpr unsigned BOX_BYTES = 128;
constexpr unsigned TILE_M = BOX * CONSUMERS, TILE_K = BOX_BYTES / sizeof(Operand), HALF_N = TILE_N / 2;
constexpr unsigned WARPGROUP = 128, THREADS = WARPGROUP * (CONSUMERS + 1), CLUSTER = CLUSTER_M * CLUSTER_N;
// Elements of a stage.
constexpr unsigned A_SIZE = TILE_M * TILE_K, W_SIZE = TILE_N * TILE_K, STAGE_SIZE = A_SIZE + W_SIZE;
// Registers of a thread of the producer and of a consumer: all 64 K of the SM.
constexpr unsigned PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = CONSUMERS == 2 ? 232 : 152;
// Rows of clusters in a band. A wave works on a band, whose rows and columns it shares in the L2.
constexpr unsigned BAND = (CONSUMERS == 3 ? 12 : 8) / CLUSTER_M;
// The order of the tiles (tile_index); a kernel that defines TOP_DOWN begins with the first rows.
#ifdef TOP_DOWN
constexpr bool RUNS_TOP_DOWN = true;
#else
constexpr bool RUNS_TOP_DOWN = false;
#endif
// Elements of an output buffer: 64 rows and columns, or 32 columns where OUT_PER_PAIR is 1. FP8
// outputs have 64 rows of 128 bytes. A projection in FP8 has twice as many buffers in the same
// memory, each of 64 rows of 64 bytes.
constexpr unsigned OUT_SIZE = BOX * BOX;

// The first row and column of a CTA's tile. shares_a: its cluster shares A instead of W.
struct TileIndex {
    unsigned m, n;
    bool shares_a;
};

// The number of clusters' worth of tiles.
__device__ __forceinline__ unsigned cluster_tiles(unsigned tiles_m, unsigned tiles_n) {
    return tiles_m / CLUSTER_M * ((tiles_n + CLUSTER_N - 1) / CLUSTER_N) +
           (tiles_m % CLUSTER_M ? (tiles_n + CLUSTER - 1) / CLUSTER : 0);
}

// The tile of CTA `rank` of the i-th cluster. Clusters go along a band, one column of it after the
// other.
//
// Tiles run bottom-up: the next kernel (cuBLASLt, or linear_fp8.cu, which is TOP_DOWN) reads
// top-down and hits the rows that are still in L2, which holds half of a swiglu's output.
// residual_norm begins with the last rows, where these top-down gemms end.
__device__ __forceinline__ TileIndex tile_index(unsigned i, unsigned rank, unsigned tiles_m, unsigned tiles_n) {
    const unsigned cluster = RUNS_TOP_DOWN ? i : cluster_tiles(tiles_m, tiles_n) - 1 - i;
    const unsigned down = tiles_m / CLUSTER_M, across = (tiles_n + CLUSTER_N - 1) / CLUSTER_N;
    if (cluster >= down * across) {
        const unsigned beside = cluster - down * across;
        return TileIndex{down * CLUSTER_M * TILE_M, (beside * CLUSTER + rank) * TILE_N, true};
    }
    const unsigned band = cluster / (BAND * across), inside = cluster % (BAND * across);
    const unsigned height = min(BAND, down - BAND * band);
    const unsigned m = (BAND * band + inside % height) * CLUSTER_M, n = inside / height * CLUSTER_N;
    constexpr bool BESIDE = CLUSTER_N > 1;
    return TileIndex{(m + (BESIDE ? 0 : rank)) * TILE_M, (n + (BESIDE ? rank : 0)) * TILE_N, BESIDE};
}

// Stores a consumer's accumulators: 64 rows of the tile from `first` on. Rows of a buffer have
// TMA's swizzle: chunk c of row r is at c ^ r % 8 in rows of 128 bytes, at c ^ r / 2 % 4 in rows of
// 64.
template <class A, class E>
__device__ __forceinline__ void store_tile(const A &a, const typename A::Tile &tile, unsigned first, unsigned column,
                                           float (&acc)[TILE_N / 2], bf16 *buffers, unsigned &stored, unsigned n,
                                           const TensorMap &out, E &epilogue) {
    const unsigned group = threadIdx.x / WARPGROUP, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const unsigned own = 16 * warp + lane / 4;
    const unsigned rows[2] = {a.row(tile, first + own), a.row(tile, first + own + 8)};
    epilogue.transform(acc, rows, column);
#pragma unroll
    for (unsigned start = 0; start < TILE_N; start += BOX) {
        // All pairs before any store, so that what they load is in flight together.
        unsigned words[8][2] = {};
#pragma unroll
        for (unsigned j = 0; j < 8; j++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned at = column + start + 8 * j + lane % 4 * 2;
                const float *pair = acc + (start / 8 + j) * 4 + 2 * half;
                if (rows[half] != NO_ROW && at < n) {
                    words[j][half] = epilogue.pair(rows[half], at, pair[0], pair[1]);
                }
            }
        }
        bf16 *buffer = buffers + (group * OUT_STAGES + stored++ % OUT_STAGES) * OUT_SIZE;
        if (threadIdx.x % WARPGROUP == 0) tma_store_wait<OUT_STAGES - 1>();
        named_barrier_sync(CONSUMER_BARRIER + group, WARPGROUP);
#pragma unroll
        for (unsigned j = 0; j < 8; j++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned row = own + 8 * half;
                if (E::OUT_PER_PAIR == 2) {
                    *reinterpret_cast<unsigned *>(buffer + row * 64 + (j ^ row % 8) * 8 + lane % 4 * 2) =
                        words[j][half];
                } else {
                    const unsigned at = row * 32 + (j / 2 ^ row / 2 % 4) * 8 + j % 2 * 4 + lane % 4;
                    buffer[at].bits = static_cast<unsigned short>(words[j][half]);
                }
            }
        }
        fence_proxy_async();
        named_barrier_sync(CONSUMER_BARRIER + group, WARPGROUP);
        if (threadIdx.x % WARPGROUP == 0) {
            a.store(out, buffer, tile, first, (column + start) * E::OUT_PER_PAIR / 2);
            tma_store_commit();
        }
    }
}

// Stores a consumer's accumulators as a projection in FP8, 64 columns at a time: a box of 64 rows
// and 64 columns of codes, or that of the transposed columns. Chunk c of a box's row r is at
// c ^ r / 2 % 4, so that eight lanes fill all banks in both kinds of stores.
template <class A, class E>
__device__ __forceinline__ void store_projection_tile(const A &a, const typename A::Tile &tile, unsigned first,
                                                      unsigned column, float (&acc)[TILE_N / 2], bf16 *buffers,
                                                      unsigned &stored, const TensorMap &out, E &epilogue) {
    constexpr unsigned BUFFERS = 2 * OUT_STAGES, BUFFER_BYTES = BOX * BOX;
    const unsigned group = threadIdx.x / WARPGROUP, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const unsigned own = 16 * warp + lane / 4;
    const unsigned rows[2] = {a.row(tile, first + own), a.row(tile, first + own + 8)};
    epilogue.transform(acc, rows, column);
#pragma unroll
    for (unsigned start = 0; start < TILE_N; start += BOX) {
        const bool is_transposed = column + start >= epilogue.first_value;
        unsigned words[8];
#pragma unroll
        for (unsigned j = 0; j < 8; j++) {
            if (is_transposed) {
                // Two rows of two columns.
                const float *sums = acc + start / 2 + 4 * j;
                words[j] = e4m3x2_from_floats(sums[0], sums[2]) |
                           static_cast<unsigned>(e4m3x2_from_floats(sums[1], sums[3])) << 16;
            } else {
                // Four columns of a row, which has words 0 to 3 or 4 to 7.
                const float *sums = acc + start / 2 + j % 4 * 8 + j / 4 * 2;
                words[j] = e4m3x2_from_floats(sums[0], sums[1]) |
                           static_cast<unsigned>(e4m3x2_from_floats(sums[4], sums[5])) << 16;
            }
        }
        unsigned char *buffer = reinterpret_cast<unsigned char *>(buffers) +
                                (group * BUFFERS + stored++ % BUFFERS) * BUFFER_BYTES;
        if (threadIdx.x % WARPGROUP == 0) tma_store_wait<BUFFERS - 1>();
        named_barrier_sync(CONSUMER_BARRIER + group, WARPGROUP);
        if (is_transposed) {
            // A warp's 16 rows are a chunk of every column (value_place).
#pragma unroll
            for (unsigned four = 0; four < 2; four++) {
                const unsigned row = 32 * four + lane;
                stmatrix_x4_trans(buffer + row * BOX + (warp ^ row / 2 % 4) * 16,
                                  {words[4 * four], words[4 * four + 1], words[4 * four + 2], words[4 * four + 3]});
            }
        } else {
            // A lane has a chunk of each of its rows (code_place).
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned row = own + 8 * half;
                *reinterpret_cast<uint4 *>(buffer + row * BOX + (lane % 4 ^ row / 2 % 4) * 16) =
                    make_uint4(words[4 * half], words[4 * half + 1], words[4 * half + 2], words[4 * half + 3]);
            }
        }
        fence_proxy_async();
        named_barrier_sync(CONSUMER_BARRIER + group, WARPGROUP);
        if (threadIdx.x % WARPGROUP == 0) {
            // This thread has the first row. Without one, the box lies behind its item.
            if (rows[0] != NO_ROW && is_transposed) {
                a.store_transposed(epilogue.values, buffer, rows[0], column + start - epilogue.first_value);
            } else if (rows[0] != NO_ROW) {
                a.store_rows(out, buffer, rows[0], column + start);
            }
            tma_store_commit();
        }
    }
}

// Quantises a consumer's outputs, SCALE_BLOCK columns, and stores them and their scales.
template <class A, class E>
__device__ __forceinline__ void store_fp8_tile(const A &a, const typename A::Tile &tile, unsigned first,
                                               unsigned column, float (&acc)[TILE_N / 2], bf16 *buffers,
                                               unsigned &stored, unsigned n, const TensorMap &out, E &epilogue) {
    static_assert(!E::OUT_FP8 || TILE_N == 2 * SCALE_BLOCK, "a tile has one scale a row");
    const unsigned group = threadIdx.x / WARPGROUP, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const unsigned own = 16 * warp + lane / 4;
    const unsigned rows[2] = {a.row(tile, first + own), a.row(tile, first + own + 8)};
    epilogue.transform(acc, rows, column);
    unsigned char *buffer =
        reinterpret_cast<unsigned char *>(buffers + (group * OUT_STAGES + stored++ % OUT_STAGES) * OUT_SIZE);
    if (threadIdx.x % WARPGROUP == 0) tma_store_wait<OUT_STAGES - 1>();
    named_barrier_sync(CONSUMER_BARRIER + group, WARPGROUP);
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        // Past column n are zeros, or NaN, which the maximum ignores.
        float amax = 0.0f;
#pragma unroll
        for (unsigned j = 0; j < TILE_N / 8; j++) amax = fmaxf(amax, fabsf(acc[4 * j + 2 * half]));
        const Fp8Scale scale = epilogue.block_scale(rows[half], lane_max<4>(amax));
        if (lane % 4 == 0 && rows[half] != NO_ROW && column < n) {
            epilogue.store_scale(rows[half], column / TILE_N, scale.scale);
        }
        // A lane has four neighbouring columns of a chunk of 16. Chunk c of row r is at c ^ r % 8.
        const unsigned row = own + 8 * half;
#pragma unroll
        for (unsigned chunk = 0; chunk < SCALE_BLOCK / 16; chunk++) {
            const float *sums = acc + 16 * chunk + 2 * half;
            *reinterpret_cast<unsigned *>(buffer + row * BOX_BYTES + (chunk ^ row % 8) * 16 + lane % 4 * 4) =
                scale.codes(sums[0], sums[4], sums[8], sums[12]);
        }
    }
    fence_proxy_async();
    named_barrier_sync(CONSUMER_BARRIER + group, WARPGROUP);
    if (threadIdx.x % WARPGROUP == 0) {
        a.store(out, buffer, tile, first, column / 2);
        tma_store_commit();
    }
}

// acc = a·b, or acc += a·b if `accumulate`, over 32 bytes of their rows.
template <unsigned Count>
__device__ __forceinline__ void multiply(float (&acc)[Count], u64 a, u64 b, bool accumulate) {
    if constexpr (IS_FP8) {
        wgmma_ss_e4m3(acc, a, b, accumulate);
    } else {
        wgmma_ss(acc, a, b, accumulate);
    }
}

template <class A, class E>
__device__ __forceinline__ void gemm(const A &a, const TensorMap &w, unsigned m, unsigned n, unsigned steps,
                                     const TensorMap &out, E epilogue) {
    extern __shared__ __align__(1024) unsigned char smem[];
    __shared__ Barrier full[STAGES], empty[STAGES];
    Operand *ring = reinterpret_cast<Operand *>(smem);
    bf16 *buffers = reinterpret_cast<bf16 *>(ring + STAGES * STAGE_SIZE);
    const unsigned group = warp_uniform(threadIdx.x / WARPGROUP);
    const unsigned rank = CLUSTER > 1 ? cluster_rank() : 0;
    griddepcontrol_launch_dependents();
    if (threadIdx.x == 0) {
        for (unsigned i = 0; i < STAGES; i++) {
            full[i].init(1);
            empty[i].init(CONSUMERS * CLUSTER);
        }
        fence_barrier_init();
    }
    cluster_sync<CLUSTER>();
    griddepcontrol_wait();
    const unsigned tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1) / TILE_N;
    const unsigned count = cluster_tiles(tiles_m, tiles_n), stride = gridDim.x / CLUSTER;

    if (group == CONSUMERS) {
        // Producer.
        warpgroup_reg_dealloc<PRODUCER_REGISTERS>();
        if (threadIdx.x % WARPGROUP == 0) {
            // The phase before the first one counts as completed: every stage is empty at first.
            unsigned slot = 0, phase = 1;
            for (unsigned i = blockIdx.x / CLUSTER; i < count; i += stride) {
                const TileIndex index = tile_index(i, rank, tiles_m, tiles_n);
                const typename A::Tile tile = a.tile(index.m);
#pragma unroll 1
                for (unsigned step = 0; step < steps; step++) {
                    const unsigned column = a.column(step);
                    Operand *stage_a = ring + slot * STAGE_SIZE, *stage_w = stage_a + A_SIZE;
                    empty[slot].wait(phase);
                    full[slot].arrive_expect_tx(STAGE_SIZE * sizeof(Operand));
                    for (unsigned box = 0; box < CONSUMERS; box++) {
                        Operand *to = stage_a + box * BOX * TILE_K;
                        if (CLUSTER == 1 || !index.shares_a) {
                            a.load(to, full[slot], step, tile, BOX * box);
                        } else if constexpr (CLUSTER > 1) {
                            if (box % CLUSTER == rank) a.load_multicast(to, full[slot], step, tile, BOX * box);
                        }
                    }
                    if (CLUSTER > 1 && !index.shares_a) {
                        tma_load_multicast(stage_w + rank * HALF_N * TILE_K, w, full[slot], column,
                                           index.n + rank * HALF_N);
                    } else {
                        tma_load(stage_w, w, full[slot], column, index.n);
                        tma_load(stage_w + HALF_N * TILE_K, w, full[slot], column, index.n + HALF_N);
                    }
                    slot = slot + 1 == STAGES ? 0 : slot + 1;
                    phase ^= slot == 0;
                }
            }
        }
    } else {
        // Consumer.
        warpgroup_reg_alloc<CONSUMER_REGISTERS>();
        epilogue.begin();
        // One thread per CTA of the cluster tells its producer that this warpgroup is done with a
        // stage.
        auto release = [&](unsigned slot) {
            if (threadIdx.x % WARPGROUP < CLUSTER) empty[slot].arrive_remote<CLUSTER>(threadIdx.x % WARPGROUP);
        };
        unsigned slot = 0, phase = 0, stored = 0;
        const u64 ring_a = smem_desc(ring + group * BOX * TILE_K), ring_w = smem_desc(ring + A_SIZE);
        // Starts the wgmma of a step once it has landed. The sums begin with step 0.
        auto start_step = [&](float(&acc)[TILE_N / 2], unsigned step, unsigned slot, unsigned phase) {
            full[slot].wait(phase);
            const unsigned stage = slot * STAGE_SIZE * sizeof(Operand);
            const u64 desc_a = advance(ring_a, stage), desc_w = advance(ring_w, stage);
            warpgroup_fence_operand(acc);
            wgmma_fence();
#pragma unroll
            for (unsigned inner = 0; inner < BOX_BYTES / 32; inner++) {
                multiply(acc, advance(desc_a, 32 * inner), advance(desc_w, 32 * inner), step + inner != 0);
            }
            wgmma_commit();
        };
        for (unsigned i = blockIdx.x / CLUSTER; i < count; i += stride) {
            const TileIndex index = tile_index(i, rank, tiles_m, tiles_n);
            float acc[TILE_N / 2];
            unsigned rows[2];
            {
                const typename A::Tile tile = a.tile(index.m);
                const unsigned own = BOX * group + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
                rows[0] = a.row(tile, own), rows[1] = a.row(tile, own + 8);
            }
            auto inputs = epilogue.template load_inputs<TILE_N / 2>(rows, index.n);
            // The scales of a step, which arrive during the one before it.
            float next[2] = {};
            if constexpr (E::HAS_BLOCK_SCALES) {
                static_assert(!E::HAS_BLOCK_SCALES || TILE_K == SCALE_BLOCK, "a step has one scale a row");
                next[0] = inputs.x[0], next[1] = inputs.x[1];
            }
            unsigned previous = 0;
#pragma unroll 1
            for (unsigned step = 0; step < steps; step++) {
                if constexpr (E::HAS_BLOCK_SCALES) {
                    // All warps of a warpgroup must wait for wgmma alike.
                    const bool changes = next[0] != inputs.x[0] || next[1] != inputs.x[1];
                    if (named_barrier_or(CONSUMER_BARRIER + group, WARPGROUP, changes)) {
                        wgmma_wait<0>();
                        warpgroup_fence_operand(acc);
                        const float factor[2] = {next[0] == inputs.x[0] ? 1.0f : inputs.x[0] / next[0],
                                                 next[1] == inputs.x[1] ? 1.0f : inputs.x[1] / next[1]};
#pragma unroll
                        for (unsigned j = 0; j < TILE_N / 2; j++) acc[j] *= factor[j / 2 % 2];
                        inputs.x[0] = next[0], inputs.x[1] = next[1];
                    }
                    if (step + 1 < steps) {
                        next[0] = epilogue.x_scale(rows[0], step + 1);
                        next[1] = epilogue.x_scale(rows[1], step + 1);
                    }
                }
                start_step(acc, step, slot, phase);
                // The wgmma of the previous step have ended.
                wgmma_wait<1>();
                warpgroup_fence_operand(acc);
                if (step > 0) release(previous);
                previous = slot;
                slot = slot + 1 == STAGES ? 0 : slot + 1;
                phase ^= slot == 0;
            }
            wgmma_wait<0>();
            warpgroup_fence_operand(acc);
            release(previous);
            epilogue.apply(acc, inputs);

            if constexpr (E::OUT_PROJECTION) {
                store_projection_tile(a, a.tile(index.m), BOX * group, index.n, acc, buffers, stored, out, epilogue);
            } else if constexpr (E::OUT_FP8) {
                store_fp8_tile(a, a.tile(index.m), BOX * group, index.n, acc, buffers, stored, n, out, epilogue);
            } else {
                store_tile(a, a.tile(index.m), BOX * group, index.n, acc, buffers, stored, n, out, epilogue);
            }
        }
        if (threadIdx.x % WARPGROUP == 0) tma_store_wait<0>();
    }
    // No CTA ends while its peer may still write to its shared memory or barriers.
    cluster_sync<CLUSTER>();
}

// A row-major matrix `[m, k]`; the map's boxes are 64 rows of TILE_K columns.
struct TmaRows {
    const TensorMap &map;
    unsigned m;

    struct Tile {
        unsigned first;
    };

    __device__ __forceinline__ Tile tile(unsigned at) const {
        return Tile{at};
    }

    __device__ __forceinline__ void load(Operand *to, Barrier &full, unsigned step, const Tile &tile,
                                         unsigned first) const {
        tma_load(to, map, full, step * TILE_K, tile.first + first);
    }

    __device__ __forceinline__ void load_multicast(Operand *to, Barrier &full, unsigned step, const Tile &tile,
                                                   unsigned first) const {
        tma_load_multicast(to, map, full, step * TILE_K, tile.first + first);
    }

    __device__ __forceinline__ unsigned column(unsigned step) const {
        return step * TILE_K;
    }

    __device__ __forceinline__ unsigned row(const Tile &tile, unsigned i) const {
        return tile.first + i < m ? tile.first + i : NO_ROW;
    }

    __device__ __forceinline__ void store(const TensorMap &out, const void *from, const Tile &tile, unsigned first,
                                          unsigned column) const {
        tma_store(out, from, column, tile.first + first);
    }
};
