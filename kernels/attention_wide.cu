// attention for heads of more than 128: the same sums as attention.cu, but a warp's registers do not hold 16 rows of the
// output. Two warps share the queries, four the columns of the output: each of the four makes the scores of a quarter of
// the keys, they agree on the largest and put the weights into shared memory, and each multiplies all of them with its
// columns of the values.
// Constants: HEAD, CAUSAL, HAS_LENGTHS, ALIGNED (HEAD is a multiple of 8).

constexpr unsigned WARPS_M = 2, WARPS_N = 4, THREADS = 32 * WARPS_M * WARPS_N;
constexpr unsigned QUERIES = 16 * WARPS_M, KEYS = 8 * WARPS_N;
// The head in steps of 64, so that each of four warps has columns in pairs of eight; zeros behind it.
constexpr unsigned WIDTH = (HEAD + 63) / 64 * 64, OWN = WIDTH / WARPS_N;
constexpr float NOTHING = -1e30f;

// Where eight values of a row lie: swapped within 128 bytes, so that rows side by side lie in different banks.
__device__ __forceinline__ unsigned place(unsigned row, unsigned column) {
    return row * WIDTH + ((column / 8) ^ (row % 8)) * 8;
}

// The same for a row of weights, which is 64 bytes.
__device__ __forceinline__ unsigned weight_place(unsigned row, unsigned column) {
    return row * KEYS + ((column / 8) ^ (row / 2 % 4)) * 8;
}

