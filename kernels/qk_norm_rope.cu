// qk_norm_rope: every query and key head of a fused projection
// `[items·tokens, (query + 2·key)·HEAD]` is RMS-normed, x/√(mean(x²) + eps)·weight, and its pairs
// are rotated, (a, b) → (a·cos − b·sin, a·sin + b·cos), in place.
//
// Grid: TEAM neighbouring lanes per head, 128 threads in a CTA. FAST: a lane has eight neighbouring
//   values, and if pairs are half a head apart, it gets the other half of its pairs by a shuffle.
//   Else a warp goes over the pairs one by one.
// With QKV_FP8, `qkv` stays as it is, and `out` and `scales` become a projection in FP8
//   (common/fp8.cuh): all queries have one scale, all keys another, the bound on a normed head /
//   448. Behind the CTAs of normed heads, each quantises and transposes a block of VALUE_BLOCK
//   tokens of the values of a head. Without, `out` and `scales` are not used.
// Constants: HEAD, INTERLEAVED, FAST (HEAD is 8 times a power of two up to 32), TEAM, QKV_FP8 (HEAD
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
#ifndef QKV_FP8
#define QKV_FP8 0
#endif

static_assert(!QKV_FP8 || (HEAD == 128 && FAST), "vectors of codes and values are aligned");

// Quantises block `index` of the values, `[items, key_heads, value_blocks]`, and stores it,
// transposed, to `out` and its scale to `scales`. Row `row` of item 0 has its values at `from + row
// * stride`.
__device__ __forceinline__ void transpose_values(unsigned index, const bf16 *from, u64 stride, unsigned tokens,
                                                 unsigned key_heads, unsigned char *out, float *scales) {
    // A thread has eight columns of tokens g and g + 8 of each 16, so whole 16-bit elements of a
    // transposed row. Rows in shared memory are an odd number of words apart.
    constexpr unsigned ROW = VALUE_BLOCK + 4, GROUPS = VALUE_BLOCK / 16;
    __shared__ __align__(4) unsigned char codes[HEAD][ROW];
    __shared__ float scratch[4];
    const unsigned blocks = value_blocks(tokens), bytes = value_stride(tokens);
    const unsigned first = index % blocks * VALUE_BLOCK, head = index / blocks % key_heads, item = index / blocks / key_heads;
    const unsigned g = threadIdx.x / 16, column = threadIdx.x % 16 * 8;
    Vec<8> values[GROUPS][2];
    float amax = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < GROUPS; i++) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const unsigned token = first + 16 * i + 8 * half + g;
            PackedVec<8> packed{make_uint4(0, 0, 0, 0)};
            if (token < tokens) {
                load_packed(packed, from + (static_cast<u64>(item) * tokens + token) * stride + head * HEAD + column);
            }
            values[i][half] = unpack(packed);
#pragma unroll
            for (unsigned c = 0; c < 8; c++) amax = fmaxf(amax, fabsf(values[i][half].value[c]));
        }
    }
    const Fp8Scale scale = Fp8Scale::of_values(block_max<128>(amax, scratch));
    if (threadIdx.x == 0) scales[index] = scale.scale;
#pragma unroll
    for (unsigned i = 0; i < GROUPS; i++) {
#pragma unroll
        for (unsigned c = 0; c < 8; c++) {
            *reinterpret_cast<unsigned short *>(codes[column + c] + value_place(16 * i + g)) =
                scale.codes(values[i][0].value[c], values[i][1].value[c]);
        }
    }
    __syncthreads();
    unsigned char *to = out + (static_cast<u64>(item) * key_heads + head) * HEAD * bytes + first;
#pragma unroll
    for (unsigned at = threadIdx.x; at < HEAD * GROUPS; at += 128) {
        const unsigned row = at / GROUPS, start = at % GROUPS * 16;
        const unsigned *words = reinterpret_cast<const unsigned *>(codes[row] + start);
        if (first + start < bytes) {
            *reinterpret_cast<uint4 *>(to + static_cast<u64>(row) * bytes + start) =
                make_uint4(words[0], words[1], words[2], words[3]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(128)
    qk_norm_rope(bf16 *qkv, const float *q_norm, const float *k_norm, const float *rotation, unsigned tokens,
                 unsigned rows, unsigned query_heads, unsigned key_heads, unsigned rotation_stride, float eps,
                 void *out, float *scales) {
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if constexpr (QKV_FP8) {
        const unsigned normed = (query_heads + key_heads) * HEAD;
        const unsigned normed_ctas = (rows * (query_heads + key_heads) * TEAM + 127) / 128;
        if (blockIdx.x >= normed_ctas) {
            transpose_values(blockIdx.x - normed_ctas, qkv + normed, normed + key_heads * HEAD, tokens, key_heads,
                             static_cast<unsigned char *>(out) + static_cast<u64>(rows) * normed, scales + 2);
            return;
        }
    }
    const unsigned team = (blockIdx.x * 128 + threadIdx.x) / TEAM, member = threadIdx.x % TEAM;
    const unsigned heads = query_heads + key_heads;
    // Teams past the last head repeat it without storing, because a sum takes all lanes of a warp.
    const bool exists = team < rows * heads;
    const unsigned row = exists ? team / heads : rows - 1, head = exists ? team % heads : heads - 1;
    const unsigned item = row / tokens, token = row % tokens;
    bf16 *values = qkv + (static_cast<u64>(row) * (heads + key_heads) + head) * HEAD;
    const float *weight = head < query_heads ? q_norm : k_norm;
    const float *cos_sin = rotation + static_cast<u64>(item) * rotation_stride + static_cast<u64>(token) * HEAD;

    if constexpr (FAST) {
        const unsigned at = 8 * member;
        Vec<8> x, weights;
        load_vec(x, values + at);
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
        if constexpr (QKV_FP8) {
            float largest = 0.0f;
#pragma unroll
            for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(weights.value[i]));
            const Fp8Scale scale = Fp8Scale::of_row(head_bound<HEAD>(lane_max<TEAM>(largest)));
            if (!exists) return;
            if (row == 0 && member == 0) {
                if (head == 0) scales[0] = scale.scale;
                if (head == query_heads) scales[1] = scale.scale;
            }
            fp8 *to = static_cast<fp8 *>(out) + static_cast<u64>(team) * HEAD;
#pragma unroll
            for (int i = 0; i < 8; i += 2) {
                *reinterpret_cast<unsigned short *>(to + code_place(at + i)) = scale.codes(x.value[i], x.value[i + 1]);
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
