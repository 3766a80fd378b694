// attention for heads of 128 on Hopper: the same sums as ../attention.cu, by wgmma from tiles that the copy engine brings.
//
// A block takes tiles of 128 queries of one head, one after the other. One warpgroup, the producer, asks for the queries of
// a tile and then for 128 keys and their values at a time, two places for each in turn; two others, the consumers, have
// 64 queries each. While the tensor cores multiply the weights of some keys with their values and make the scores of
// the next, the other units take the exponentials of those that are there (after FlashAttention-3, Shah et al. 2024).
// The output leaves through the place of its queries, while the next tile is under way.
// Constants: CAUSAL, HAS_LENGTHS.

constexpr unsigned HEAD = 128, QUERIES = 128, KEYS = 128, STAGES = 2;
constexpr unsigned CONSUMERS = 2, THREADS = 128 * (CONSUMERS + 1);
// 64 columns of 128 rows, as the copy engine brings them; a tile of queries, keys or values is two of them.
constexpr unsigned HALF = 128 * 64, TILE = 2 * HALF;
// Less than any score, and not so little that differences overflow.
constexpr float NOTHING = -1e30f;

// A tile: its head, item and first query, and how many keys any of its queries sees, in tiles.
struct Work {
    unsigned head, item, first, length, tiles;
};

