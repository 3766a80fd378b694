// attention: softmax(q·kᵀ/√dim + mask)·v for every head of a fused projection, `[items, tokens, (query + 2·key)·HEAD]` to
// `[items, tokens, query·HEAD]`, without the scores ever leaving the chip (flash attention: the sums are kept relative
// to the largest score so far, and scaled again where a larger one comes).
//
// A block takes 16 queries a warp of one head, and goes over the keys that any of them sees in tiles of KEYS. A warp's scores
// become the left fragments of their product with the values in the registers where they are: both lie alike.
// Constants: HEAD, WARPS, KEYS, CAUSAL, HAS_LENGTHS, ALIGNED (HEAD is a multiple of 8).

constexpr unsigned THREADS = 32 * WARPS, QUERIES = 16 * WARPS;
// The head in steps of 16, which the tensor cores take; zeros behind it.
constexpr unsigned STEPS = (HEAD + 15) / 16, WIDTH = 16 * STEPS;
// Rows in shared memory are an odd number of 16 bytes apart: the eight that ldmatrix reads at once lie in different banks.
constexpr unsigned STRIDE = WIDTH + 8;
constexpr unsigned TILE = KEYS * STRIDE;
// Less than any score, and not so little that differences overflow.
constexpr float NOTHING = -1e30f;

