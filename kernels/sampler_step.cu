// sampler_step: with x the latents of an item, p its prediction and q that of its negative,
// v = p + g·(p − q); if cap > 0 and ‖v‖ > cap·‖p‖, v is scaled to cap·‖p‖. Then
//   latents ← a·x + b·v + Σⱼ cⱼ·historyⱼ + d·noise[step],  history₀ ← e·x + f·v,  step += 1.
// (g, cap, a, b, d, e, f, c₁ …) is row `step` of the table. Terms with the coefficient 0 are left
// out. historyⱼ is slot (step − j) mod HISTORY. All F32.
//
// Grid: `choose`, a CTA per chunk of an item, copies the row and the counter, and if cap > 0 sums
//   the squares of v and of p. `sampler_step`, a thread per vector, reads these copies and not the
//   counter, so that it may advance the counter while its other CTAs run.
// Constants: GUIDED (there are negatives), HISTORY (slots), NOISE (there is noise), VECTOR (8, or 1
// if an item's values are not a multiple of 8).

#include "common/reduce.cuh"
#include "common/vec.cuh"

#ifndef GUIDED
#define GUIDED 1
#define HISTORY 1
#define NOISE 1
#define VECTOR 8
#endif

constexpr unsigned THREADS = 256;

// The columns of a row.
enum Column : unsigned { GUIDANCE, CAP, LATENTS, PREDICTION, NOISE_SCALE, STORED_LATENTS, STORED_PREDICTION, PAST };
constexpr unsigned COLUMNS = PAST + HISTORY;

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
    choose(const float *prediction, const float *table, const unsigned *step, float *chosen, unsigned *index,
           float *squares, unsigned items, unsigned values, unsigned rows, unsigned chunk, unsigned chunks) {
    __shared__ float scratch[2][THREADS / 32];
    const float *row = table + COLUMNS * min(*step, rows - 1);
    if (blockIdx.x == 0 && threadIdx.x < COLUMNS) chosen[threadIdx.x] = row[threadIdx.x];
    if (blockIdx.x == 0 && threadIdx.x == 0) *index = *step;
    if (!GUIDED || !(row[CAP] > 0.0f)) return;
    const unsigned item = blockIdx.x / chunks, first = blockIdx.x % chunks * chunk, end = min(first + chunk, values);
    const Velocity velocity(prediction, item, items, values, row[GUIDANCE]);
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
    sampler_step(float *latents, float *history, const float *noise, const float *prediction, const float *chosen,
                 const unsigned *index, const float *squares, unsigned *step, unsigned items, unsigned values,
                 unsigned rows, unsigned chunks) {
    const unsigned item = blockIdx.y, at = (blockIdx.x * THREADS + threadIdx.x) * VECTOR;
    if (item == 0 && at == 0) *step += 1;
    const float cap = chosen[CAP];
    float ratio = 1.0f;
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
        if (guided > plain) ratio = plain / guided;
    }
    if (at >= values) return;
    const u64 offset = static_cast<u64>(item) * values + at, batch = static_cast<u64>(items) * values;
    Vec<VECTOR> p, v, x, next;
    load_vec(x, latents + offset);
    Velocity(prediction, item, items, values, chosen[GUIDANCE]).load(p, v, at);
    const float a = chosen[LATENTS], b = chosen[PREDICTION] * ratio;
    // a·x is exact for Euler, so that its step is one rounding.
#pragma unroll
    for (int i = 0; i < VECTOR; i++) next.value[i] = fmaf(b, v.value[i], a * x.value[i]);
    if constexpr (HISTORY > 0) {
        constexpr unsigned SLOTS = HISTORY > 0 ? HISTORY : 1;
        const unsigned newest = *index % SLOTS;
#pragma unroll
        for (unsigned j = 1; j <= SLOTS; j++) {
            const float c = chosen[PAST + j - 1];
            if (c == 0.0f) continue;
            Vec<VECTOR> past;
            load_vec(past, history + (newest + SLOTS - j) % SLOTS * batch + offset);
#pragma unroll
            for (int i = 0; i < VECTOR; i++) next.value[i] = fmaf(c, past.value[i], next.value[i]);
        }
        const float e = chosen[STORED_LATENTS], f = chosen[STORED_PREDICTION] * ratio;
        Vec<VECTOR> stored;
#pragma unroll
        for (int i = 0; i < VECTOR; i++) stored.value[i] = fmaf(f, v.value[i], e * x.value[i]);
        store_vec(history + newest * batch + offset, stored);
    }
    if (NOISE && chosen[NOISE_SCALE] != 0.0f) {
        Vec<VECTOR> n;
        load_vec(n, noise + min(*index, rows - 1) * batch + offset);
#pragma unroll
        for (int i = 0; i < VECTOR; i++) next.value[i] = fmaf(chosen[NOISE_SCALE], n.value[i], next.value[i]);
    }
    store_vec(latents + offset, next);
}