// Tiles of one head follow each other, those with the most keys first.
__device__ __forceinline__ Work work_at(unsigned at, const unsigned *lengths, unsigned tokens, unsigned query_heads) {
    const unsigned down = (tokens + QUERIES - 1) / QUERIES, tile = at % down;
    Work work;
    work.head = at / down % query_heads;
    work.item = at / down / query_heads;
    work.first = (CAUSAL ? down - 1 - tile : tile) * QUERIES;
    work.length = HAS_LENGTHS ? min(lengths[work.item], tokens) : tokens;
    const unsigned end = CAUSAL ? min(work.length, work.first + QUERIES) : work.length;
    // One even where a length is 0, which no item has: the barriers below wait for it.
    work.tiles = max((end + KEYS - 1) / KEYS, 1u);
    return work;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention(const __grid_constant__ TensorMap qkv, const unsigned *lengths, const __grid_constant__ TensorMap out,
              unsigned tokens, unsigned items, unsigned query_heads, unsigned key_heads, float scale) {
    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ Barrier queries_full[2], queries_empty[2];
    __shared__ Barrier keys_full[STAGES], keys_empty[STAGES], values_full[STAGES], values_empty[STAGES];
    bf16 *queries = reinterpret_cast<bf16 *>(shared), *keys = queries + 2 * TILE, *values = keys + STAGES * TILE;
    const unsigned group = threadIdx.x / 128, lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const unsigned count = (tokens + QUERIES - 1) / QUERIES * query_heads * items;
    let_next_start();
    if (threadIdx.x == 0) {
        for (unsigned i = 0; i < 2; i++) {
            queries_full[i].init(1);
            queries_empty[i].init(CONSUMERS);
        }
        for (unsigned i = 0; i < STAGES; i++) {
            keys_full[i].init(1);
            values_full[i].init(1);
            keys_empty[i].init(CONSUMERS);
            values_empty[i].init(CONSUMERS);
        }
        fence_barriers();
    }
    __syncthreads();
    wait_for_previous();

    if (group == CONSUMERS) {
        registers_give<24>();
        if (threadIdx.x % 128 == 0) {
            auto load = [&](bf16 *to, Barrier &full, unsigned column, unsigned row, unsigned item) {
                full.expect(TILE * sizeof(bf16));
                copy_box(to, qkv, full, column * HEAD, row, item);
                copy_box(to + HALF, qkv, full, column * HEAD + 64, row, item);
            };
            unsigned at = 0, done = 0;
            for (unsigned i = blockIdx.x; i < count; i += gridDim.x, done++) {
                const Work work = work_at(i, lengths, tokens, query_heads);
                const unsigned key_head = query_heads + work.head / (query_heads / key_heads);
                // The first round finds every place empty.
                queries_empty[done % 2].wait((done / 2 + 1) % 2);
                load(queries + done % 2 * TILE, queries_full[done % 2], work.head, work.first, work.item);
                for (unsigned j = 0; j < work.tiles; j++, at++) {
                    const unsigned slot = at % STAGES, empty = (at / STAGES + 1) % 2;
                    keys_empty[slot].wait(empty);
                    load(keys + slot * TILE, keys_full[slot], key_head, j * KEYS, work.item);
                    values_empty[slot].wait(empty);
                    load(values + slot * TILE, values_full[slot], key_head + key_heads, j * KEYS, work.item);
                }
            }
        }
    } else {
        registers_take<240>();
        // A lane holds rows lane/4 and lane/4 + 8 of its warp's sixteen.
        float scores[KEYS / 2], sums[HEAD / 2], largest[2], total[2];
        unsigned weights[KEYS / 16][4];
        const float to_exponent = scale * 1.44269504f;
        const bool speaks = threadIdx.x % 128 == 0;
        // Tiles of keys and of queries so far.
        unsigned at = 0, done = 0;

        auto score = [&](const bf16 *own) {
            const u64 query = matrix_at(own), key = matrix_at(keys + at % STAGES * TILE);
            hold(scores);
            wgmma_fence();
#pragma unroll
            for (unsigned step = 0; step < HEAD / 16; step++) {
                const unsigned bytes = step / 4 * HALF * sizeof(bf16) + step % 4 * 32;
                wgmma_k16(scores, later(query, bytes), later(key, bytes), step != 0);
            }
            wgmma_commit();
        };
        auto weigh = [&](unsigned slot, bool add) {
            const u64 value = matrix_at(values + slot * TILE, HALF * sizeof(bf16));
            hold(sums);
            wgmma_fence();
#pragma unroll
            for (unsigned step = 0; step < KEYS / 16; step++) {
                // Sixteen keys are sixteen rows of 128 bytes.
                wgmma_k16_rows(sums, weights[step], later(value, step * 16 * 128), add || step != 0);
            }
            wgmma_commit();
        };
        // Scores of the keys from `start` on to exponentials, in place; returns what the sums so far are to be multiplied with.
        auto soften = [&](unsigned start, unsigned length, unsigned row) {
            if (start + KEYS > length || (CAUSAL && start + KEYS > row)) {
                const unsigned own = row + lane / 4;
#pragma unroll
                for (unsigned i = 0; i < KEYS / 2; i++) {
                    const unsigned column = start + i / 4 * 8 + lane % 4 * 2 + i % 2;
                    const bool hidden = column >= length || (CAUSAL && column > own + i / 2 % 2 * 8);
                    scores[i] = hidden ? __uint_as_float(0xff800000u) : scores[i];
                }
            }
            float2 again;
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                float most = largest[half];
#pragma unroll
                for (unsigned i = 0; i < KEYS / 8; i++) {
                    most = fmaxf(most, fmaxf(scores[4 * i + 2 * half], scores[4 * i + 2 * half + 1]));
                }
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
                const float factor = exp2_approx((largest[half] - most) * to_exponent), base = most * to_exponent;
                (half == 0 ? again.x : again.y) = factor;
                largest[half] = most;
                total[half] *= factor;
#pragma unroll
                for (unsigned i = 0; i < KEYS / 8; i++) {
#pragma unroll
                    for (unsigned k = 0; k < 2; k++) {
                        float &value = scores[4 * i + 2 * half + k];
                        value = exp2_approx(value * to_exponent - base);
                        total[half] += value;
                    }
                }
            }
            return again;
        };
        auto keep_weights = [&] {
#pragma unroll
            for (unsigned i = 0; i < KEYS / 8; i++) {
                weights[i / 2][i % 2 * 2] = bf16x2_from_floats(scores[4 * i], scores[4 * i + 1]);
                weights[i / 2][i % 2 * 2 + 1] = bf16x2_from_floats(scores[4 * i + 2], scores[4 * i + 3]);
            }
        };

        for (unsigned i = blockIdx.x; i < count; i += gridDim.x, done++) {
            const Work work = work_at(i, lengths, tokens, query_heads);
            const unsigned row = work.first + 64 * group + 16 * warp;
            bf16 *own = queries + done % 2 * TILE + group * 64 * 64;
            largest[0] = largest[1] = NOTHING;
            total[0] = total[1] = 0.0f;

            queries_full[done % 2].wait(done / 2 % 2);
            keys_full[at % STAGES].wait(at / STAGES % 2);
            score(own);
            if (speaks && done > 0) {
                // The tile before has left, and its place is free.
                store_wait<0>();
                queries_empty[(done - 1) % 2].arrive();
            }
            wgmma_wait<0>();
            hold(scores);
            if (speaks) keys_empty[at % STAGES].arrive();
            soften(0, work.length, row);
            keep_weights();
            for (unsigned j = 1; j < work.tiles; j++) {
                const unsigned before = at % STAGES, phase = at / STAGES % 2;
                at++;
                keys_full[at % STAGES].wait(at / STAGES % 2);
                score(own);
                values_full[before].wait(phase);
                weigh(before, j > 1);
                wgmma_wait<1>();
                hold(scores);
                if (speaks) keys_empty[at % STAGES].arrive();
                const float2 again = soften(j * KEYS, work.length, row);
                wgmma_wait<0>();
                hold(sums);
                if (speaks) values_empty[before].arrive();
#pragma unroll
                for (unsigned k = 0; k < HEAD / 2; k++) sums[k] *= k / 2 % 2 == 0 ? again.x : again.y;
                keep_weights();
            }
            values_full[at % STAGES].wait(at / STAGES % 2);
            weigh(at % STAGES, work.tiles > 1);
            float factor[2];
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
                total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
                factor[half] = 1.0f / total[half];
            }
            wgmma_wait<0>();
            hold(sums);
            if (speaks) values_empty[at % STAGES].arrive();
            at++;

            // To the place of the queries, which all of this warpgroup are done with: chunks of eight swapped as the engine has it.
            barrier_sync(1 + group, 128);
#pragma unroll
            for (unsigned k = 0; k < HEAD / 8; k++) {
#pragma unroll
                for (unsigned half = 0; half < 2; half++) {
                    const unsigned below = 16 * warp + 8 * half + lane / 4, part = (k % 8) ^ (below % 8);
                    const float a = sums[4 * k + 2 * half] * factor[half], b = sums[4 * k + 2 * half + 1] * factor[half];
                    bf16 *to = own + k / 8 * HALF + below * 64 + part * 8 + lane % 4 * 2;
                    *reinterpret_cast<unsigned *>(to) = bf16x2_from_floats(a, b);
                }
            }
            fence_shared();
            barrier_sync(1 + group, 128);
            if (speaks) {
                store_box(out, own, work.head * HEAD, work.first + 64 * group, work.item);
                store_box(out, own + HALF, work.head * HEAD + 64, work.first + 64 * group, work.item);
                store_commit();
            }
        }
        if (speaks) store_wait<0>();
    }
}
