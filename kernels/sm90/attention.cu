// attention for heads of 128 on Hopper: the same sums as ../attention.cu, by wgmma from tiles that the copy engine brings.
//
// A block takes 128 queries of one head. One warpgroup, the producer, asks for the queries once and then for 128 keys and
// their values at a time, two tiles of each in turn; two others, the consumers, have 64 queries each. While the tensor
// cores multiply the weights of a tile with its values and make the scores of the next, the other units take the
// exponentials of those that are there (after FlashAttention-3, Shah et al. 2024).
// Constants: CAUSAL, HAS_LENGTHS.

constexpr unsigned HEAD = 128, QUERIES = 128, KEYS = 128, STAGES = 2;
constexpr unsigned CONSUMERS = 2, THREADS = 128 * (CONSUMERS + 1);
// 64 columns of 128 rows, as the copy engine brings them; a tile is two of them.
constexpr unsigned HALF = 128 * 64, TILE = 2 * HALF;
// Less than any score, and not so little that differences overflow.
constexpr float NOTHING = -1e30f;

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention(const __grid_constant__ TensorMap qkv, const unsigned *lengths, bf16 *out, unsigned tokens,
              unsigned query_heads, unsigned key_heads, float scale) {
    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ Barrier queries_full, keys_full[STAGES], keys_empty[STAGES], values_full[STAGES], values_empty[STAGES];
    bf16 *queries = reinterpret_cast<bf16 *>(shared), *keys = queries + TILE, *values = keys + STAGES * TILE;
    const unsigned group = threadIdx.x / 128, lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const unsigned tile = CAUSAL ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    const unsigned head = blockIdx.y, item = blockIdx.z, first = tile * QUERIES;
    const unsigned length = HAS_LENGTHS ? min(lengths[item], tokens) : tokens;
    const unsigned end = CAUSAL ? min(length, first + QUERIES) : length;
    // One even where a length is 0, which no item has: the barriers below wait for it.
    const unsigned tiles = max((end + KEYS - 1) / KEYS, 1u);
    if (threadIdx.x == 0) {
        queries_full.init(1);
        for (unsigned i = 0; i < STAGES; i++) {
            keys_full[i].init(1);
            values_full[i].init(1);
            keys_empty[i].init(CONSUMERS);
            values_empty[i].init(CONSUMERS);
        }
        fence_barriers();
    }
    __syncthreads();

    if (group == CONSUMERS) {
        registers_give<24>();
        if (threadIdx.x % 128 == 0) {
            const unsigned key_head = query_heads + head / (query_heads / key_heads);
            auto load = [&](bf16 *to, Barrier &full, unsigned column, unsigned row) {
                full.expect(TILE * sizeof(bf16));
                copy_box(to, qkv, full, column * HEAD, row, item);
                copy_box(to + HALF, qkv, full, column * HEAD + 64, row, item);
            };
            load(queries, queries_full, head, first);
            for (unsigned j = 0; j < tiles; j++) {
                const unsigned slot = j % STAGES;
                // The first round finds both stages empty.
                keys_empty[slot].wait((j / STAGES + 1) % 2);
                load(keys + slot * TILE, keys_full[slot], key_head, j * KEYS);
                values_empty[slot].wait((j / STAGES + 1) % 2);
                load(values + slot * TILE, values_full[slot], key_head + key_heads, j * KEYS);
            }
        }
    } else {
        registers_take<240>();
        // A lane holds rows lane/4 and lane/4 + 8 of its warp's sixteen.
        float scores[KEYS / 2], sums[HEAD / 2], largest[2] = {NOTHING, NOTHING}, total[2] = {};
        unsigned weights[KEYS / 16][4];
        const float to_exponent = scale * 1.44269504f;
        const unsigned row = first + 64 * group + 16 * warp, own = row + lane / 4;
        const u64 query = matrix_at(queries + group * 64 * 64);

        auto score = [&](unsigned j) {
            const u64 key = matrix_at(keys + j % STAGES * TILE);
            hold(scores);
            wgmma_fence();
#pragma unroll
            for (unsigned step = 0; step < HEAD / 16; step++) {
                const unsigned bytes = step / 4 * HALF * sizeof(bf16) + step % 4 * 32;
                wgmma_m64n128k16(scores, later(query, bytes), later(key, bytes), step != 0);
            }
            wgmma_commit();
        };
        auto weigh = [&](unsigned j) {
            const u64 value = matrix_at(values + j % STAGES * TILE, HALF * sizeof(bf16));
            hold(sums);
            wgmma_fence();
#pragma unroll
            for (unsigned step = 0; step < KEYS / 16; step++) {
                // Sixteen keys are sixteen rows of 128 bytes.
                wgmma_m64n128k16_rows(sums, weights[step], later(value, step * 16 * 128), j + step != 0);
            }
            wgmma_commit();
        };
        // Scores to exponentials, in place; returns what the sums so far are to be multiplied with.
        auto soften = [&](unsigned j) {
            const unsigned start = j * KEYS;
            if (start + KEYS > length || (CAUSAL && start + KEYS > row)) {
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
                    const float pair = fmaxf(scores[4 * i + 2 * half], scores[4 * i + 2 * half + 1]);
                    most = fmaxf(most, pair * to_exponent);
                }
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
                const float factor = exp2_approx(largest[half] - most);
                (half == 0 ? again.x : again.y) = factor;
                largest[half] = most;
                total[half] *= factor;
#pragma unroll
                for (unsigned i = 0; i < KEYS / 8; i++) {
#pragma unroll
                    for (unsigned k = 0; k < 2; k++) {
                        float &value = scores[4 * i + 2 * half + k];
                        value = exp2_approx(value * to_exponent - most);
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
        const bool speaks = threadIdx.x % 128 == 0;

        queries_full.wait(0);
        keys_full[0].wait(0);
        score(0);
        wgmma_wait<0>();
        hold(scores);
        if (speaks) keys_empty[0].arrive();
        soften(0);
        keep_weights();
        for (unsigned j = 0; j + 1 < tiles; j++) {
            keys_full[(j + 1) % STAGES].wait((j + 1) / STAGES % 2);
            score(j + 1);
            values_full[j % STAGES].wait(j / STAGES % 2);
            weigh(j);
            wgmma_wait<1>();
            hold(scores);
            if (speaks) keys_empty[(j + 1) % STAGES].arrive();
            const float2 again = soften(j + 1);
            wgmma_wait<0>();
            hold(sums);
            if (speaks) values_empty[j % STAGES].arrive();
#pragma unroll
            for (unsigned i = 0; i < HEAD / 2; i++) sums[i] *= i / 2 % 2 == 0 ? again.x : again.y;
            keep_weights();
        }
        values_full[(tiles - 1) % STAGES].wait((tiles - 1) / STAGES % 2);
        weigh(tiles - 1);
        wgmma_wait<0>();
        hold(sums);

        float factor[2];
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
            total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
            factor[half] = 1.0f / total[half];
        }
        // Through the place of the queries, which this warpgroup is done with: sixteen rows of 64 columns a warp and half,
        // chunks of eight swapped so that rows side by side lie in different banks.
        barrier_sync(1 + group, 128);
        bf16 *strip = queries + (64 * group + 16 * warp) * 64;
#pragma unroll
        for (unsigned i = 0; i < HEAD / 8; i++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned below = 8 * half + lane / 4, part = (i % 8) ^ (below % 8);
                const float a = sums[4 * i + 2 * half] * factor[half], b = sums[4 * i + 2 * half + 1] * factor[half];
                bf16 *to = strip + i / 8 * HALF + below * 64 + part * 8 + lane % 4 * 2;
                *reinterpret_cast<unsigned *>(to) = bf16x2_from_floats(a, b);
            }
        }
        __syncwarp();
        bf16 *to = out + (static_cast<u64>(item) * tokens * query_heads + head) * HEAD;
#pragma unroll
        for (unsigned i = 0; i < 16 * HEAD / 8 / 32; i++) {
            const unsigned below = 2 * i + lane / 16, column = lane % 16;
            const bf16 *from = strip + column / 8 * HALF + below * 64 + ((column % 8) ^ (below % 8)) * 8;
            if (row + below < tokens) {
                *reinterpret_cast<uint4 *>(to + static_cast<u64>(row + below) * query_heads * HEAD + column * 8) =
                    *reinterpret_cast<const uint4 *>(from);
            }
        }
    }
}
