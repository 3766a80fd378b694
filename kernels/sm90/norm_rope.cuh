// The epilogue of project_qkv on Hopper: query and key heads are RMS-normed and rotated in the
// accumulators, as in ../qk_norm_rope.cu, with interleaved pairs.
//
// Clusters are two tiles side by side, which cover three heads. The one in the middle is split, so
// each CTA sends the other its half's sums of squares.
// With QKV_FP8, the output is a projection in FP8 (common/fp8.cuh). The bound on a normed head is
// scaled to 448, so no code of queries and keys saturates and no maximum is needed. The values of a
// head in the 64 tokens of a consumer have one scale. Their maximum takes the way of the sums of
// squares, and then crosses the consumer's warps. Tiles are of the tokens of one item.
// Constants: those of sm90/gemm.cuh, QKV_FP8.
#pragma once

#ifndef CONSUMERS
#define CONSUMERS 3
#define TILE_N 192
#define STAGES 4
#define OUT_STAGES 1
#define CLUSTER_M 1
#define CLUSTER_N 2
#endif
#ifndef QKV_FP8
#define QKV_FP8 0
#endif

#include "common/reduce.cuh"
#include "sm90/gemm.cuh"

constexpr unsigned HEAD = 128, HALF_HEAD = 64, PARTS = TILE_N / HALF_HEAD;
static_assert(PARTS == 3 && CLUSTER_M == 1 && CLUSTER_N == 2, "the two tiles are three heads wide");

// Sums of squares from the peer CTA, or maxima of values, 64 rows per consumer, double-buffered.
// Slot t is reused for tile t + 2: the peer sends that after it has received those of t + 1, which
// are sent after t was read.
struct PeerSquares {
    Barrier full[2][CONSUMERS];
    float sums[2][CONSUMERS][BOX];

    // gemm() begins with a barrier of the cluster, which makes the barriers visible.
    __device__ __forceinline__ void init() {
        if (threadIdx.x < 2 * CONSUMERS) full[threadIdx.x / CONSUMERS][threadIdx.x % CONSUMERS].init(1);
        fence_barrier_init();
    }
};

// The factors from normed queries and keys to codes, which every consumer warp finds for itself:
// registers are scarce during the k loop.
struct CodeFactors {
    float of[4 * CONSUMERS][2];
};

// The largest magnitudes of a tile's values, by consumer, part and warp. Barriers of the store lie
// between those of one tile and the next.
struct ValueMaxima {
    float4 of[CONSUMERS][PARTS];
};

// The rows of items `[items, tokens, k]`; the map's boxes are 64 rows of TILE_K columns of an item.
// No tile crosses the end of an item, so that a consumer's rows are a block of values.
struct TmaItems {
    const TensorMap &map;
    unsigned tokens;

    struct Tile {
        unsigned item, first;
    };

    __device__ __forceinline__ Tile tile(unsigned at) const {
        const unsigned padded = (tokens + TILE_M - 1) / TILE_M * TILE_M;
        return Tile{at / padded, at % padded};
    }

    __device__ __forceinline__ void load(Operand *to, Barrier &full, unsigned step, const Tile &tile,
                                         unsigned first) const {
        tma_load(to, map, full, step * TILE_K, tile.first + first, tile.item);
    }

    __device__ __forceinline__ void load_multicast(Operand *to, Barrier &full, unsigned step, const Tile &tile,
                                                   unsigned first) const {
        tma_load_multicast(to, map, full, step * TILE_K, tile.first + first, tile.item);
    }

    __device__ __forceinline__ unsigned column(unsigned step) const {
        return step * TILE_K;
    }

    __device__ __forceinline__ unsigned row(const Tile &tile, unsigned i) const {
        return tile.first + i < tokens ? tile.item * tokens + tile.first + i : NO_ROW;
    }

    __device__ __forceinline__ void store_rows(const TensorMap &out, const void *from, unsigned row,
                                               unsigned column) const {
        tma_store(out, from, column, row % tokens, row / tokens);
    }

    // Behind the last token, up to the stride, come zeros: rows that do not exist were loaded as
    // such.
    __device__ __forceinline__ void store_transposed(const TensorMap &out, const void *from, unsigned row,
                                                     unsigned column) const {
        tma_store(out, from, row % tokens, column, row / tokens);
    }
};

// The rows of the projection's input, m in all.
__device__ __forceinline__ auto projected_rows(const TensorMap &x, unsigned m, unsigned tokens) {
    if constexpr (QKV_FP8) {
        return TmaItems{x, tokens};
    } else {
        return TmaRows{x, m};
    }
}

