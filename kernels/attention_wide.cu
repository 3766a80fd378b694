// attention for heads of more than 128, as in attention.cu, where 16 rows of the output do not fit
// in a warp's registers.
//
// Grid: (tokens / QUERIES, query heads, items), 2 × 4 warps. Two rows of warps share the queries.
//   Of the four warps of a row, each computes the scores of a quarter of the keys; they merge their
//   row_max and exchange p through shared memory; each multiplies all of p with its columns of v.
// Constants: HEAD, CAUSAL, HAS_LENGTHS, ALIGNED (HEAD is a multiple of 8).

#include "common/attention.cuh"
#include "common/ptx/mma.cuh"

#ifndef HEAD
#define HEAD 512
#define CAUSAL 0
#define HAS_LENGTHS 1
#define ALIGNED 1
#endif

constexpr unsigned WARPS_M = 2, WARPS_N = 4, THREADS = 32 * WARPS_M * WARPS_N;
constexpr unsigned QUERIES = 16 * WARPS_M, KEYS = 8 * WARPS_N;
// The head in steps of 64, so that each of four warps has pairs of 8 columns; zeros behind it.
constexpr unsigned WIDTH = (HEAD + 63) / 64 * 64, OWN = WIDTH / WARPS_N;

// The offset of eight elements of a row of q, k or v: permuted within 128 bytes, so that
// neighbouring rows lie in different banks.
__device__ __forceinline__ unsigned swizzle(unsigned row, unsigned column) {
    return row * WIDTH + ((column / 8) ^ (row % 8)) * 8;
}

// The offset of eight elements of a row of p, which is 64 bytes.
__device__ __forceinline__ unsigned swizzle_p(unsigned row, unsigned column) {
    return row * KEYS + ((column / 8) ^ (row / 2 % 4)) * 8;
}

struct SwizzledRows {
    static __device__ __forceinline__ bf16 *address(bf16 *to, unsigned row, unsigned column) {
        return to + swizzle(row, column);
    }
};

template <unsigned Rows>
__device__ __forceinline__ void load(bf16 *to, const bf16 *from, u64 stride, unsigned first, unsigned end) {
    load_head<SwizzledRows, Rows, HEAD, WIDTH, THREADS, ALIGNED>(to, from, stride, first, end);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention(const bf16 *qkv, const unsigned *lengths, bf16 *out, unsigned tokens, unsigned query_heads,
              unsigned key_heads, float scale) {
    extern __shared__ __align__(1024) unsigned char smem[];
    bf16 *smem_q = reinterpret_cast<bf16 *>(smem), *smem_k = smem_q + QUERIES * WIDTH;
    bf16 *smem_v = smem_k + KEYS * WIDTH, *smem_p = smem_v + KEYS * WIDTH;
    float *exchange = reinterpret_cast<float *>(smem_p + QUERIES * KEYS);

    const unsigned lane = threadIdx.x % 32, warp_m = threadIdx.x / 32 / WARPS_N, warp_n = threadIdx.x / 32 % WARPS_N;
    const unsigned tile = CAUSAL ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    const unsigned head = blockIdx.y, item = blockIdx.z, first = tile * QUERIES;
    const u64 stride = static_cast<u64>(query_heads + 2 * key_heads) * HEAD;
    const bf16 *base = qkv + item * tokens * stride;
    const unsigned key_head = head / (query_heads / key_heads);
    const bf16 *k = base + (query_heads + key_head) * HEAD, *v = k + key_heads * HEAD;
    const unsigned length = HAS_LENGTHS ? min(lengths[item], tokens) : tokens;
    const unsigned end = CAUSAL ? min(length, first + QUERIES) : length;
    const unsigned key_tiles = (end + KEYS - 1) / KEYS;

    load<QUERIES>(smem_q, base + head * HEAD, stride, first, tokens);
    load<KEYS>(smem_k, k, stride, 0, end);
    cp_async_commit();

    // A lane holds rows lane/4 and lane/4 + 8 of its warp's sixteen.
    float acc_o[OWN / 8][4] = {}, row_max[2] = {MIN_ROW_MAX, MIN_ROW_MAX}, row_sum[2] = {};
    const float scale_log2 = scale * LOG2E;
    const unsigned own = 16 * warp_m + lane / 4;
    for (unsigned j = 0; j < key_tiles; j++) {
        cp_async_wait<0>();
        // The keys have landed for all threads, and all are done with the previous tile's values.
        __syncthreads();
        load<KEYS>(smem_v, v, stride, j * KEYS, end);
        cp_async_commit();
        float scores[4] = {};
#pragma unroll 4
        for (unsigned column = 0; column < WIDTH; column += 32) {
            unsigned key[4], query[4];
            ldmatrix_x4(key, smem_k + swizzle(8 * warp_n + lane % 8, column + lane / 8 * 8));
            ldmatrix_x4(query, smem_q + swizzle(16 * warp_m + lane % 16, column + lane / 16 * 8));
            mma_m16n8k16_bf16(scores, query, {key[0], key[1]});
            ldmatrix_x4(query, smem_q + swizzle(16 * warp_m + lane % 16, column + 16 + lane / 16 * 8));
            mma_m16n8k16_bf16(scores, query, {key[2], key[3]});
        }
        float new_max[2] = {MIN_ROW_MAX, MIN_ROW_MAX};
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            const unsigned column = j * KEYS + 8 * warp_n + lane % 4 * 2 + i % 2, row = first + own + i / 2 * 8;
            if (column >= length || (CAUSAL && column > row)) scores[i] = NEG_INF;
            new_max[i / 2] = fmaxf(new_max[i / 2], scores[i] * scale_log2);
        }
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            new_max[i] = fmaxf(new_max[i], __shfl_xor_sync(0xffffffffu, new_max[i], 1));
            new_max[i] = fmaxf(new_max[i], __shfl_xor_sync(0xffffffffu, new_max[i], 2));
            if (lane % 4 == 0) exchange[(own + 8 * i) * WARPS_N + warp_n] = new_max[i];
        }
        __syncthreads();
        if (j + 1 < key_tiles) load<KEYS>(smem_k, k, stride, (j + 1) * KEYS, end);
        cp_async_commit();
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            float merged = row_max[i];
#pragma unroll
            for (unsigned n = 0; n < WARPS_N; n++) merged = fmaxf(merged, exchange[(own + 8 * i) * WARPS_N + n]);
            const float factor = exp2_approx(row_max[i] - merged);
            row_max[i] = merged;
            const float a = exp2_approx(scores[2 * i] * scale_log2 - merged);
            const float b = exp2_approx(scores[2 * i + 1] * scale_log2 - merged);
            row_sum[i] = row_sum[i] * factor + a + b;
            bf16 *pair = smem_p + swizzle_p(own + 8 * i, 8 * warp_n) + lane % 4 * 2;
            *reinterpret_cast<unsigned *>(pair) = bf16x2_from_floats(a, b);
#pragma unroll
            for (unsigned n = 0; n < OWN / 8; n++) {
                acc_o[n][2 * i] *= factor;
                acc_o[n][2 * i + 1] *= factor;
            }
        }
        cp_async_wait<1>();
        __syncthreads();
