// qk_norm_rope: every query and key head of a fused projection `[items·tokens, (query + 2·key)·HEAD]` is normed,
// x/√(mean(x²) + eps)·weight, and its pairs are rotated, (a, b) → (a·cos − b·sin, a·sin + b·cos), in place.
//
// TEAM neighbouring lanes share a head: with FAST each has eight values of it in a row, and gets the other half of its
// pairs, where those are half a head away, from the lane that has them; else a warp goes over the pairs one by one.
// Constants: HEAD, INTERLEAVED, FAST (HEAD is 8 times a power of two up to 32), TEAM.

extern "C" __global__ void __launch_bounds__(128)
    qk_norm_rope(bf16 *qkv, const float *q_norm, const float *k_norm, const float *rotation, unsigned tokens, unsigned rows,
                 unsigned query_heads, unsigned key_heads, unsigned rotation_stride, float eps) {
    let_next_start();
    wait_for_previous();
    const unsigned team = (blockIdx.x * 128 + threadIdx.x) / TEAM, member = threadIdx.x % TEAM;
    const unsigned heads = query_heads + key_heads;
    // Teams behind the last head work on it too, and write nothing, as lanes of a warp sum together.
    const bool real = team < rows * heads;
    const unsigned row = real ? team / heads : rows - 1, head = real ? team % heads : heads - 1;
    const unsigned item = row / tokens, token = row % tokens;
    bf16 *values = qkv + (static_cast<u64>(row) * (heads + key_heads) + head) * HEAD;
    const float *weight = head < query_heads ? q_norm : k_norm;
    const float *turns = rotation + static_cast<u64>(item) * rotation_stride + static_cast<u64>(token) * HEAD;

    if constexpr (FAST) {
        const unsigned at = 8 * member;
        Values<8> x, weights;
        read_values(x, values + at);
        read_values(weights, weight + at);
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) squares += x.value[i] * x.value[i];
        const float factor = rsqrtf(lanes_sum<TEAM>(squares) / HEAD + eps);
#pragma unroll
        for (int i = 0; i < 8; i++) x.value[i] *= factor * weights.value[i];
        if constexpr (INTERLEAVED) {
            Values<8> turn;
            read_values(turn, turns + at);
#pragma unroll
            for (int i = 0; i < 8; i += 2) {
                const float a = x.value[i], b = x.value[i + 1];
                x.value[i] = a * turn.value[i] - b * turn.value[i + 1];
                x.value[i + 1] = a * turn.value[i + 1] + b * turn.value[i];
            }
        } else {
            // Pair p is elements p and p + HEAD/2; its cosine and sine stand at 2p.
            const bool upper = member >= TEAM / 2;
            const unsigned pair = at % (HEAD / 2);
            Values<8> turn[2];
            read_values(turn[0], turns + 2 * pair);
            read_values(turn[1], turns + 2 * pair + 8);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float other = __shfl_xor_sync(0xffffffffu, x.value[i], TEAM / 2);
                const float cosine = turn[i / 4].value[i % 4 * 2], sine = turn[i / 4].value[i % 4 * 2 + 1];
                x.value[i] = x.value[i] * cosine + (upper ? other : -other) * sine;
            }
        }
        if (real) write_values(values + at, x);
    } else {
        float squares = 0.0f;
        for (unsigned i = member; i < HEAD; i += TEAM) squares += widen(values[i]) * widen(values[i]);
        const float factor = rsqrtf(lanes_sum<TEAM>(squares) / HEAD + eps);
        __syncwarp();
        for (unsigned pair = member; pair < HEAD / 2; pair += TEAM) {
            const unsigned first = INTERLEAVED ? 2 * pair : pair, second = INTERLEAVED ? first + 1 : pair + HEAD / 2;
            const float a = widen(values[first]) * factor * weight[first];
            const float b = widen(values[second]) * factor * weight[second];
            const float cosine = turns[2 * pair], sine = turns[2 * pair + 1];
            if (!real) continue;
            values[first] = narrow(a * cosine - b * sine);
            values[second] = narrow(a * sine + b * cosine);
        }
    }
}