struct NormRopeEpilogue : Epilogue {
    static constexpr bool OUT_PROJECTION = QKV_FP8;

    const float *q_norm, *k_norm, *rotation;
    unsigned tokens, query_heads, key_heads, normed_heads, rotation_stride, rank;
    float eps;
    PeerSquares &peer;
    unsigned tiles;
    // With QKV_FP8:
    CodeFactors &factors;
    ValueMaxima &maxima;
    const TensorMap &values;
    float *qkv_scales;
    unsigned first_value;

    // True if the columns from `column` on are values in a projection in FP8. Values in BF16 pass
    // as they are.
    __device__ __forceinline__ bool are_values(unsigned column) const {
        return QKV_FP8 && column >= first_value;
    }

    __device__ __forceinline__ void begin() const {
        if constexpr (QKV_FP8) {
            const unsigned lane = threadIdx.x % 32;
#pragma unroll
            for (unsigned i = 0; i < 2; i++) {
                const float4 w = reinterpret_cast<const float4 *>(i == 0 ? q_norm : k_norm)[lane];
                const float largest = fmaxf(fmaxf(fabsf(w.x), fabsf(w.y)), fmaxf(fabsf(w.z), fabsf(w.w)));
                const Fp8Scale scale = Fp8Scale::of_row(head_bound<HEAD>(lane_max<32>(largest)));
                if (lane == 0) factors.of[threadIdx.x / 32][i] = scale.inverse;
                if (blockIdx.x == 0 && threadIdx.x == 0) qkv_scales[i] = scale.scale;
            }
            __syncwarp();
        }
    }

    // Divides the values by the scales of their blocks, which it stores. `largest`: the largest
    // magnitudes of this thread's rows in whole heads.
    __device__ __forceinline__ void scale_values(float (&acc)[TILE_N / 2], const float (&largest)[PARTS][2],
                                                 const unsigned (&rows)[2], unsigned column) const {
        const unsigned group = threadIdx.x / WARPGROUP, warp = threadIdx.x / 32 % 4;
#pragma unroll
        for (unsigned part = 0; part < PARTS; part++) {
            const float of_warp = lane_max<32>(fmaxf(largest[part][0], largest[part][1]));
            if (threadIdx.x % 32 == 0) reinterpret_cast<float *>(&maxima.of[group][part])[warp] = of_warp;
        }
        named_barrier_sync(CONSUMER_BARRIER + group, WARPGROUP);
#pragma unroll
        for (unsigned part = 0; part < PARTS; part++) {
            const unsigned at = column + part * HALF_HEAD, head = at / HEAD - normed_heads;
            if (!are_values(at)) continue;
            const float4 all = maxima.of[group][part];
            const Fp8Scale scale = Fp8Scale::of_values(fmaxf(fmaxf(all.x, all.y), fmaxf(all.z, all.w)));
#pragma unroll
            for (unsigned i = 0; i < HALF_HEAD / 2; i++) acc[part * (HALF_HEAD / 2) + i] *= scale.inverse;
            // This thread has the first row of the block.
            if (threadIdx.x % WARPGROUP == 0 && rows[0] != NO_ROW && at % HEAD == 0 && head < key_heads) {
                const unsigned item = rows[0] / tokens, block = rows[0] % tokens / VALUE_BLOCK;
                qkv_scales[2 + (item * key_heads + head) * value_blocks(tokens) + block] = scale.scale;
            }
        }
    }

    __device__ __forceinline__ void transform(float (&acc)[TILE_N / 2], const unsigned (&rows)[2], unsigned column) {
        // Both CTAs take the same branch.
        if (!QKV_FP8 && (column - rank * TILE_N) / HEAD >= normed_heads) return;
        const unsigned group = threadIdx.x / WARPGROUP, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
        float squares[PARTS][2];
#pragma unroll
        for (unsigned part = 0; part < PARTS; part++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                float sum = 0.0f;
                if (are_values(column + part * HALF_HEAD)) {
#pragma unroll
                    for (unsigned j = 0; j < 8; j++) {
                        const float *pair = acc + (part * 8 + j) * 4 + 2 * half;
                        sum = fmaxf(sum, fmaxf(fabsf(pair[0]), fabsf(pair[1])));
                    }
                    squares[part][half] = lane_max<4>(sum);
                    continue;
                }
#pragma unroll
                for (unsigned j = 0; j < 8; j++) {
                    const float *pair = acc + (part * 8 + j) * 4 + 2 * half;
                    sum += pair[0] * pair[0] + pair[1] * pair[1];
                }
                squares[part][half] = lane_sum<4>(sum);
            }
        }

