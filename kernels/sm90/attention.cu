// attention for heads of 128 on Hopper: the same sums as ../attention.cu, by wgmma from tiles that the copy engine brings.
//
// A block takes tiles of 192 queries of one head, one after the other. One warpgroup, the producer, asks for the queries of
// a tile and then for 128 keys and their values at a time, two places for each in turn; three others, the consumers, have
// 64 queries each. While one of them takes exponentials, the tensor cores work for the others (the idea is
// FlashAttention-3's, Shah et al. 2024, which has two consumers and orders them). The output leaves through the place of its
// queries, while the next tile is under way.
//
// Exponentials are taken relative to a score that was the largest of its row at some time. It is replaced when another is
// larger by LAG powers of two, which is rare after the first keys: until then the sums are not scaled again, and their
// quotient is the same (the idea is FlashAttention-4's).
//
// CLUSTER blocks, 1 or 2, take neighbouring tiles of one head and share its keys and values: each brings a part of them to
// both, so that they cross the L2 once.
// Constants: CAUSAL, HAS_LENGTHS, CLUSTER.

constexpr unsigned HEAD = 128, KEYS = 128, STAGES = 2;
constexpr unsigned CONSUMERS = 3, QUERIES = 64 * CONSUMERS, THREADS = 128 * (CONSUMERS + 1);
// Rows of a box that the copy engine brings, which has 64 columns; a tile of queries, keys or values is two columns of boxes.
constexpr unsigned BOX = 64;
constexpr unsigned QUERY_HALF = QUERIES * 64, KEY_HALF = KEYS * 64;
// Less than any score, and not so little that differences overflow.
constexpr float NOTHING = -1e30f;
constexpr float LAG = 8.0f;

// A tile: its head, item and first query, and how many keys any query of the cluster sees, in tiles. The last cluster of a head
// may have a tile past its queries.
struct Work {
    unsigned head, item, first, length, tiles;
};

// How many clusters' worth of tiles a head has.
__device__ __forceinline__ unsigned places(unsigned tokens) {
    return (tokens + CLUSTER * QUERIES - 1) / (CLUSTER * QUERIES);
}

