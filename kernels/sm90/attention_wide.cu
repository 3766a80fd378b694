// attention on Hopper for heads of 512 without a mask: softmax(q·kᵀ/√512)·v as in ../attention.cu,
// by TMA and wgmma.
//
// Grid: (tiles of 64 queries, query heads, items), in clusters of CLUSTER tiles, 1 or 2.
// Roles:
//   producer   the last warpgroup; one thread of it loads the queries, then 64 keys and their
//              values at a time.
//   consumers  two warpgroups with the same queries and half of the output's columns each: all
//              columns would take 256 registers of a thread. They take turns with the scores: one
//              computes those of a tile of keys and stores the probabilities in shared memory, then
//              both multiply these by their columns of the values.
// Barriers: {k,v}_full[h] complete when half h of the columns of a tile has landed, {k,v}_empty[h]
//   when it has been read. Keys land while values are multiplied, and the other way round, so one
//   stage of each is enough; two would not fit.
// Softmax: as in attention.cu, row_max is replaced only when a score exceeds it by
//   RESCALE_THRESHOLD powers of two. It is in shared memory, where the warpgroups take turns, and
//   each keeps the sum of its own probabilities.
// Clusters: the CTAs share keys and values: each multicasts a part of them, so that they cross the
//   L2 once. Alone, a CTA would need some 50 bytes a cycle.
// Constants: CLUSTER.

#include "common/attention.cuh"
#include "common/reduce.cuh"
#include "sm90/ptx/barrier.cuh"
#include "sm90/ptx/cluster.cuh"
#include "sm90/ptx/pdl.cuh"
#include "sm90/ptx/tma.cuh"
#include "sm90/ptx/wgmma.cuh"

#ifndef CLUSTER
#define CLUSTER 2
#endif

