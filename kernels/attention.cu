// attention: softmax(q·kᵀ/√HEAD + mask)·v for every head of a fused projection
// `[items, tokens, (query + 2·key)·HEAD]`, to `[items, tokens, query·HEAD]`. Flash attention:
// scores stay on the chip; the output is relative to a running row_max and rescaled when that
// grows.
//
// Grid: (tokens / QUERIES, query heads, items), WARPS warps with 16 queries each. A CTA goes over
//   the keys that any of its queries sees in tiles of KEYS.
// Pipeline: two stages of keys and of values, by cp.async. The accumulators of q·kᵀ have the layout
//   of the left fragments of p·v, so p stays in registers.
// With OUT_FP8, the output is an FP8 activation `[items·tokens, query·HEAD]` with a scale for each
//   head and token, from the values before rounding.
// With QKV_FP8, the input is a projection in FP8 (common/fp8.cuh), and probabilities are E4M3 too
//   (common/attention.cuh); without, `qkv_scales` is not used. Pointers, strides and fragments
//   count units of 16 bits, so two codes.
// Constants: HEAD (up to 128), WARPS, KEYS, CAUSAL, HAS_LENGTHS, ALIGNED (HEAD is a multiple of 8),
// OUT_FP8 and QKV_FP8 (HEAD is 128).

#include "common/attention.cuh"
#include "common/fp8.cuh"
#include "common/ptx/mma.cuh"
#include "common/reduce.cuh"

#ifndef HEAD
#define HEAD 128
#define WARPS 4
#define KEYS 64
#define CAUSAL 0
#define HAS_LENGTHS 1
#define ALIGNED 1
#endif
#ifndef OUT_FP8
#define OUT_FP8 0
#endif
#ifndef QKV_FP8
#define QKV_FP8 0
#endif

static_assert(!OUT_FP8 || HEAD == SCALE_BLOCK, "a head has one scale a token");
static_assert(!QKV_FP8 || HEAD == 128, "whole steps of codes");

constexpr unsigned THREADS = 32 * WARPS, QUERIES = 16 * WARPS;
// The head in steps of 16 for mma; zeros behind it.
constexpr unsigned STEPS = (HEAD + 15) / 16, WIDTH = 16 * STEPS;
// Rows in shared memory are an odd number of 16 bytes apart: the eight rows of an ldmatrix lie in
// different banks.
constexpr unsigned STRIDE = WIDTH + 8;
// A tile of values. Transposed ones are rows of KEYS codes.
constexpr unsigned V_STRIDE = QKV_FP8 ? KEYS / 2 + 8 : STRIDE, TILE_SIZE = (QKV_FP8 ? HEAD : KEYS) * V_STRIDE;
// Keys of one mma of p·v: 32 bytes.
constexpr unsigned P_KEYS = QKV_FP8 ? 32 : 16;
static_assert(!QKV_FP8 || KEYS == VALUE_BLOCK, "a tile of values has one scale");
// The same of queries and keys, in units of 16 bits.
constexpr unsigned QK_HEAD = QKV_FP8 ? HEAD / 2 : HEAD, QK_STEPS = (QK_HEAD + 15) / 16, QK_WIDTH = 16 * QK_STEPS;
constexpr unsigned QK_STRIDE = QK_WIDTH + 8, K_TILE_SIZE = KEYS * QK_STRIDE;

template <unsigned Stride> struct PaddedRows {
    static __device__ __forceinline__ bf16 *address(bf16 *to, unsigned row, unsigned column) {
        return to + row * Stride + column;
    }
};

// Queries or keys.
template <unsigned Rows>
__device__ __forceinline__ void load_qk(bf16 *to, const bf16 *from, u64 stride, unsigned first, unsigned end) {
    load_head<PaddedRows<QK_STRIDE>, Rows, QK_HEAD, QK_WIDTH, THREADS, ALIGNED>(to, from, stride, first, end);
}

__device__ __forceinline__ void load_v(bf16 *to, const bf16 *from, u64 stride, unsigned first, unsigned end) {
    load_head<PaddedRows<STRIDE>, KEYS, HEAD, WIDTH, THREADS, ALIGNED>(to, from, stride, first, end);
}