// Starts to copy `ROWS` rows of a head, from row `first` on, zeros from row `end` on.
template <unsigned ROWS>
__device__ __forceinline__ void load_rows(bf16 *to, const bf16 *from, u64 stride, unsigned first, unsigned end) {
    constexpr unsigned PARTS = WIDTH / 8;
    for (unsigned at = threadIdx.x; at < ROWS * PARTS; at += THREADS) {
        const unsigned row = at / PARTS, column = at % PARTS * 8;
        bf16 *place = to + row * STRIDE + column;
        const bf16 *source = from + (first + row) * stride + column;
        if (ALIGNED) {
            const bool take = first + row < end && column < HEAD;
            cp_async_16(place, take ? source : from, take ? 16 : 0);
        } else {
            for (unsigned i = 0; i < 8; i++) {
                place[i] = first + row < end && column + i < HEAD ? source[i] : bf16{0};
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention(const bf16 *qkv, const unsigned *lengths, bf16 *out, unsigned tokens, unsigned query_heads,
              unsigned key_heads, float scale) {
    extern __shared__ __align__(1024) unsigned char shared[];
    bf16 *keys = reinterpret_cast<bf16 *>(shared), *values = keys + 2 * TILE;
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // The last queries of a causal head see the most keys: they start first.
    const unsigned tile = CAUSAL ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    const unsigned head = blockIdx.y, item = blockIdx.z, first = tile * QUERIES;
    const u64 stride = static_cast<u64>(query_heads + 2 * key_heads) * HEAD;
    const bf16 *base = qkv + item * tokens * stride;
    const unsigned shared_head = head / (query_heads / key_heads);
    const bf16 *k = base + (query_heads + shared_head) * HEAD, *v = k + key_heads * HEAD;
    const unsigned length = HAS_LENGTHS ? min(lengths[item], tokens) : tokens;
    const unsigned end = CAUSAL ? min(length, first + QUERIES) : length;
    const unsigned tiles = (end + KEYS - 1) / KEYS;

    // The queries pass through the place of the values.
    unsigned q[STEPS][4];
    static_assert(2 * KEYS >= QUERIES, "the queries fit where the values go");
    load_rows<QUERIES>(values, base + head * HEAD, stride, first, tokens);
    cp_async_commit();
    load_rows<KEYS>(keys, k, stride, 0, end);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
#pragma unroll
    for (unsigned step = 0; step < STEPS; step++) {
        ldmatrix_x4(q[step], values + (16 * warp + lane % 16) * STRIDE + 16 * step + lane / 16 * 8);
    }
    __syncthreads();
    load_rows<KEYS>(values, v, stride, 0, end);
    cp_async_commit();

    // A lane holds rows lane/4 and lane/4 + 8 of its warp's sixteen.
    float sums[2 * STEPS][4] = {}, largest[2] = {NOTHING, NOTHING}, total[2] = {};
    const float to_exponent = scale * 1.44269504f;
    const unsigned own = first + 16 * warp + lane / 4;
    for (unsigned j = 0; j < tiles; j++) {
        const bf16 *key = keys + j % 2 * TILE, *value = values + j % 2 * TILE;
        // In flight: this tile's keys, then its values.
        cp_async_wait<1>();
        __syncthreads();
        if (j + 1 < tiles) load_rows<KEYS>(keys + (j + 1) % 2 * TILE, k, stride, (j + 1) * KEYS, end);
        cp_async_commit();

        float scores[KEYS / 8][4] = {};
#pragma unroll
        for (unsigned step = 0; step < STEPS; step++) {
#pragma unroll
            for (unsigned n = 0; n < KEYS / 8; n += 2) {
                unsigned both[4];
                ldmatrix_x4(both, key + (8 * n + lane / 16 * 8 + lane % 8) * STRIDE + 16 * step + lane / 8 % 2 * 8);
                mma_m16n8k16_bf16(scores[n], q[step], {both[0], both[1]});
                mma_m16n8k16_bf16(scores[n + 1], q[step], {both[2], both[3]});
            }
        }

        const unsigned start = j * KEYS;
        const bool masked = start + KEYS > length || (CAUSAL && start + KEYS > first + 16 * warp);
        float most[2] = {largest[0], largest[1]};
#pragma unroll
        for (unsigned n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                const unsigned column = start + 8 * n + lane % 4 * 2 + i % 2, row = own + i / 2 * 8;
                if (masked && (column >= length || (CAUSAL && column > row))) scores[n][i] = __uint_as_float(0xff800000u);
                most[i / 2] = fmaxf(most[i / 2], scores[n][i] * to_exponent);
            }
        }
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            most[i] = fmaxf(most[i], __shfl_xor_sync(0xffffffffu, most[i], 1));
            most[i] = fmaxf(most[i], __shfl_xor_sync(0xffffffffu, most[i], 2));
            const float again = exp2_approx(largest[i] - most[i]);
            largest[i] = most[i];
            total[i] *= again;
#pragma unroll
            for (unsigned n = 0; n < 2 * STEPS; n++) {
                sums[n][2 * i] *= again;
                sums[n][2 * i + 1] *= again;
            }
        }
        unsigned weights[KEYS / 16][4];
#pragma unroll
        for (unsigned n = 0; n < KEYS / 8; n++) {
            float p[4];
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                p[i] = exp2_approx(scores[n][i] * to_exponent - largest[i / 2]);
                total[i / 2] += p[i];
            }
            weights[n / 2][n % 2 * 2] = bf16x2_from_floats(p[0], p[1]);
            weights[n / 2][n % 2 * 2 + 1] = bf16x2_from_floats(p[2], p[3]);
        }

        // The values of this tile: all groups but the next keys'.
        cp_async_wait<1>();
        __syncthreads();
        if (j + 1 < tiles) load_rows<KEYS>(values + (j + 1) % 2 * TILE, v, stride, (j + 1) * KEYS, end);
        cp_async_commit();
#pragma unroll
        for (unsigned step = 0; step < KEYS / 16; step++) {
#pragma unroll
            for (unsigned n = 0; n < 2 * STEPS; n += 2) {
                unsigned both[4];
                ldmatrix_x4_trans(both, value + (16 * step + lane % 16) * STRIDE + 8 * n + lane / 16 * 8);
                mma_m16n8k16_bf16(sums[n], weights[step], {both[0], both[1]});
                mma_m16n8k16_bf16(sums[n + 1], weights[step], {both[2], both[3]});
            }
        }
    }

    bf16 *to = out + (static_cast<u64>(item) * tokens * query_heads + head) * HEAD;
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        total[i] += __shfl_xor_sync(0xffffffffu, total[i], 1);
        total[i] += __shfl_xor_sync(0xffffffffu, total[i], 2);
        const unsigned row = own + 8 * i;
        const float factor = 1.0f / total[i];
        if (row >= tokens) continue;
        bf16 *place = to + static_cast<u64>(row) * query_heads * HEAD;
#pragma unroll
        for (unsigned n = 0; n < 2 * STEPS; n++) {
            const unsigned column = 8 * n + lane % 4 * 2;
            if (HEAD % 2 == 0) {
                const unsigned pair = bf16x2_from_floats(sums[n][2 * i] * factor, sums[n][2 * i + 1] * factor);
                if (column < HEAD) *reinterpret_cast<unsigned *>(place + column) = pair;
            } else {
                if (column < HEAD) place[column] = narrow(sums[n][2 * i] * factor);
                if (column + 1 < HEAD) place[column + 1] = narrow(sums[n][2 * i + 1] * factor);
            }
        }
    }
}
