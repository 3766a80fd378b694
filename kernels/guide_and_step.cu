// guide_and_step: with p the prediction of an item and q that of its negative, v = p + g·(p − q);
// if c > 0 and ‖v‖ > c·‖p‖, v is scaled to c·‖p‖; latents += delta·v; then step += 1. (delta, g, c)
// is row `step` of the table. All F32.
//
// Grid: `choose`, a CTA per chunk of an item, copies the row, and if c > 0 sums the squares of v
//   and of p. `guide_and_step`, a thread per vector, reads that copy and not the counter, so that
//   it may advance the counter while its other CTAs run.
// Constants: GUIDED (there are negatives), VECTOR (8, or 1 if an item's values are not a multiple
// of 8).

#include "common/reduce.cuh"
#include "common/vec.cuh"

#ifndef GUIDED
#define GUIDED 1
#define VECTOR 8
#endif

constexpr unsigned THREADS = 256;

// p and v of an item.
struct Velocity {
    const float *positive, *negative;
    float guidance;

    __device__ __forceinline__ Velocity(const float *prediction, unsigned item, unsigned items, unsigned values,
                                        float guidance)
        : positive(prediction + static_cast<u64>(item) * values),
          negative(positive + (GUIDED ? static_cast<u64>(items) * values : 0)), guidance(guidance) {}

    __device__ __forceinline__ void load(Vec<VECTOR> &p, Vec<VECTOR> &v, unsigned at) const {
        Vec<VECTOR> q;
        load_vec(p, positive + at);
        if (GUIDED) load_vec(q, negative + at);
#pragma unroll
        for (int i = 0; i < VECTOR; i++) {
            v.value[i] = GUIDED ? p.value[i] + guidance * (p.value[i] - q.value[i]) : p.value[i];
        }
    }
};

// Writes the row of this step, and the squares of v and p of every chunk: `[items, chunks, 2]`.
extern "C" __global__ void __launch_bounds__(THREADS)
    choose(const float *prediction, const float *table, const unsigned *step, float *chosen, float *squares,
           unsigned items, unsigned values, unsigned rows, unsigned chunk, unsigned chunks) {
    __shared__ float scratch[2][THREADS / 32];
    const float *row = table + 3 * min(*step, rows - 1);
    if (blockIdx.x == 0 && threadIdx.x < 3) chosen[threadIdx.x] = row[threadIdx.x];
    if (!GUIDED || !(row[2] > 0.0f)) return;
    const unsigned item = blockIdx.x / chunks, first = blockIdx.x % chunks * chunk, end = min(first + chunk, values);
    const Velocity velocity(prediction, item, items, values, row[1]);
    float guided = 0.0f, plain = 0.0f;
#pragma unroll 2
    for (unsigned at = first + threadIdx.x * VECTOR; at < end; at += THREADS * VECTOR) {
        Vec<VECTOR> p, v;
        velocity.load(p, v, at);
#pragma unroll
        for (int i = 0; i < VECTOR; i++) {
            guided += v.value[i] * v.value[i];
            plain += p.value[i] * p.value[i];
        }
    }
    guided = block_sum<THREADS>(guided, scratch[0]);
    plain = block_sum<THREADS>(plain, scratch[1]);
    if (threadIdx.x == 0) {
        squares[2 * blockIdx.x] = guided;
        squares[2 * blockIdx.x + 1] = plain;
    }
}

// blockIdx.y is the item.
extern "C" __global__ void __launch_bounds__(THREADS)
    guide_and_step(float *latents, const float *prediction, const float *chosen, const float *squares, unsigned *step,
                   unsigned items, unsigned values, unsigned chunks) {
    const unsigned item = blockIdx.y, at = (blockIdx.x * THREADS + threadIdx.x) * VECTOR;
    if (item == 0 && at == 0) *step += 1;
    const float cap = chosen[2];
    float factor = chosen[0];
    if (GUIDED && cap > 0.0f) {
        // Every warp sums all chunks.
        const float *from = squares + static_cast<u64>(item) * chunks * 2;
        float guided = 0.0f, plain = 0.0f;
        for (unsigned i = threadIdx.x % 32; i < chunks; i += 32) {
            guided += from[2 * i];
            plain += from[2 * i + 1];
        }
        guided = sqrtf(lane_sum<32>(guided));
        plain = cap * sqrtf(lane_sum<32>(plain));
        if (guided > plain) factor *= plain / guided;
    }
    if (at >= values) return;
    float *to = latents + static_cast<u64>(item) * values + at;
    Vec<VECTOR> p, v, moved;
    load_vec(moved, to);
    Velocity(prediction, item, items, values, chosen[1]).load(p, v, at);
#pragma unroll
    for (int i = 0; i < VECTOR; i++) moved.value[i] += factor * v.value[i];
    store_vec(to, moved);
}