// Transposed values of KEYS keys from `first` on; zeros behind the rows of `stride` bytes.
__device__ __forceinline__ void load_transposed_v(bf16 *to, const bf16 *from, unsigned stride, unsigned first) {
    constexpr unsigned PARTS = KEYS / 16;
    for (unsigned at = threadIdx.x; at < HEAD * PARTS; at += THREADS) {
        const unsigned row = at / PARTS, key = first + at % PARTS * 16;
        const bool take = key < stride;
        cp_async_16(to + row * V_STRIDE + at % PARTS * 8, from + (take ? (static_cast<u64>(row) * stride + key) / 2 : 0),
                    take ? 16 : 0);
    }
}

// scores += q·kᵀ, over 32 bytes of their rows.
__device__ __forceinline__ void multiply_qk(float (&scores)[4], const unsigned (&q)[4], const unsigned (&k)[2]) {
    if constexpr (QKV_FP8) {
        mma_m16n8k32_e4m3(scores, q, k);
    } else {
        mma_m16n8k16_bf16(scores, q, k);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention(const bf16 *qkv, const unsigned *lengths, void *out, float *scales, unsigned tokens,
              unsigned query_heads, unsigned key_heads, float scale, const float *qkv_scales) {
    extern __shared__ __align__(1024) unsigned char smem[];
    bf16 *smem_k = reinterpret_cast<bf16 *>(smem), *smem_v = smem_k + 2 * K_TILE_SIZE;
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // The last queries of a causal head see the most keys, so they start first.
    const unsigned tile = CAUSAL ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    const unsigned head = blockIdx.y, item = blockIdx.z, first = tile * QUERIES;
    const u64 stride = static_cast<u64>(query_heads + (QKV_FP8 ? 1 : 2) * key_heads) * QK_HEAD;
    const bf16 *base = qkv + item * tokens * stride;
    const unsigned key_head = head / (query_heads / key_heads);
    const bf16 *k = base + (query_heads + key_head) * QK_HEAD;
    // Transposed values lie behind the queries and keys of all items.
    const unsigned v_head = item * key_heads + key_head, v_stride = value_stride(tokens);
    const bf16 *v = QKV_FP8 ? qkv + gridDim.z * tokens * stride + static_cast<u64>(v_head) * HEAD * v_stride / 2
                            : k + key_heads * QK_HEAD;
    auto load_values = [&](bf16 *to, unsigned start, unsigned end) {
        if constexpr (QKV_FP8) {
            load_transposed_v(to, v, v_stride, start);
        } else {
            load_v(to, v, stride, start, end);
        }
    };
    const unsigned length = HAS_LENGTHS ? min(lengths[item], tokens) : tokens;
    const unsigned end = CAUSAL ? min(length, first + QUERIES) : length;
    const unsigned key_tiles = (end + KEYS - 1) / KEYS;

    // The queries pass through the shared memory of the values.
    unsigned q[QK_STEPS][4];
    static_assert(2 * TILE_SIZE >= QUERIES * QK_STRIDE, "the queries fit in the shared memory of the values");
    load_qk<QUERIES>(smem_v, base + head * QK_HEAD, stride, first, tokens);
    cp_async_commit();
    load_qk<KEYS>(smem_k, k, stride, 0, end);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
#pragma unroll
    for (unsigned step = 0; step < QK_STEPS; step++) {
        ldmatrix_x4(q[step], smem_v + (16 * warp + lane % 16) * QK_STRIDE + 16 * step + lane / 16 * 8);
    }
    __syncthreads();
    load_values(smem_v, 0, end);
    cp_async_commit();

    // A lane holds rows lane/4 and lane/4 + 8 of its warp's sixteen.
    float acc_o[2 * STEPS][4] = {}, row_max[2] = {MIN_ROW_MAX, MIN_ROW_MAX}, row_sum[2] = {};
    // Scores are products of codes. With norms of zero a factor of 0 would make NaN of masked ones.
    const float scale_log2 = scale * LOG2E * (QKV_FP8 ? fmaxf(qkv_scales[0] * qkv_scales[1], 1e-30f) : 1.0f);
    const unsigned own = first + 16 * warp + lane / 4;
    for (unsigned j = 0; j < key_tiles; j++) {
        const bf16 *tile_k = smem_k + j % 2 * K_TILE_SIZE, *tile_v = smem_v + j % 2 * TILE_SIZE;
        // In flight: this tile's keys, then its values.
        cp_async_wait<1>();
        __syncthreads();
        if (j + 1 < key_tiles) load_qk<KEYS>(smem_k + (j + 1) % 2 * K_TILE_SIZE, k, stride, (j + 1) * KEYS, end);
        cp_async_commit();

        float scores[KEYS / 8][4] = {};
#pragma unroll
        for (unsigned step = 0; step < QK_STEPS; step++) {
#pragma unroll
            for (unsigned n = 0; n < KEYS / 8; n += 2) {
                unsigned both[4];
                const unsigned key = 8 * n + lane / 16 * 8 + lane % 8;
                ldmatrix_x4(both, tile_k + key * QK_STRIDE + 16 * step + lane / 8 % 2 * 8);
                multiply_qk(scores[n], q[step], {both[0], both[1]});
                multiply_qk(scores[n + 1], q[step], {both[2], both[3]});
            }
        }

        const unsigned start = j * KEYS;
        const bool masked = start + KEYS > length || (CAUSAL && start + KEYS > first + 16 * warp);
        // With QKV_FP8, the logarithms of probabilities have that of their values' scale added, and
        // row_max is whole.
        ValueScale v_scale(1.0f);
        if constexpr (QKV_FP8) v_scale = ValueScale(qkv_scales[2 + v_head * value_blocks(tokens) + j]);
        float new_max[2] = {row_max[0], row_max[1]}, factors[2];
#pragma unroll
        for (unsigned n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                const unsigned column = start + 8 * n + lane % 4 * 2 + i % 2, row = own + i / 2 * 8;
                if (masked && (column >= length || (CAUSAL && column > row))) scores[n][i] = NEG_INF;
                const float log2 = QKV_FP8 ? scores[n][i] * scale_log2 + v_scale.log2 : scores[n][i] * scale_log2;
                new_max[i / 2] = fmaxf(new_max[i / 2], log2);
            }
        }
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            new_max[i] = fmaxf(new_max[i], __shfl_xor_sync(0xffffffffu, new_max[i], 1));
            new_max[i] = fmaxf(new_max[i], __shfl_xor_sync(0xffffffffu, new_max[i], 2));
            if (QKV_FP8) new_max[i] = ceilf(new_max[i]);
            const float factor = exp2_approx(row_max[i] - new_max[i]);
            row_max[i] = new_max[i];
            row_sum[i] *= factor;
            factors[i] = factor;
            if (QKV_FP8) continue;
#pragma unroll
            for (unsigned n = 0; n < 2 * STEPS; n++) {
                acc_o[n][2 * i] *= factor;
                acc_o[n][2 * i + 1] *= factor;
            }
        }
        unsigned p[KEYS / P_KEYS][4];
        if constexpr (QKV_FP8) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const float base = v_scale.log2 + PROBABILITY_SHIFT - row_max[half];
                float sum = 0.0f;
#pragma unroll
                for (unsigned n = 0; n < KEYS / 8; n += 2) {
                    p[n / 4][n / 2 % 2 * 2 + half] = probability_codes(scores[n] + 2 * half, scores[n + 1] + 2 * half,
                                                                       scale_log2, base, sum);
                }
                row_sum[half] += sum * v_scale.inverse;
            }
        } else {
#pragma unroll
            for (unsigned n = 0; n < KEYS / 8; n++) {
                float exps[4];
#pragma unroll
                for (unsigned i = 0; i < 4; i++) {
                    exps[i] = exp2_approx(scores[n][i] * scale_log2 - row_max[i / 2]);
                    row_sum[i / 2] += exps[i];
                }
                p[n / 2][n % 2 * 2] = bf16x2_from_floats(exps[0], exps[1]);
                p[n / 2][n % 2 * 2 + 1] = bf16x2_from_floats(exps[2], exps[3]);
            }
        }

        // The values of this tile have landed; the next keys may still be in flight.
        cp_async_wait<1>();
        __syncthreads();
        if (j + 1 < key_tiles) load_values(smem_v + (j + 1) % 2 * TILE_SIZE, (j + 1) * KEYS, end);
        cp_async_commit();
        if constexpr (QKV_FP8) {
            // Ada keeps few bits of a sum of E4M3 products, as Hopper does (sm90/attention.cu). So
            // a tile of keys has its own, and acc_o is rescaled as they are added to it.
#pragma unroll
            for (unsigned n = 0; n < 2 * STEPS; n += 2) {
                float sums[2][4] = {};
#pragma unroll
                for (unsigned step = 0; step < KEYS / P_KEYS; step++) {
                    unsigned both[4];
                    const unsigned row = 8 * n + lane / 16 * 8 + lane % 8;
                    ldmatrix_x4(both, tile_v + row * V_STRIDE + 16 * step + lane / 8 % 2 * 8);
                    mma_m16n8k32_e4m3(sums[0], p[step], {both[0], both[1]});
                    mma_m16n8k32_e4m3(sums[1], p[step], {both[2], both[3]});
                }
#pragma unroll
                for (unsigned i = 0; i < 8; i++) {
                    float &sum = acc_o[n + i / 4][i % 4];
                    sum = sum * factors[i / 2 % 2] + sums[i / 4][i % 4];
                }
            }
        } else {
#pragma unroll
            for (unsigned step = 0; step < KEYS / P_KEYS; step++) {
#pragma unroll
                for (unsigned n = 0; n < 2 * STEPS; n += 2) {
                    unsigned both[4];
                    ldmatrix_x4_trans(both, tile_v + (16 * step + lane % 16) * STRIDE + 8 * n + lane / 16 * 8);
                    mma_m16n8k16_bf16(acc_o[n], p[step], {both[0], both[1]});
                    mma_m16n8k16_bf16(acc_o[n + 1], p[step], {both[2], both[3]});
                }
            }
        }
    }

    bf16 *to = static_cast<bf16 *>(out) + (static_cast<u64>(item) * tokens * query_heads + head) * HEAD;
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        row_sum[i] += __shfl_xor_sync(0xffffffffu, row_sum[i], 1);
        row_sum[i] += __shfl_xor_sync(0xffffffffu, row_sum[i], 2);
        const unsigned row = own + 8 * i;
        const float factor = 1.0f / row_sum[i];
        if constexpr (OUT_FP8) {
            float amax = 0.0f;
#pragma unroll
            for (unsigned n = 0; n < 2 * STEPS; n++) {
                acc_o[n][2 * i] *= factor;
                acc_o[n][2 * i + 1] *= factor;
                amax = fmaxf(amax, fmaxf(fabsf(acc_o[n][2 * i]), fabsf(acc_o[n][2 * i + 1])));
            }
            const Fp8Scale quantized = Fp8Scale::of_block(lane_max<4>(amax));
            if (row >= tokens) continue;
            const u64 rows = static_cast<u64>(gridDim.z) * tokens, row_index = static_cast<u64>(item) * tokens + row;
            if (lane % 4 == 0) scales[head * rows + row_index] = quantized.scale;
            fp8 *codes = static_cast<fp8 *>(out) + (row_index * query_heads + head) * HEAD;
#pragma unroll
            for (unsigned n = 0; n < 2 * STEPS; n++) {
                *reinterpret_cast<unsigned short *>(codes + 8 * n + lane % 4 * 2) =
                    quantized.codes(acc_o[n][2 * i], acc_o[n][2 * i + 1]);
            }
            continue;
        }
        if (row >= tokens) continue;
        bf16 *to_row = to + static_cast<u64>(row) * query_heads * HEAD;
#pragma unroll
        for (unsigned n = 0; n < 2 * STEPS; n++) {
            const unsigned column = 8 * n + lane % 4 * 2;
            if (HEAD % 2 == 0) {
                const unsigned pair = bf16x2_from_floats(acc_o[n][2 * i] * factor, acc_o[n][2 * i + 1] * factor);
                if (column < HEAD) *reinterpret_cast<unsigned *>(to_row + column) = pair;
            } else {
                if (column < HEAD) to_row[column] = to_bf16(acc_o[n][2 * i] * factor);
                if (column + 1 < HEAD) to_row[column + 1] = to_bf16(acc_o[n][2 * i + 1] * factor);
            }
        }
    }
}