#pragma unroll
        for (unsigned step = 0; step < KEYS / 16; step++) {
            unsigned p[4];
            ldmatrix_x4(p, smem_p + swizzle_p(16 * warp_m + lane % 16, 16 * step + lane / 16 * 8));
#pragma unroll
            for (unsigned n = 0; n < OWN / 8; n += 2) {
                unsigned both[4];
                ldmatrix_x4_trans(both, smem_v + swizzle(16 * step + lane % 16, OWN * warp_n + 8 * n + lane / 16 * 8));
                mma_m16n8k16_bf16(acc_o[n], p, {both[0], both[1]});
                mma_m16n8k16_bf16(acc_o[n + 1], p, {both[2], both[3]});
            }
        }
    }

    // Each of the four warps has the sum over its own keys.
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        row_sum[i] += __shfl_xor_sync(0xffffffffu, row_sum[i], 1);
        row_sum[i] += __shfl_xor_sync(0xffffffffu, row_sum[i], 2);
        if (lane % 4 == 0) exchange[(own + 8 * i) * WARPS_N + warp_n] = row_sum[i];
    }
    __syncthreads();
    bf16 *to = out + (static_cast<u64>(item) * tokens * query_heads + head) * HEAD;
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        const unsigned row = first + own + 8 * i;
        if (row >= tokens) continue;
        float sum = 0.0f;
#pragma unroll
        for (unsigned n = 0; n < WARPS_N; n++) sum += exchange[(own + 8 * i) * WARPS_N + n];
        const float factor = 1.0f / sum;
        bf16 *to_row = to + static_cast<u64>(row) * query_heads * HEAD;
#pragma unroll
        for (unsigned n = 0; n < OWN / 8; n++) {
            const unsigned column = OWN * warp_n + 8 * n + lane % 4 * 2;
            if (column < HEAD) to_row[column] = to_bf16(acc_o[n][2 * i] * factor);
            if (column + 1 < HEAD) to_row[column + 1] = to_bf16(acc_o[n][2 * i + 1] * factor);
        }
    }
}