constexpr unsigned HEAD = 512, QUERIES = 64, KEYS = 64, STEP = 16;
constexpr unsigned WARPGROUP = 128, CONSUMERS = 2, THREADS = WARPGROUP * (CONSUMERS + 1);
// Registers of a thread of the producer and of a consumer: all 64 K of the SM.
constexpr unsigned PRODUCER_REGISTERS = 24, CONSUMER_REGISTERS = 240;
// A box has 64 rows of 128 bytes. A tile of queries, keys or values is a row of boxes.
constexpr unsigned BOX = 64, BOX_SIZE = BOX * BOX, BOX_BYTES = BOX_SIZE * sizeof(bf16), BOXES = HEAD / BOX;
// Half of a tile's columns: the output of a warpgroup, and the widest wgmma.
constexpr unsigned HALF = HEAD / 2, HALF_BOXES = BOXES / 2, HALF_SIZE = HALF_BOXES * BOX_SIZE;
constexpr float RESCALE_THRESHOLD = 8.0f;

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    attention(const __grid_constant__ TensorMap qkv, const __grid_constant__ TensorMap out, unsigned tokens,
              unsigned query_heads, unsigned key_heads, float scale) {
    extern __shared__ __align__(1024) unsigned char smem[];
    __shared__ Barrier q_full, k_full[2], k_empty[2], v_full[2], v_empty[2];
    // Of each query. The factors that a tile rescales the output by are there until both
    // warpgroups have read them, while the next tile's are written.
    __shared__ float row_max[QUERIES], factors[2][QUERIES], row_sums[CONSUMERS][QUERIES];
    bf16 *smem_q = reinterpret_cast<bf16 *>(smem), *smem_k = smem_q + BOXES * BOX_SIZE;
    bf16 *smem_v = smem_k + BOXES * BOX_SIZE, *smem_p = smem_v + BOXES * BOX_SIZE;
    const unsigned group = warp_uniform(threadIdx.x / WARPGROUP), warp = warp_uniform(threadIdx.x / 32 % 4),
                   lane = threadIdx.x % 32;
    const unsigned first = blockIdx.x * QUERIES, head = blockIdx.y, item = blockIdx.z;
    const unsigned rank = CLUSTER > 1 ? cluster_rank() : 0, key_tiles = (tokens + KEYS - 1) / KEYS;
    griddepcontrol_launch_dependents();
    if (threadIdx.x == 0) {
        q_full.init(1);
        for (unsigned half = 0; half < 2; half++) {
            k_full[half].init(1);
            v_full[half].init(1);
            k_empty[half].init(CLUSTER);
            v_empty[half].init(CLUSTER);
        }
        fence_barrier_init();
    }
    if (threadIdx.x < QUERIES) row_max[threadIdx.x] = MIN_ROW_MAX;
    cluster_sync<CLUSTER>();
    griddepcontrol_wait();

    if (group == CONSUMERS) {
        // Producer.
        warpgroup_reg_dealloc<PRODUCER_REGISTERS>();
        if (threadIdx.x % WARPGROUP == 0) {
            q_full.arrive_expect_tx(BOXES * BOX_BYTES);
#pragma unroll 1
            for (unsigned box = 0; box < BOXES; box++) {
                tma_load(smem_q + box * BOX_SIZE, qkv, q_full, head * HEAD + box * BOX, first, item);
            }
            // Each CTA of the cluster loads some boxes for all.
            auto load_half = [&](bf16 *to, Barrier &full, unsigned column, unsigned row) {
                full.arrive_expect_tx(HALF_SIZE * sizeof(bf16));
#pragma unroll 1
                for (unsigned box = rank; box < HALF_BOXES; box += CLUSTER) {
                    if constexpr (CLUSTER == 1) {
                        tma_load(to + box * BOX_SIZE, qkv, full, column + box * BOX, row, item);
                    } else {
                        tma_load_multicast(to + box * BOX_SIZE, qkv, full, column + box * BOX, row, item);
                    }
                }
            };
            const unsigned key_head = query_heads + head / (query_heads / key_heads);
            const unsigned k = key_head * HEAD, v = (key_head + key_heads) * HEAD;
            for (unsigned j = 0; j < key_tiles; j++) {
                // The phase before the first one counts as completed: all is empty at first.
#pragma unroll 1
                for (unsigned half = 0; half < 2; half++) {
                    k_empty[half].wait((j + 1) % 2);
                    load_half(smem_k + half * HALF_SIZE, k_full[half], k + half * HALF, j * KEYS);
                }
#pragma unroll 1
                for (unsigned half = 0; half < 2; half++) {
                    v_empty[half].wait((j + 1) % 2);
                    load_half(smem_v + half * HALF_SIZE, v_full[half], v + half * HALF, j * KEYS);
                }
            }
        }
    } else {
        // Consumer. A lane holds rows lane / 4 and lane / 4 + 8 of its warp's sixteen.
        warpgroup_reg_alloc<CONSUMER_REGISTERS>();
        const unsigned own = 16 * warp + lane / 4;
        const float scale_log2 = scale * LOG2E;
        float acc_o[HALF / 2] = {}, row_sum[2] = {};
        bf16 *own_v = smem_v + group * HALF_SIZE;

        // One thread per CTA of the cluster tells its producer that this CTA is done with a half.
        auto release = [&](Barrier &empty) {
            if (threadIdx.x % WARPGROUP < CLUSTER) empty.arrive_remote<CLUSTER>(threadIdx.x % WARPGROUP);
        };
        // The address of the pair of columns at 8·chunk + lane % 4 * 2 in a row of a box.
        auto pair_in = [&](bf16 *box, unsigned row, unsigned chunk) {
            return reinterpret_cast<unsigned *>(box + row * BOX + (chunk ^ row % 8) * 8 + lane % 4 * 2);
        };
        // Stores the probabilities of the j-th tile of keys and the factors of the output. `sum`
        // becomes the sum of this lane's probabilities.
        auto softmax = [&](unsigned j, float(&sum)[2]) {
            float scores[KEYS / 2];
            warpgroup_fence_operand(scores);
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const u64 desc_q = smem_desc(smem_q + half * HALF_SIZE), desc_k = smem_desc(smem_k + half * HALF_SIZE);
                k_full[half].wait(j % 2);
                wgmma_fence();
#pragma unroll
                for (unsigned step = 0; step < HALF / STEP; step++) {
                    const unsigned at = step / 4 * BOX_BYTES + step % 4 * STEP * sizeof(bf16);
                    wgmma_ss(scores, advance(desc_q, at), advance(desc_k, at), half + step != 0);
                }
                wgmma_commit();
            }
            wgmma_wait<1>();
            release(k_empty[0]);
            wgmma_wait<0>();
            release(k_empty[1]);
            warpgroup_fence_operand(scores);

            if ((j + 1) * KEYS > tokens) {
#pragma unroll
                for (unsigned i = 0; i < KEYS / 2; i++) {
                    const unsigned column = j * KEYS + i / 4 * 8 + lane % 4 * 2 + i % 2;
                    if (column >= tokens) scores[i] = NEG_INF;
                }
            }
            float base[2], factor[2];
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const float old_max = row_max[own + 8 * half];
                float largest = NEG_INF;
#pragma unroll
                for (unsigned i = 0; i < KEYS / 8; i++) {
                    largest = fmaxf(largest, fmaxf(scores[4 * i + 2 * half], scores[4 * i + 2 * half + 1]));
                }
                const float new_max = lane_max<4>(largest) * scale_log2;
                base[half] = new_max - old_max > RESCALE_THRESHOLD ? new_max : old_max;
                factor[half] = exp2_approx(old_max - base[half]);
            }
            // All lanes of a row have read its maximum.
            __syncwarp();
            bf16 *p = smem_p + j % 2 * BOX_SIZE;
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned row = own + 8 * half;
                if (lane % 4 == 0) {
                    row_max[row] = base[half];
                    factors[j % 2][row] = factor[half];
                }
#pragma unroll
                for (unsigned i = 0; i < KEYS / 8; i++) {
                    const float a = exp2_approx(scores[4 * i + 2 * half] * scale_log2 - base[half]);
                    const float b = exp2_approx(scores[4 * i + 2 * half + 1] * scale_log2 - base[half]);
                    sum[half] += a + b;
                    *pair_in(p, row, i) = bf16x2_from_floats(a, b);
                }
            }
            fence_proxy_async();
        };

        q_full.wait(0);
        for (unsigned j = 0; j < key_tiles; j++) {
            float sum[2] = {};
            if (j % CONSUMERS == group) softmax(j, sum);
            named_barrier_sync(CONSUMERS_BARRIER, CONSUMERS * WARPGROUP);
            const float factor[2] = {factors[j % 2][own], factors[j % 2][own + 8]};
            row_sum[0] = row_sum[0] * factor[0] + sum[0];
            row_sum[1] = row_sum[1] * factor[1] + sum[1];
            if (__any_sync(0xffffffffu, factor[0] != 1.0f || factor[1] != 1.0f)) {
#pragma unroll
                for (unsigned k = 0; k < HALF / 2; k++) acc_o[k] *= factor[k / 2 % 2];
            }
            // acc_o += p·v.
            const u64 desc_p = smem_desc(smem_p + j % 2 * BOX_SIZE), desc_v = smem_desc(own_v, BOX_BYTES);
            v_full[group].wait(j % 2);
            warpgroup_fence_operand(acc_o);
            wgmma_fence();
#pragma unroll
            for (unsigned step = 0; step < KEYS / STEP; step++) {
                // Sixteen keys are 32 bytes of a row of p, and sixteen rows of v.
                wgmma_ss_mn(acc_o, advance(desc_p, step * STEP * sizeof(bf16)),
                            advance(desc_v, step * STEP * BOX * sizeof(bf16)), true);
            }
            wgmma_commit();
            wgmma_wait<0>();
            warpgroup_fence_operand(acc_o);
            release(v_empty[group]);
        }