// Tiles of one head follow each other, those with the most keys first.
__device__ __forceinline__ Work work_at(unsigned at, unsigned rank, const unsigned *lengths, unsigned tokens,
                                        unsigned query_heads) {
    const unsigned down = places(tokens), place = CAUSAL ? down - 1 - at % down : at % down;
    Work work;
    work.head = at / down % query_heads;
    work.item = at / down / query_heads;
    work.first = (place * CLUSTER + rank) * QUERIES;
    work.length = HAS_LENGTHS ? min(lengths[work.item], tokens) : tokens;
    const unsigned end = CAUSAL ? min(work.length, (place + 1) * CLUSTER * QUERIES) : work.length;
    // One even where a length is 0, which no item has: the barriers below wait for it.
    work.tiles = max((end + KEYS - 1) / KEYS, 1u);
    return work;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    attention(const __grid_constant__ TensorMap qkv, const unsigned *lengths, const __grid_constant__ TensorMap out,
              unsigned tokens, unsigned items, unsigned query_heads, unsigned key_heads, float scale) {
    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ Barrier queries_full[2], queries_empty[2];
    __shared__ Barrier keys_full[STAGES], keys_empty[STAGES], values_full[STAGES], values_empty[STAGES];
    bf16 *queries = reinterpret_cast<bf16 *>(shared), *keys = queries + 2 * 2 * QUERY_HALF;
    bf16 *values = keys + STAGES * 2 * KEY_HALF;
    const unsigned group = uniform(threadIdx.x / 128), warp = uniform(threadIdx.x / 32 % 4), lane = threadIdx.x % 32;
    const unsigned count = places(tokens) * query_heads * items;
    const unsigned rank = CLUSTER > 1 ? cluster_rank() : 0;
    let_next_start();
    if (threadIdx.x == 0) {
        for (unsigned i = 0; i < 2; i++) {
            queries_full[i].init(1);
            queries_empty[i].init(CONSUMERS);
        }
        for (unsigned i = 0; i < STAGES; i++) {
            keys_full[i].init(1);
            values_full[i].init(1);
            keys_empty[i].init(CONSUMERS * CLUSTER);
            values_empty[i].init(CONSUMERS * CLUSTER);
        }
        fence_barriers();
    }
    cluster_sync<CLUSTER>();
    wait_for_previous();

    if (group == CONSUMERS) {
        registers_give<32>();
        if (threadIdx.x % 128 == 0) {
            // Queries are a block's own; of keys and values each block brings some boxes to all.
            auto load_queries = [&](bf16 *to, Barrier &full, unsigned column, unsigned row, unsigned item) {
                full.expect(QUERIES * HEAD * sizeof(bf16));
#pragma unroll 1
                for (unsigned box = 0; box < 2 * CONSUMERS; box++) {
                    const unsigned half = box % 2, down = box / 2 * BOX;
                    copy_box(to + half * QUERY_HALF + down * 64, qkv, full, column * HEAD + 64 * half, row + down, item);
                }
            };
            auto load_keys = [&](bf16 *to, Barrier &full, unsigned column, unsigned row, unsigned item) {
                full.expect(KEYS * HEAD * sizeof(bf16));
#pragma unroll 1
                for (unsigned box = rank; box < 2 * KEYS / BOX; box += CLUSTER) {
                    const unsigned half = box % 2, down = box / 2 * BOX;
                    bf16 *place = to + half * KEY_HALF + down * 64;
                    if constexpr (CLUSTER == 1) {
                        copy_box(place, qkv, full, column * HEAD + 64 * half, row + down, item);
                    } else {
                        copy_box_to_all(place, qkv, full, column * HEAD + 64 * half, row + down, item);
                    }
                }
            };
            unsigned at = 0, done = 0;
            for (unsigned i = blockIdx.x / CLUSTER; i < count; i += gridDim.x / CLUSTER, done++) {
                const Work work = work_at(i, rank, lengths, tokens, query_heads);
                const unsigned key_head = query_heads + work.head / (query_heads / key_heads);
                // The first round finds every place empty.
                queries_empty[done % 2].wait((done / 2 + 1) % 2);
                load_queries(queries + done % 2 * 2 * QUERY_HALF, queries_full[done % 2], work.head, work.first, work.item);
                for (unsigned j = 0; j < work.tiles; j++, at++) {
                    const unsigned slot = at % STAGES, empty = (at / STAGES + 1) % 2;
                    keys_empty[slot].wait(empty);
                    load_keys(keys + slot * 2 * KEY_HALF, keys_full[slot], key_head, j * KEYS, work.item);
                    values_empty[slot].wait(empty);
                    load_keys(values + slot * 2 * KEY_HALF, values_full[slot], key_head + key_heads, j * KEYS, work.item);
                }
            }
        }
    } else {
        registers_take<160>();
        // A lane holds rows lane/4 and lane/4 + 8 of its warp's sixteen.
        float scores[KEYS / 2], sums[HEAD / 2], largest[2], total[2];
        unsigned weights[KEYS / 16][4];
        const float to_exponent = scale * 1.44269504f;
        const bool speaks = threadIdx.x % 128 == 0;
        // Tiles of keys and of queries so far.
        unsigned at = 0, done = 0;

        // One thread of the warpgroup tells each block of the cluster that a place may be filled again.
        auto release = [&](Barrier &empty) {
            if (threadIdx.x % 128 < CLUSTER) empty.arrive_at<CLUSTER>(threadIdx.x % 128);
        };
        auto score = [&](const bf16 *own) {
            const u64 query = matrix_at(own), key = matrix_at(keys + at % STAGES * 2 * KEY_HALF);
            hold(scores);
            wgmma_fence();
#pragma unroll
            for (unsigned step = 0; step < HEAD / 16; step++) {
                const unsigned half = step / 4, inside = step % 4 * 32;
                const u64 q = later(query, half * QUERY_HALF * sizeof(bf16) + inside);
                wgmma_k16(scores, q, later(key, half * KEY_HALF * sizeof(bf16) + inside), step != 0);
            }
            wgmma_commit();
            wgmma_wait<0>();
            hold(scores);
        };
        auto weigh = [&] {
            const u64 value = matrix_at(values + at % STAGES * 2 * KEY_HALF, KEY_HALF * sizeof(bf16));
            hold(sums);
            wgmma_fence();
#pragma unroll
            for (unsigned step = 0; step < KEYS / 16; step++) {
                // Sixteen keys are sixteen rows of 128 bytes.
                wgmma_k16_rows(sums, weights[step], later(value, step * 16 * 128), true);
            }
            wgmma_commit();
            wgmma_wait<0>();
            hold(sums);
        };
        // Hides scores of the keys from `start` on that a query does not see.
        auto hide = [&](unsigned start, unsigned length, unsigned row) {
            if (start + KEYS <= length && !(CAUSAL && start + KEYS > row)) return;
            const unsigned own = row + lane / 4;
#pragma unroll
            for (unsigned i = 0; i < KEYS / 2; i++) {
                const unsigned column = start + i / 4 * 8 + lane % 4 * 2 + i % 2;
                const bool hidden = column >= length || (CAUSAL && column > own + i / 2 % 2 * 8);
                scores[i] = hidden ? __uint_as_float(0xff800000u) : scores[i];
            }
        };
        // Has the scores' exponentials taken relative to a score that none exceeds by far.
        auto follow = [&] {
            float most[2];
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                most[half] = largest[half];
#pragma unroll
                for (unsigned i = 0; i < KEYS / 8; i++) {
                    most[half] = fmaxf(most[half], fmaxf(scores[4 * i + 2 * half], scores[4 * i + 2 * half + 1]));
                }
                most[half] = fmaxf(most[half], __shfl_xor_sync(0xffffffffu, most[half], 1));
                most[half] = fmaxf(most[half], __shfl_xor_sync(0xffffffffu, most[half], 2));
            }
            const float risen = fmaxf(most[0] - largest[0], most[1] - largest[1]) * to_exponent;
            if (!__any_sync(0xffffffffu, risen > LAG)) return;
            float factor[2];
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                factor[half] = exp2_approx((largest[half] - most[half]) * to_exponent);
                largest[half] = most[half];
                total[half] *= factor[half];
            }
#pragma unroll
            for (unsigned k = 0; k < HEAD / 2; k++) sums[k] *= factor[k / 2 % 2];
        };
        // Scores to weights.
        auto soften = [&] {
            const float base[2] = {largest[0] * to_exponent, largest[1] * to_exponent};
#pragma unroll
            for (unsigned i = 0; i < KEYS / 8; i++) {
#pragma unroll
                for (unsigned half = 0; half < 2; half++) {
                    const float a = exp2_approx(scores[4 * i + 2 * half] * to_exponent - base[half]);
                    const float b = exp2_approx(scores[4 * i + 2 * half + 1] * to_exponent - base[half]);
                    total[half] += a + b;
                    weights[i / 2][i % 2 * 2 + half] = bf16x2_from_floats(a, b);
                }
            }
        };

        for (unsigned i = blockIdx.x / CLUSTER; i < count; i += gridDim.x / CLUSTER, done++) {
            const Work work = work_at(i, rank, lengths, tokens, query_heads);
            const unsigned row = work.first + 64 * group + 16 * warp;
            bf16 *own = queries + done % 2 * 2 * QUERY_HALF + group * BOX * 64;
            largest[0] = largest[1] = NOTHING;
            total[0] = total[1] = 0.0f;
#pragma unroll
            for (unsigned k = 0; k < HEAD / 2; k++) sums[k] = 0.0f;

            queries_full[done % 2].wait(done / 2 % 2);
            for (unsigned j = 0; j < work.tiles; j++, at++) {
                const unsigned slot = at % STAGES, phase = at / STAGES % 2;
                keys_full[slot].wait(phase);
                score(own);
                release(keys_empty[slot]);
                if (speaks && j == 0 && done > 0) {
                    // The tile before has left, and its place is free.
                    store_wait<0>();
                    queries_empty[(done - 1) % 2].arrive();
                }
                hide(j * KEYS, work.length, row);
                follow();
                soften();
                values_full[slot].wait(phase);
                weigh();
                release(values_empty[slot]);
            }
            float factor[2];
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
                total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
                factor[half] = 1.0f / total[half];
            }

            // To the place of the queries, which all of this warpgroup are done with: chunks of eight swapped as the engine has it.
            barrier_sync(1 + group, 128);
#pragma unroll
            for (unsigned k = 0; k < HEAD / 8; k++) {
#pragma unroll
                for (unsigned half = 0; half < 2; half++) {
                    const unsigned below = 16 * warp + 8 * half + lane / 4, part = (k % 8) ^ (below % 8);
                    const float a = sums[4 * k + 2 * half] * factor[half], b = sums[4 * k + 2 * half + 1] * factor[half];
                    bf16 *to = own + k / 8 * QUERY_HALF + below * 64 + part * 8 + lane % 4 * 2;
                    *reinterpret_cast<unsigned *>(to) = bf16x2_from_floats(a, b);
                }
            }
            fence_shared();
            barrier_sync(1 + group, 128);
            if (speaks) {
                store_box(out, own, work.head * HEAD, work.first + 64 * group, work.item);
                store_box(out, own + QUERY_HALF, work.head * HEAD + 64, work.first + 64 * group, work.item);
                store_commit();
            }
        }
        if (speaks) store_wait<0>();
    }
    // No block ends while the other one may still write to its memory or its barriers.
    cluster_sync<CLUSTER>();
}
