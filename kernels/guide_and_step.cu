// guide_and_step: with p the prediction of an item and q that of its negative, v = p + g·(p − q); where c > 0 and
// ‖v‖ > c·‖p‖, v is scaled to c·‖p‖; latents += delta·v; then step += 1. (delta, g, c) is row `step` of the table. All F32.
// One block does it all, so that the counter moves after everyone has read it: an item is a megabyte at most.
// Constants: GUIDED (there are negatives).

constexpr unsigned THREADS = 1024;

extern "C" __global__ void __launch_bounds__(THREADS)
    guide_and_step(float *latents, const float *prediction, const float *table, unsigned *step, unsigned items,
                   unsigned values, unsigned rows) {
    __shared__ float scratch[2][THREADS / 32];
    const unsigned current = *step, row = min(current, rows - 1);
    const float delta = table[3 * row], guidance = table[3 * row + 1], cap = table[3 * row + 2];
    for (unsigned item = 0; item < items; item++) {
        const float *positive = prediction + static_cast<u64>(item) * values;
        const float *negative = positive + (GUIDED ? static_cast<u64>(items) * values : 0);
        float *to = latents + static_cast<u64>(item) * values;
        auto velocity = [&](unsigned i) {
            return GUIDED ? positive[i] + guidance * (positive[i] - negative[i]) : positive[i];
        };
        float factor = delta;
        if (GUIDED && cap > 0.0f) {
            float guided = 0.0f, plain = 0.0f;
            for (unsigned i = threadIdx.x; i < values; i += THREADS) {
                const float v = velocity(i);
                guided += v * v;
                plain += positive[i] * positive[i];
            }
            guided = sqrtf(block_sum<THREADS>(guided, scratch[0]));
            plain = cap * sqrtf(block_sum<THREADS>(plain, scratch[1]));
            if (guided > plain) factor *= plain / guided;
            // The next item's sums wait until everyone has read these.
            __syncthreads();
        }
        for (unsigned i = threadIdx.x; i < values; i += THREADS) to[i] += factor * velocity(i);
    }
    __syncthreads();
    if (threadIdx.x == 0) *step = current + 1;
}