#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const float sum = lane_sum<4>(row_sum[half]);
            if (lane % 4 == 0) row_sums[group][own + 8 * half] = sum;
        }
        named_barrier_sync(CONSUMERS_BARRIER, CONSUMERS * WARPGROUP);
        // The output replaces this warpgroup's values, in TMA's swizzle.
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const unsigned row = own + 8 * half;
            const float factor = 1.0f / (row_sums[0][row] + row_sums[1][row]);
#pragma unroll
            for (unsigned k = 0; k < HALF / 8; k++) {
                const float *pair = acc_o + 4 * k + 2 * half;
                *pair_in(own_v + k / 8 * BOX_SIZE, row, k % 8) =
                    bf16x2_from_floats(pair[0] * factor, pair[1] * factor);
            }
        }
        fence_proxy_async();
        named_barrier_sync(CONSUMER_BARRIER + group, WARPGROUP);
        if (threadIdx.x % WARPGROUP == 0) {
            for (unsigned box = 0; box < HALF_BOXES; box++) {
                tma_store(out, own_v + box * BOX_SIZE, head * HEAD + group * HALF + box * BOX, first, item);
            }
            tma_store_commit();
            tma_store_wait<0>();
        }
    }
    // No CTA ends while its peer may still write to its shared memory or barriers.
    cluster_sync<CLUSTER>();
}