        // The last part of CTA 0 and the first part of CTA 1 are one head.
        Barrier &full = peer.full[tiles % 2][group];
        float *from_peer = peer.sums[tiles % 2][group] + 16 * warp + lane / 4;
        if (threadIdx.x % WARPGROUP == 0) full.arrive_expect_tx(BOX * sizeof(float));
        if (lane % 4 == 0) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const float own = rank ? squares[0][half] : squares[PARTS - 1][half];
                st_async(from_peer + 8 * half, own, full, 1 - rank);
            }
        }

        // Four cosines and sines of each row at a time; the first load overlaps the exchange.
        float2 cos_sin[4][2];
        auto load_rotation = [&](unsigned first) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned row = rows[half] == NO_ROW ? 0 : rows[half];
                const float *from = rotation + static_cast<u64>(row / tokens) * rotation_stride +
                                    static_cast<u64>(row % tokens) * HEAD + first + lane % 4 * 2;
#pragma unroll
                for (unsigned j = 0; j < 4; j++) cos_sin[j][half] = *reinterpret_cast<const float2 *>(from + 8 * j);
            }
        };
        // Parts 0 and 2 are the same half of their heads, part 1 is the other half.
        const unsigned outer = column % HEAD, inner = (column + HALF_HEAD) % HEAD;
        // Values do not need it, but a branch here costs registers.
        load_rotation(outer);
        full.wait(tiles / 2 % 2);
        tiles++;

        float factor[PARTS][2];
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const float own[PARTS] = {squares[0][half], squares[1][half], squares[2][half]},
                        other = from_peer[8 * half];
            const float rest[PARTS] = {rank ? other : own[1], rank ? own[2] : own[0], rank ? own[1] : other};
#pragma unroll
            for (unsigned part = 0; part < PARTS; part++) {
                factor[part][half] = rsqrtf((own[part] + rest[part]) / HEAD + eps);
                if (are_values(column + part * HALF_HEAD)) factor[part][half] = fmaxf(own[part], rest[part]);
            }
        }
        if constexpr (QKV_FP8) {
            // Values are the last parts.
            if (are_values(column + (PARTS - 1) * HALF_HEAD)) scale_values(acc, factor, rows, column);
            if (are_values(column)) return;
#pragma unroll
            for (unsigned part = 0; part < PARTS; part++) {
                const bool is_key = (column + part * HALF_HEAD) / HEAD >= query_heads;
                const float to_codes = factors.of[threadIdx.x / 32][is_key];
                factor[part][0] *= to_codes;
                factor[part][1] *= to_codes;
            }
        }
        // Norms and rotates 32 columns of a part from 8·start on, columns `first` onwards of its
        // head.
        auto norm_rope = [&](unsigned part, unsigned start, unsigned first) {
            const unsigned head = (column + part * HALF_HEAD) / HEAD;
            if (head >= normed_heads) return;
            const float *weight = (head < query_heads ? q_norm : k_norm) + first + lane % 4 * 2;
            float2 norm[4];
#pragma unroll
            for (unsigned j = 0; j < 4; j++) norm[j] = *reinterpret_cast<const float2 *>(weight + 8 * j);
#pragma unroll
            for (unsigned j = 0; j < 4; j++) {
#pragma unroll
                for (unsigned half = 0; half < 2; half++) {
                    float *pair = acc + (part * 8 + start + j) * 4 + 2 * half;
                    const float a = pair[0] * factor[part][half] * norm[j].x,
                                b = pair[1] * factor[part][half] * norm[j].y;
                    pair[0] = a * cos_sin[j][half].x - b * cos_sin[j][half].y;
                    pair[1] = a * cos_sin[j][half].y + b * cos_sin[j][half].x;
                }
            }
        };
#pragma unroll
        for (unsigned start = 0; start < 8; start += 4) {
            if (start != 0) load_rotation(outer + 8 * start);
            norm_rope(0, start, outer + 8 * start);
            norm_rope(2, start, outer + 8 * start);
        }
#pragma unroll
        for (unsigned start = 0; start < 8; start += 4) {
            load_rotation(inner + 8 * start);
            norm_rope(1, start, inner + 8 * start);
        }
    }

    __device__ __forceinline__ unsigned pair(unsigned, unsigned, float a, float b) const {
        return bf16x2_from_floats(a, b);
    }
};
