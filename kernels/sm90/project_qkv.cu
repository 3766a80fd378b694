// project_qkv on Hopper: x·Wᵀ, x `[m, k]`, W `[(query + 2·key)·128, k]`, whose query and key heads are normed and rotated as in
// ../qk_norm_rope.cu before any of it is written; pairs are neighbours. Elsewhere linear and qk_norm_rope do it one after the
// other.
//
// The two tiles of a cluster are three heads wide together. The one in the middle stands in both: each block tells the other the
// squares of its half.

constexpr unsigned HEAD = 128, HALF_HEAD = 64, PARTS = TILE_N / HALF_HEAD;
static_assert(PARTS == 3 && BESIDE && CLUSTER == 2, "heads are cut in the middle");

// What each consumer hears of its 64 rows from the other block. Tile t + 2 uses the place and the barrier of tile t again: the
// other block sends it after it heard of t + 1 from here, which is sent after t was read here.
struct Exchange {
    Barrier heard[2][CONSUMERS];
    float squares[2][CONSUMERS][64];
};

struct QkvProjection {
    static constexpr unsigned WIDTH = 2;
    static constexpr bool PREPARES = true;
    const float *q_norm, *k_norm, *rotation;
    unsigned tokens, query_heads, normed_heads, rotation_stride, rank;
    float eps;
    Exchange &exchange;
    unsigned exchanged;

    __device__ __forceinline__ void prepare(float (&sums)[TILE_N / 2], const unsigned (&rows)[2], unsigned column) {
        // Both blocks agree on it.
        if ((column - rank * TILE_N) / HEAD >= normed_heads) return;
        const unsigned group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
        float squares[PARTS][2];
#pragma unroll
        for (unsigned part = 0; part < PARTS; part++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                float sum = 0.0f;
#pragma unroll
                for (unsigned j = 0; j < 8; j++) {
                    const float *pair = sums + (part * 8 + j) * 4 + 2 * half;
                    sum += pair[0] * pair[0] + pair[1] * pair[1];
                }
                squares[part][half] = lanes_sum<4>(sum);
            }
        }

        // The last part of block 0 and the first one of block 1 are a head.
        Barrier &heard = exchange.heard[exchanged % 2][group];
        float *others = exchange.squares[exchanged % 2][group] + 16 * warp + lane / 4;
        if (threadIdx.x % 128 == 0) heard.expect(64 * sizeof(float));
        if (lane % 4 == 0) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const float own = rank ? squares[0][half] : squares[PARTS - 1][half];
                send(others + 8 * half, own, heard, 1 - rank);
            }
        }

        // Four cosines and sines of each row at a time, the first of which come while the other block's squares do.
        float2 turn[4][2];
        auto read_turns = [&](unsigned first) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned row = rows[half] == NO_ROW ? 0 : rows[half];
                const float *turns = rotation + static_cast<u64>(row / tokens) * rotation_stride +
                                     static_cast<u64>(row % tokens) * HEAD + first + lane % 4 * 2;
#pragma unroll
                for (unsigned j = 0; j < 4; j++) turn[j][half] = *reinterpret_cast<const float2 *>(turns + 8 * j);
            }
        };
        // The first and the last part are the same half of their heads, the one between them is the other half.
        const unsigned outer = column % HEAD, inner = (column + HALF_HEAD) % HEAD;
        read_turns(outer);
        heard.wait(exchanged / 2 % 2);
        exchanged++;

        float factor[PARTS][2];
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const float own[PARTS] = {squares[0][half], squares[1][half], squares[2][half]}, other = others[8 * half];
            const float rest[PARTS] = {rank ? other : own[1], rank ? own[2] : own[0], rank ? own[1] : other};
#pragma unroll
            for (unsigned part = 0; part < PARTS; part++) factor[part][half] = rsqrtf((own[part] + rest[part]) / HEAD + eps);
        }
        // 32 columns of a part from 8·start on, which are those of its head from `first` on.
        auto finish = [&](unsigned part, unsigned start, unsigned first) {
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
                    float *pair = sums + (part * 8 + start + j) * 4 + 2 * half;
                    const float a = pair[0] * factor[part][half] * norm[j].x, b = pair[1] * factor[part][half] * norm[j].y;
                    pair[0] = a * turn[j][half].x - b * turn[j][half].y;
                    pair[1] = a * turn[j][half].y + b * turn[j][half].x;
                }
            }
        };
#pragma unroll
        for (unsigned start = 0; start < 8; start += 4) {
            if (start != 0) read_turns(outer + 8 * start);
            finish(0, start, outer + 8 * start);
            finish(2, start, outer + 8 * start);
        }
#pragma unroll
        for (unsigned start = 0; start < 8; start += 4) {
            read_turns(inner + 8 * start);
            finish(1, start, inner + 8 * start);
        }
    }

    __device__ __forceinline__ unsigned pair(unsigned, unsigned, float a, float b) const {
        return bf16x2_from_floats(a, b);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    hopper(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights, const float *q_norm,
           const float *k_norm, const float *rotation, const __grid_constant__ TensorMap out, unsigned m, unsigned n,
           unsigned k, unsigned tokens, unsigned query_heads, unsigned key_heads, unsigned rotation_stride, float eps) {
    __shared__ Exchange exchange;
    // product() begins with a barrier of the cluster, behind which all see these.
    if (threadIdx.x < 2 * CONSUMERS) exchange.heard[threadIdx.x / CONSUMERS][threadIdx.x % CONSUMERS].init(1);
    fence_barriers();
    product(MappedRows{x, m}, weights, m, n, (k + STEP - 1) / STEP, out,
            QkvProjection{q_norm, k_norm, rotation, tokens, query_heads, query_heads + key_heads, rotation_stride,
                          cluster_rank(), eps, exchange, 0});
}
