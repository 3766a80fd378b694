// attention on Hopper for heads of 128: softmax(q·kᵀ/√128 + mask)·v as in ../attention.cu, by TMA
// and wgmma.
//
// Grid: one CTA per SM, each of which takes tiles of 192 queries of one head until none is left.
// Roles:
//   producer   the last warpgroup; one thread of it loads the queries of a tile, then 128 keys and
//              their values at a time, in STAGES stages.
//   consumers  three warpgroups with 64 queries each. While one computes exponentials, the tensor
//              cores work for the others (an idea of FlashAttention-3, Shah et al. 2024, which has
//              two consumers and orders them). The output leaves by TMA through the shared memory
//              of its queries, during the next tile.
// Barriers: {q,k,v}_full[s] complete when a stage has landed, {q,k,v}_empty[s] when all consumers
//   are done with it.
// Softmax: exponentials are relative to a running row_max. It is replaced, and the output rescaled,
//   only when a score exceeds it by RESCALE_THRESHOLD powers of two, which is rare after the first
//   keys; the quotient is the same (an idea of FlashAttention-4).
// Clusters: CLUSTER CTAs, 1 or 2, take neighbouring tiles of one head and share its keys and
//   values: each multicasts a part of them, so that they cross the L2 once.
// With OUT_FP8, the output is an FP8 activation `[items·tokens, query_heads·128]` with a scale for
//   each head and token, from the values before rounding; its map has boxes of 128 columns.
// With QKV_FP8, the input is a projection in FP8 (common/fp8.cuh): `qkv` maps the codes of queries
//   and keys, in boxes of 128 columns, `values` the transposed ones of the values, in boxes of 128
//   tokens, and `qkv_scales` are the scales. Probabilities are E4M3 too (common/attention.cuh).
//   Both gemms take half the cycles of the tensor cores, and a stage has half the memory, as have
//   the queries if the output is in FP8 too. The tensor cores keep 14 bits of a sum of E4M3
//   products, and drop what an addend has below. A sum over thousands of keys would lose some
//   percent of a mean. So they add up the keys of a tile only, in the registers of its scores, and
//   acc_o is a sum in F32, which is rescaled as it is added to. Without, `values` and `qkv_scales`
//   are not used.
// Constants: CAUSAL, HAS_LENGTHS, CLUSTER, OUT_FP8, QKV_FP8, STAGES.

#include "common/attention.cuh"
#include "common/fp8.cuh"
#include "common/reduce.cuh"
#include "sm90/ptx/barrier.cuh"
#include "sm90/ptx/cluster.cuh"
#include "sm90/ptx/pdl.cuh"
#include "sm90/ptx/tma.cuh"
#include "sm90/ptx/wgmma.cuh"

#ifndef CAUSAL
#define CAUSAL 0
#define HAS_LENGTHS 1
#define CLUSTER 2
#endif
#ifndef OUT_FP8
#define OUT_FP8 0
#endif
#ifndef QKV_FP8
#define QKV_FP8 0
#define STAGES 2
#endif

constexpr unsigned HEAD = 128, KEYS = 128;
constexpr unsigned WARPGROUP = 128, CONSUMERS = 3, QUERIES = 64 * CONSUMERS, THREADS = WARPGROUP * (CONSUMERS + 1);
// Registers of a thread of the producer and of a consumer: all 64 K of the SM.
constexpr unsigned PRODUCER_REGISTERS = 32, CONSUMER_REGISTERS = 160;
// Rows of a TMA box, and columns of one of BF16. A box of codes has twice as many.
constexpr unsigned BOX = 64;
// A tile of queries, keys, values or outputs is two columns of boxes in BF16, and one in FP8.
constexpr unsigned QKV_BOXES = QKV_FP8 ? 1 : 2, OUT_BOXES = OUT_FP8 ? 1 : 2;
// A column of boxes, and the tiles, in units of a BF16. The output takes the place of the queries.
constexpr unsigned Q_HALF = QUERIES * BOX, KV_HALF = KEYS * BOX;
constexpr unsigned Q_SIZE = (QKV_BOXES > OUT_BOXES ? QKV_BOXES : OUT_BOXES) * Q_HALF, KV_SIZE = QKV_BOXES * KV_HALF;
// Blocks of values with a scale in a tile of keys, and the keys of a wgmma of p·v: 32 bytes.
constexpr unsigned BLOCKS = KEYS / VALUE_BLOCK, P_KEYS = QKV_FP8 ? 32 : 16;
constexpr float RESCALE_THRESHOLD = 8.0f;
static_assert(!QKV_FP8 || KEYS == HEAD, "a tile of transposed values has the boxes of a tile of keys");