// Starts to copy `ROWS` rows of a head, from row `first` on, zeros from row `end` on.
template <unsigned ROWS>
__device__ __forceinline__ void load_rows(bf16 *to, const bf16 *from, u64 stride, unsigned first, unsigned end) {
    constexpr unsigned PARTS = WIDTH / 8;
    for (unsigned at = threadIdx.x; at < ROWS * PARTS; at += THREADS) {
        const unsigned row = at / PARTS, column = at % PARTS * 8;
        bf16 *eight = to + place(row, column);
        const bf16 *source = from + (first + row) * stride + column;
        if (ALIGNED) {
            const bool take = first + row < end && column < HEAD;
            cp_async_16(eight, take ? source : from, take ? 16 : 0);
        } else {
            for (unsigned i = 0; i < 8; i++) {
                eight[i] = first + row < end && column + i < HEAD ? source[i] : bf16{0};
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention(const bf16 *qkv, const unsigned *lengths, bf16 *out, unsigned tokens, unsigned query_heads,
              unsigned key_heads, float scale) {
    extern __shared__ __align__(1024) unsigned char shared[];
    bf16 *queries = reinterpret_cast<bf16 *>(shared), *keys = queries + QUERIES * WIDTH;
    bf16 *values = keys + KEYS * WIDTH, *weights = values + KEYS * WIDTH;
    float *agreed = reinterpret_cast<float *>(weights + QUERIES * KEYS);

    const unsigned lane = threadIdx.x % 32, warp_m = threadIdx.x / 32 / WARPS_N, warp_n = threadIdx.x / 32 % WARPS_N;
    const unsigned tile = CAUSAL ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    const unsigned head = blockIdx.y, item = blockIdx.z, first = tile * QUERIES;
    const u64 stride = static_cast<u64>(query_heads + 2 * key_heads) * HEAD;
    const bf16 *base = qkv + item * tokens * stride;
    const unsigned shared_head = head / (query_heads / key_heads);
    const bf16 *k = base + (query_heads + shared_head) * HEAD, *v = k + key_heads * HEAD;
    const unsigned length = HAS_LENGTHS ? min(lengths[item], tokens) : tokens;
    const unsigned end = CAUSAL ? min(length, first + QUERIES) : length;
    const unsigned tiles = (end + KEYS - 1) / KEYS;

    load_rows<QUERIES>(queries, base + head * HEAD, stride, first, tokens);
    load_rows<KEYS>(keys, k, stride, 0, end);
    cp_async_commit();

    // A lane holds rows lane/4 and lane/4 + 8 of its warp's sixteen.
    float sums[OWN / 8][4] = {}, largest[2] = {NOTHING, NOTHING}, total[2] = {};
    const float to_exponent = scale * 1.44269504f;
    const unsigned own = 16 * warp_m + lane / 4;
    for (unsigned j = 0; j < tiles; j++) {
        cp_async_wait<0>();
        // All see the keys, and are done with the values of the tile before.
        __syncthreads();
        load_rows<KEYS>(values, v, stride, j * KEYS, end);
        cp_async_commit();
        float scores[4] = {};
#pragma unroll 4
        for (unsigned column = 0; column < WIDTH; column += 32) {
            unsigned key[4], query[4];
            ldmatrix_x4(key, keys + place(8 * warp_n + lane % 8, column + lane / 8 * 8));
            ldmatrix_x4(query, queries + place(16 * warp_m + lane % 16, column + lane / 16 * 8));
            mma_m16n8k16_bf16(scores, query, {key[0], key[1]});
            ldmatrix_x4(query, queries + place(16 * warp_m + lane % 16, column + 16 + lane / 16 * 8));
            mma_m16n8k16_bf16(scores, query, {key[2], key[3]});
        }
        float most[2] = {NOTHING, NOTHING};
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            const unsigned column = j * KEYS + 8 * warp_n + lane % 4 * 2 + i % 2, row = first + own + i / 2 * 8;
            if (column >= length || (CAUSAL && column > row)) scores[i] = __uint_as_float(0xff800000u);
            most[i / 2] = fmaxf(most[i / 2], scores[i] * to_exponent);
        }
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            most[i] = fmaxf(most[i], __shfl_xor_sync(0xffffffffu, most[i], 1));
            most[i] = fmaxf(most[i], __shfl_xor_sync(0xffffffffu, most[i], 2));
            if (lane % 4 == 0) agreed[(own + 8 * i) * WARPS_N + warp_n] = most[i];
        }
        __syncthreads();
        if (j + 1 < tiles) load_rows<KEYS>(keys, k, stride, (j + 1) * KEYS, end);
        cp_async_commit();
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            float now = largest[i];
#pragma unroll
            for (unsigned n = 0; n < WARPS_N; n++) now = fmaxf(now, agreed[(own + 8 * i) * WARPS_N + n]);
            const float again = exp2_approx(largest[i] - now);
            largest[i] = now;
            const float a = exp2_approx(scores[2 * i] * to_exponent - now);
            const float b = exp2_approx(scores[2 * i + 1] * to_exponent - now);
            total[i] = total[i] * again + a + b;
            bf16 *pair = weights + weight_place(own + 8 * i, 8 * warp_n) + lane % 4 * 2;
            *reinterpret_cast<unsigned *>(pair) = bf16x2_from_floats(a, b);
#pragma unroll
            for (unsigned n = 0; n < OWN / 8; n++) {
                sums[n][2 * i] *= again;
                sums[n][2 * i + 1] *= again;
            }
        }
        cp_async_wait<1>();
        __syncthreads();
#pragma unroll
        for (unsigned step = 0; step < KEYS / 16; step++) {
            unsigned weight[4];
            ldmatrix_x4(weight, weights + weight_place(16 * warp_m + lane % 16, 16 * step + lane / 16 * 8));
#pragma unroll
            for (unsigned n = 0; n < OWN / 8; n += 2) {
                unsigned both[4];
                ldmatrix_x4_trans(both, values + place(16 * step + lane % 16, OWN * warp_n + 8 * n + lane / 16 * 8));
                mma_m16n8k16_bf16(sums[n], weight, {both[0], both[1]});
                mma_m16n8k16_bf16(sums[n + 1], weight, {both[2], both[3]});
            }
        }
    }

    // Each of the four has the weights' sum over its own keys.
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        total[i] += __shfl_xor_sync(0xffffffffu, total[i], 1);
        total[i] += __shfl_xor_sync(0xffffffffu, total[i], 2);
        if (lane % 4 == 0) agreed[(own + 8 * i) * WARPS_N + warp_n] = total[i];
    }
    __syncthreads();
    bf16 *to = out + (static_cast<u64>(item) * tokens * query_heads + head) * HEAD;
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        const unsigned row = first + own + 8 * i;
        if (row >= tokens) continue;
        float all = 0.0f;
#pragma unroll
        for (unsigned n = 0; n < WARPS_N; n++) all += agreed[(own + 8 * i) * WARPS_N + n];
        const float factor = 1.0f / all;
        bf16 *row_of_head = to + static_cast<u64>(row) * query_heads * HEAD;
#pragma unroll
        for (unsigned n = 0; n < OWN / 8; n++) {
            const unsigned column = OWN * warp_n + 8 * n + lane % 4 * 2;
            if (column < HEAD) row_of_head[column] = narrow(sums[n][2 * i] * factor);
            if (column + 1 < HEAD) row_of_head[column + 1] = narrow(sums[n][2 * i + 1] * factor);
        }
    }
}
