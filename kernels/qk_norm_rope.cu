// qk_norm_rope: every query and key head of a fused projection
// `[items·tokens, (query + 2·key)·HEAD]` is RMS-normed, x/√(mean(x²) + eps)·weight, and its pairs
// are rotated, (a, b) → (a·cos − b·sin, a·sin + b·cos), in place.
//
// Grid: TEAM neighbouring lanes per head, 128 threads in a CTA. FAST: a lane has eight neighbouring
//   values, and if pairs are half a head apart, it gets the other half of its pairs by a shuffle.
//   Else a warp goes over the pairs one by one.
// With QK_FP8, `qkv` stays as it is, and all heads go to `out`: a token has E4M3 codes of queries
//   and keys in the order of code_place (common/fp8.cuh), then BF16 values. All queries have one
//   scale, all keys another, in `scales`: the bound on a normed head / 448. Without, `out` and
//   `scales` are not used.
// Constants: HEAD, INTERLEAVED, FAST (HEAD is 8 times a power of two up to 32), TEAM, QK_FP8 (HEAD
// is 128).

#include "common/fp8.cuh"
#include "common/reduce.cuh"
#include "common/vec.cuh"
#include "sm90/ptx/pdl.cuh"

#ifndef HEAD
#define HEAD 128
#define INTERLEAVED 1
#define FAST 1
#define TEAM 16
#endif
#ifndef QK_FP8
#define QK_FP8 0
#endif

static_assert(!QK_FP8 || HEAD == 128, "vectors of codes and values are aligned");

extern "C" __global__ void __launch_bounds__(128)
    qk_norm_rope(bf16 *qkv, const float *q_norm, const float *k_norm, const float *rotation, unsigned tokens,
                 unsigned rows, unsigned query_heads, unsigned key_heads, unsigned rotation_stride, float eps,
                 void *out, float *scales) {
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    const unsigned team = (blockIdx.x * 128 + threadIdx.x) / TEAM, member = threadIdx.x % TEAM;
    // Values are copied with QK_FP8, and else not touched.
    const unsigned normed_heads = query_heads + key_heads, heads = QK_FP8 ? normed_heads + key_heads : normed_heads;
    // Teams past the last head repeat it without storing, because a sum takes all lanes of a warp.
    const bool exists = team < rows * heads;
    const unsigned row = exists ? team / heads : rows - 1, head = exists ? team % heads : heads - 1;
    const unsigned item = row / tokens, token = row % tokens;
    bf16 *values = qkv + (static_cast<u64>(row) * (normed_heads + key_heads) + head) * HEAD;
    const float *weight = head < query_heads ? q_norm : k_norm;
    const float *cos_sin = rotation + static_cast<u64>(item) * rotation_stride + static_cast<u64>(token) * HEAD;

    if constexpr (FAST) {
        const unsigned at = 8 * member;
        Vec<8> x, weights;
        const uint4 stored = *reinterpret_cast<const uint4 *>(values + at);
        x = unpack(PackedVec<8>{stored});
        load_vec(weights, weight + at);
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) squares += x.value[i] * x.value[i];
        const float factor = rsqrtf(lane_sum<TEAM>(squares) / HEAD + eps);
#pragma unroll
        for (int i = 0; i < 8; i++) x.value[i] *= factor * weights.value[i];
        if constexpr (INTERLEAVED) {
            Vec<8> angles;
            load_vec(angles, cos_sin + at);
#pragma unroll
            for (int i = 0; i < 8; i += 2) {
                const float a = x.value[i], b = x.value[i + 1];
                x.value[i] = a * angles.value[i] - b * angles.value[i + 1];
                x.value[i + 1] = a * angles.value[i + 1] + b * angles.value[i];
            }
        } else {
            // Pair p is elements p and p + HEAD/2; its cosine and sine are at 2p.
            const bool upper = member >= TEAM / 2;
            const unsigned pair = at % (HEAD / 2);
            Vec<8> angles[2];
            load_vec(angles[0], cos_sin + 2 * pair);
            load_vec(angles[1], cos_sin + 2 * pair + 8);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float other = __shfl_xor_sync(0xffffffffu, x.value[i], TEAM / 2);
                const float cosine = angles[i / 4].value[i % 4 * 2], sine = angles[i / 4].value[i % 4 * 2 + 1];
                x.value[i] = x.value[i] * cosine + (upper ? other : -other) * sine;
            }
        }
        if constexpr (QK_FP8) {
            float largest = 0.0f;
#pragma unroll
            for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(weights.value[i]));
            const Fp8Scale scale = Fp8Scale::of_row(head_bound<HEAD>(lane_max<TEAM>(largest)));
            if (!exists) return;
            if (row == 0 && member == 0) {
                if (head == 0) scales[0] = scale.scale;
                if (head == query_heads) scales[1] = scale.scale;
            }
            const u64 row_bytes = normed_heads * HEAD + key_heads * HEAD * sizeof(bf16);
            fp8 *to_row = static_cast<fp8 *>(out) + row * row_bytes;
            if (head < normed_heads) {
                fp8 *to_head = to_row + head * HEAD;
#pragma unroll
                for (int i = 0; i < 8; i += 2) {
                    *reinterpret_cast<unsigned short *>(to_head + code_place(at + i)) =
                        scale.codes(x.value[i], x.value[i + 1]);
                }
            } else {
                bf16 *to = reinterpret_cast<bf16 *>(to_row + normed_heads * HEAD) + (head - normed_heads) * HEAD;
                *reinterpret_cast<uint4 *>(to + at) = stored;
            }
        } else {
            if (exists) store_vec(values + at, x);
        }
    } else {
        float squares = 0.0f;
        for (unsigned i = member; i < HEAD; i += TEAM) squares += to_float(values[i]) * to_float(values[i]);
        const float factor = rsqrtf(lane_sum<TEAM>(squares) / HEAD + eps);
        __syncwarp();
        for (unsigned pair = member; pair < HEAD / 2; pair += TEAM) {
            const unsigned first = INTERLEAVED ? 2 * pair : pair, second = INTERLEAVED ? first + 1 : pair + HEAD / 2;
            const float a = to_float(values[first]) * factor * weight[first];
            const float b = to_float(values[second]) * factor * weight[second];
            const float cosine = cos_sin[2 * pair], sine = cos_sin[2 * pair + 1];
            if (!exists) continue;
            values[first] = to_bf16(a * cosine - b * sine);
            values[second] = to_bf16(a * sine + b * cosine);
        }
    }
}