// A tile of queries: its head, item and first query; `key_tiles` cover all keys that any query of
// the cluster sees. The last cluster of a head may have a tile past its queries.
struct Tile {
    unsigned head, item, first, length, key_tiles;
};

__device__ __forceinline__ unsigned clusters_per_head(unsigned tokens) {
    return (tokens + CLUSTER * QUERIES - 1) / (CLUSTER * QUERIES);
}

// The tile of CTA `rank` of the i-th cluster. Tiles of a head follow each other, those with the
// most keys first.
__device__ __forceinline__ Tile tile_at(unsigned i, unsigned rank, const unsigned *lengths, unsigned tokens,
                                        unsigned query_heads) {
    const unsigned down = clusters_per_head(tokens), row = CAUSAL ? down - 1 - i % down : i % down;
    Tile tile;
    tile.head = i / down % query_heads;
    tile.item = i / down / query_heads;
    tile.first = (row * CLUSTER + rank) * QUERIES;
    tile.length = HAS_LENGTHS ? min(lengths[tile.item], tokens) : tokens;
    const unsigned end = CAUSAL ? min(tile.length, (row + 1) * CLUSTER * QUERIES) : tile.length;
    // At least one, because the barriers below wait for it; no item has a length of 0.
    tile.key_tiles = max((end + KEYS - 1) / KEYS, 1u);
    return tile;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    attention(const __grid_constant__ TensorMap qkv, const unsigned *lengths, const __grid_constant__ TensorMap out,
              float *scales, unsigned tokens, unsigned items, unsigned query_heads, unsigned key_heads, float scale,
              const __grid_constant__ TensorMap values, const float *qkv_scales) {
    extern __shared__ __align__(1024) unsigned char smem[];
    __shared__ Barrier q_full[2], q_empty[2];
    __shared__ Barrier k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
    bf16 *smem_q = reinterpret_cast<bf16 *>(smem), *smem_k = smem_q + 2 * Q_SIZE;
    bf16 *smem_v = smem_k + STAGES * KV_SIZE;
    const unsigned group = warp_uniform(threadIdx.x / WARPGROUP), warp = warp_uniform(threadIdx.x / 32 % 4),
                   lane = threadIdx.x % 32;
    const unsigned count = clusters_per_head(tokens) * query_heads * items;
    const unsigned rank = CLUSTER > 1 ? cluster_rank() : 0;
    griddepcontrol_launch_dependents();
    if (threadIdx.x == 0) {
        for (unsigned i = 0; i < 2; i++) {
            q_full[i].init(1);
            q_empty[i].init(CONSUMERS);
        }
        for (unsigned i = 0; i < STAGES; i++) {
            k_full[i].init(1);
            v_full[i].init(1);
            k_empty[i].init(CONSUMERS * CLUSTER);
            v_empty[i].init(CONSUMERS * CLUSTER);
        }
        fence_barrier_init();
    }
    cluster_sync<CLUSTER>();
    griddepcontrol_wait();

    if (group == CONSUMERS) {
        // Producer.
        warpgroup_reg_dealloc<PRODUCER_REGISTERS>();
        if (threadIdx.x % WARPGROUP == 0) {
            // Queries are the CTA's own; each CTA of the cluster loads some boxes of keys and
            // values for all.
            auto load_q = [&](bf16 *to, Barrier &full, unsigned head, unsigned row, unsigned item) {
                full.arrive_expect_tx(QKV_BOXES * Q_HALF * sizeof(bf16));
#pragma unroll 1
                for (unsigned box = 0; box < QKV_BOXES * CONSUMERS; box++) {
                    const unsigned half = box % QKV_BOXES, down = box / QKV_BOXES * BOX;
                    tma_load(to + half * Q_HALF + down * 64, qkv, full, head * HEAD + 64 * half, row + down, item);
                }
            };
            auto load_kv = [&](bf16 *to, const TensorMap &map, Barrier &full, unsigned column, unsigned row,
                               unsigned item) {
                full.arrive_expect_tx(KV_SIZE * sizeof(bf16));
#pragma unroll 1
                for (unsigned box = rank; box < QKV_BOXES * KEYS / BOX; box += CLUSTER) {
                    const unsigned half = box % QKV_BOXES, down = box / QKV_BOXES * BOX;
                    bf16 *to_box = to + half * KV_HALF + down * 64;
                    if constexpr (CLUSTER == 1) {
                        tma_load(to_box, map, full, column + 64 * half, row + down, item);
                    } else {
                        tma_load_multicast(to_box, map, full, column + 64 * half, row + down, item);
                    }
                }
            };
            auto load_k = [&](unsigned slot, unsigned head, unsigned row, unsigned item) {
                load_kv(smem_k + slot * KV_SIZE, qkv, k_full[slot], head * HEAD, row, item);
            };
            auto load_v = [&](unsigned slot, unsigned head, unsigned row, unsigned item) {
                bf16 *to = smem_v + slot * KV_SIZE;
                if constexpr (QKV_FP8) {
                    load_kv(to, values, v_full[slot], row, head * HEAD, item);
                } else {
                    load_kv(to, qkv, v_full[slot], head * HEAD, row, item);
                }
            };
            // Tiles of keys and of queries so far.
            unsigned kv = 0, q = 0;
            for (unsigned i = blockIdx.x / CLUSTER; i < count; i += gridDim.x / CLUSTER, q++) {
                const Tile tile = tile_at(i, rank, lengths, tokens, query_heads);
                const unsigned key_head = query_heads + tile.head / (query_heads / key_heads);
                // The phase before the first one counts as completed: every stage is empty at
                // first.
                q_empty[q % 2].wait((q / 2 + 1) % 2);
                load_q(smem_q + q % 2 * Q_SIZE, q_full[q % 2], tile.head, tile.first, tile.item);
                for (unsigned j = 0; j < tile.key_tiles; j++, kv++) {
                    const unsigned slot = kv % STAGES, empty = (kv / STAGES + 1) % 2;
                    k_empty[slot].wait(empty);
                    load_k(slot, key_head, j * KEYS, tile.item);
                    v_empty[slot].wait(empty);
                    load_v(slot, QKV_FP8 ? key_head - query_heads : key_head + key_heads, j * KEYS, tile.item);
                }
            }
        }
    } else {
        // Consumer. A lane holds rows lane / 4 and lane / 4 + 8 of its warp's sixteen.
        warpgroup_reg_alloc<CONSUMER_REGISTERS>();
        float scores[KEYS / 2], acc_o[HEAD / 2], row_max[2], row_sum[2];
        unsigned p[KEYS / P_KEYS][4];
        // Scores are products of codes. With norms of zero a factor of 0 would make NaN of masked
        // ones.
        const float scale_log2 = scale * LOG2E * (QKV_FP8 ? fmaxf(qkv_scales[0] * qkv_scales[1], 1e-30f) : 1.0f);
        const bool leader = threadIdx.x % WARPGROUP == 0;
        // Tiles of keys and of queries so far.
        unsigned kv = 0, q = 0;

        // One thread per CTA of the cluster tells its producer that this warpgroup is done with a
        // stage.
        auto release = [&](Barrier &empty) {
            if (threadIdx.x % WARPGROUP < CLUSTER) empty.arrive_remote<CLUSTER>(threadIdx.x % WARPGROUP);
        };
        // scores = q·kᵀ.
        auto qk = [&](const bf16 *own_q) {
            const u64 desc_q = smem_desc(own_q), desc_k = smem_desc(smem_k + kv % STAGES * KV_SIZE);
            warpgroup_fence_operand(scores);
            wgmma_fence();
#pragma unroll
            for (unsigned step = 0; step < 4 * QKV_BOXES; step++) {
                const unsigned half = step / 4, inside = step % 4 * 32;
                const u64 a = advance(desc_q, half * Q_HALF * sizeof(bf16) + inside),
                          b = advance(desc_k, half * KV_HALF * sizeof(bf16) + inside);
                if constexpr (QKV_FP8) {
                    wgmma_ss_e4m3(scores, a, b, step != 0);
                } else {
                    wgmma_ss(scores, a, b, step != 0);
                }
            }
            wgmma_commit();
            wgmma_wait<0>();
            warpgroup_fence_operand(scores);
        };
        // acc_o += p·v.
        auto pv = [&] {
            const u64 desc_v = smem_desc(smem_v + kv % STAGES * KV_SIZE, KV_HALF * sizeof(bf16));
            warpgroup_fence_operand(acc_o);
            wgmma_fence();
#pragma unroll
            for (unsigned step = 0; step < KEYS / 16; step++) {
                // Sixteen keys are sixteen rows of 128 bytes.
                wgmma_rs(acc_o, p[step], advance(desc_v, step * 16 * 128), true);
            }
            wgmma_commit();
            wgmma_wait<0>();
            warpgroup_fence_operand(acc_o);
        };
        // acc_o = acc_o·factor + p·v with QKV_FP8.
        auto pv_fp8 = [&](const float(&factor)[2]) {
            const u64 desc_v = smem_desc(smem_v + kv % STAGES * KV_SIZE);
            warpgroup_fence_operand(scores);
            wgmma_fence();
#pragma unroll
            for (unsigned step = 0; step < KEYS / 32; step++) {
                // 32 keys are 32 bytes of rows of 128.
                wgmma_rs_e4m3(scores, p[step], advance(desc_v, step * 32), step != 0);
            }
            wgmma_commit();
            wgmma_wait<0>();
            warpgroup_fence_operand(scores);
#pragma unroll
            for (unsigned k = 0; k < HEAD / 2; k++) acc_o[k] = acc_o[k] * factor[k / 2 % 2] + scores[k];
        };
        // Masks the keys from `start` on that a query does not see.
        auto mask = [&](unsigned start, unsigned length, unsigned row) {
            if (start + KEYS <= length && !(CAUSAL && start + KEYS > row)) return;
            const unsigned own = row + lane / 4;
#pragma unroll
            for (unsigned i = 0; i < KEYS / 2; i++) {
                const unsigned column = start + i / 4 * 8 + lane % 4 * 2 + i % 2;
                const bool hidden = column >= length || (CAUSAL && column > own + i / 2 % 2 * 8);
                scores[i] = hidden ? NEG_INF : scores[i];
            }
        };
        // Raises row_max, and rescales the sums, if a score exceeds it by far.
        auto rescale = [&] {
            float new_max[2];
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                new_max[half] = row_max[half];
#pragma unroll
                for (unsigned i = 0; i < KEYS / 8; i++) {
                    new_max[half] = fmaxf(new_max[half], fmaxf(scores[4 * i + 2 * half], scores[4 * i + 2 * half + 1]));
                }
                new_max[half] = fmaxf(new_max[half], __shfl_xor_sync(0xffffffffu, new_max[half], 1));
                new_max[half] = fmaxf(new_max[half], __shfl_xor_sync(0xffffffffu, new_max[half], 2));
            }
            const float rise = fmaxf(new_max[0] - row_max[0], new_max[1] - row_max[1]) * scale_log2;
            if (!__any_sync(0xffffffffu, rise > RESCALE_THRESHOLD)) return;
            float factor[2];
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                factor[half] = exp2_approx((row_max[half] - new_max[half]) * scale_log2);
                row_max[half] = new_max[half];
                row_sum[half] *= factor[half];
            }
#pragma unroll
            for (unsigned k = 0; k < HEAD / 2; k++) acc_o[k] *= factor[k / 2 % 2];
        };
        // The same with QKV_FP8 for every tile, where row_max is the logarithm of a power of two.
        // `factor` becomes those of acc_o.
        auto rescale_fp8 = [&](const ValueScale(&blocks)[BLOCKS], float(&factor)[2]) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                float new_max = row_max[half];
#pragma unroll
                for (unsigned block = 0; block < BLOCKS; block++) {
                    float largest = NEG_INF;
#pragma unroll
                    for (unsigned i = block * VALUE_BLOCK / 8; i < (block + 1) * VALUE_BLOCK / 8; i++) {
                        largest = fmaxf(largest, fmaxf(scores[4 * i + 2 * half], scores[4 * i + 2 * half + 1]));
                    }
                    new_max = fmaxf(new_max, largest * scale_log2 + blocks[block].log2);
                }
                new_max = fmaxf(new_max, __shfl_xor_sync(0xffffffffu, new_max, 1));
                new_max = ceilf(fmaxf(new_max, __shfl_xor_sync(0xffffffffu, new_max, 2)));
                factor[half] = exp2_approx(row_max[half] - new_max);
                row_max[half] = new_max;
                row_sum[half] *= factor[half];
            }
        };
        // p = exp(scores - row_max).
        auto softmax = [&] {
            const float base[2] = {row_max[0] * scale_log2, row_max[1] * scale_log2};
#pragma unroll
            for (unsigned i = 0; i < KEYS / 8; i++) {
#pragma unroll
                for (unsigned half = 0; half < 2; half++) {
                    const float a = exp2_approx(scores[4 * i + 2 * half] * scale_log2 - base[half]);
                    const float b = exp2_approx(scores[4 * i + 2 * half + 1] * scale_log2 - base[half]);
                    row_sum[half] += a + b;
                    p[i / 2][i % 2 * 2 + half] = bf16x2_from_floats(a, b);
                }
            }
        };

        // The same with QKV_FP8.
        auto softmax_fp8 = [&](const ValueScale(&blocks)[BLOCKS]) {
#pragma unroll
            for (unsigned block = 0; block < BLOCKS; block++) {
#pragma unroll
                for (unsigned half = 0; half < 2; half++) {
                    const float base = blocks[block].log2 + PROBABILITY_SHIFT - row_max[half];
                    float sum = 0.0f;
#pragma unroll
                    for (unsigned i = block * VALUE_BLOCK / 8; i < (block + 1) * VALUE_BLOCK / 8; i += 2) {
                        const float *own = scores + 4 * i + 2 * half;
                        p[i / 4][i / 2 % 2 * 2 + half] = probability_codes(own, own + 4, scale_log2, base, sum);
                    }
                    row_sum[half] += sum * blocks[block].inverse;
                }
            }
        };

        for (unsigned i = blockIdx.x / CLUSTER; i < count; i += gridDim.x / CLUSTER, q++) {
            const Tile tile = tile_at(i, rank, lengths, tokens, query_heads);
            const unsigned row = tile.first + 64 * group + 16 * warp;
            const unsigned kv_head = tile.item * key_heads + tile.head / (query_heads / key_heads);
            const float *value_scales = qkv_scales + 2 + kv_head * value_blocks(tokens);
            bf16 *own_q = smem_q + q % 2 * Q_SIZE + group * BOX * 64;
            row_max[0] = row_max[1] = MIN_ROW_MAX;
            row_sum[0] = row_sum[1] = 0.0f;
#pragma unroll
            for (unsigned k = 0; k < HEAD / 2; k++) acc_o[k] = 0.0f;

            q_full[q % 2].wait(q / 2 % 2);
            for (unsigned j = 0; j < tile.key_tiles; j++, kv++) {
                const unsigned slot = kv % STAGES, phase = kv / STAGES % 2;
                // They arrive during q·kᵀ. A block past the last token, all masked, has any scale.
                float block_scales[BLOCKS] = {};
                if constexpr (QKV_FP8) {
#pragma unroll
                    for (unsigned block = 0; block < BLOCKS; block++) {
                        block_scales[block] = value_scales[min(j * BLOCKS + block, value_blocks(tokens) - 1)];
                    }
                }
                k_full[slot].wait(phase);
                qk(own_q);
                release(k_empty[slot]);
                if (leader && j == 0 && q > 0) {
                    // The previous tile's output has left, and its queries' shared memory is free.
                    tma_store_wait<0>();
                    q_empty[(q - 1) % 2].arrive();
                }
                mask(j * KEYS, tile.length, row);
                float factor[2] = {};
                if constexpr (QKV_FP8) {
                    const ValueScale blocks[BLOCKS] = {block_scales[0], block_scales[1]};
                    rescale_fp8(blocks, factor);
                    softmax_fp8(blocks);
                } else {
                    rescale();
                    softmax();
                }
                v_full[slot].wait(phase);
                if constexpr (QKV_FP8) {
                    pv_fp8(factor);
                } else {
                    pv();
                }
                release(v_empty[slot]);
            }
            float factor[2];
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                row_sum[half] += __shfl_xor_sync(0xffffffffu, row_sum[half], 1);
                row_sum[half] += __shfl_xor_sync(0xffffffffu, row_sum[half], 2);
                factor[half] = 1.0f / row_sum[half];
            }

            // The output replaces this warpgroup's queries, in TMA's swizzle: chunk c of row r is
            // at c ^ r % 8.
            named_barrier_sync(CONSUMER_BARRIER + group, WARPGROUP);
            if constexpr (OUT_FP8) {
#pragma unroll
                for (unsigned k = 0; k < HEAD / 2; k++) acc_o[k] *= factor[k / 2 % 2];
#pragma unroll
                for (unsigned half = 0; half < 2; half++) {
                    const unsigned down = 16 * warp + 8 * half + lane / 4, token = tile.first + 64 * group + down;
                    float amax = 0.0f;
#pragma unroll
                    for (unsigned k = 0; k < HEAD / 8; k++) {
                        const float *pair = acc_o + 4 * k + 2 * half;
                        amax = fmaxf(amax, fmaxf(fabsf(pair[0]), fabsf(pair[1])));
                    }
                    const Fp8Scale quantized = Fp8Scale::of_block(lane_max<4>(amax));
                    if (lane % 4 == 0 && token < tokens) {
                        const u64 rows = static_cast<u64>(items) * tokens;
                        scales[tile.head * rows + static_cast<u64>(tile.item) * tokens + token] = quantized.scale;
                    }
                    // A row of 128 codes is 128 bytes.
                    unsigned char *to_row = reinterpret_cast<unsigned char *>(own_q) + down * 128 + lane % 4 * 2;
#pragma unroll
                    for (unsigned k = 0; k < HEAD / 8; k++) {
                        const unsigned chunk = (k / 2) ^ (down % 8);
                        *reinterpret_cast<unsigned short *>(to_row + chunk * 16 + k % 2 * 8) =
                            quantized.codes(acc_o[4 * k + 2 * half], acc_o[4 * k + 2 * half + 1]);
                    }
                }
            } else {
#pragma unroll
                for (unsigned k = 0; k < HEAD / 8; k++) {
#pragma unroll
                    for (unsigned half = 0; half < 2; half++) {
                        const unsigned down = 16 * warp + 8 * half + lane / 4, chunk = (k % 8) ^ (down % 8);
                        const float a = acc_o[4 * k + 2 * half] * factor[half],
                                    b = acc_o[4 * k + 2 * half + 1] * factor[half];
                        bf16 *to = own_q + k / 8 * Q_HALF + down * 64 + chunk * 8 + lane % 4 * 2;
                        *reinterpret_cast<unsigned *>(to) = bf16x2_from_floats(a, b);
                    }
                }
            }
            fence_proxy_async();
            named_barrier_sync(CONSUMER_BARRIER + group, WARPGROUP);
            if (leader) {
                tma_store(out, own_q, tile.head * HEAD, tile.first + 64 * group, tile.item);
                if (!OUT_FP8) {
                    tma_store(out, own_q + Q_HALF, tile.head * HEAD + 64, tile.first + 64 * group, tile.item);
                }
                tma_store_commit();
            }
        }
        if (leader) tma_store_wait<0>();
    }
    // No CTA ends while its peer may still write to its shared memory or barriers.
    cluster_sync<CLUSTER>();
}
