// embed_patches: latents F32 `[items, channels, height, width]` to tokens
// `[copies·items, tokens, n]`. A patch has its values in the order (row, column, channel), rounded
// to BF16; rows behind the last patch become the pad token.
//
// Grid: two kernels.
//   gather         a thread per value makes rows of the patches, `[items, patches, stride]`, with
//                  zeros behind the k values.
//   embed_patches  CTAs of 64 tokens × 128 columns, 2 × 4 warps with 32 × 32 each, operands
//                  straight from memory (gemm/fragments.cuh). The columns of a fragment are
//                  permuted so that each lane ends with eight neighbouring ones.
// Constants: PATCH, HAS_BIAS, ALIGNED_OUT (n is a multiple of 8).

#include "gemm/fragments.cuh"

#ifndef PATCH
#define PATCH 2
#define HAS_BIAS 1
#define ALIGNED_OUT 1
#endif

constexpr unsigned WARPS_M = 2, WARPS_N = 4, THREADS = 32 * WARPS_M * WARPS_N;
constexpr unsigned SIDE = 32;

extern "C" __global__ void __launch_bounds__(THREADS)
    gather(const float *latents, bf16 *out, unsigned values, unsigned k, unsigned stride, unsigned patches,
           unsigned channels, unsigned height, unsigned width) {
    const unsigned at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= values) return;
    const unsigned row = at / stride, value = at % stride, item = row / patches, patch = row % patches;
    const unsigned channel = value % channels, inner = value / channels, across = width / PATCH;
    const unsigned down = patch / across * PATCH + inner / PATCH, right = patch % across * PATCH + inner % PATCH;
    const u64 from = ((static_cast<u64>(item) * channels + channel) * height + down) * width + right;
    out[at] = value < k ? to_bf16(latents[from]) : bf16{0};
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_patches(const bf16 *rows, const bf16 *weights, const float *bias, const float *pad, bf16 *out, unsigned m,
                  unsigned n, unsigned stride, unsigned tokens, unsigned patches, unsigned copies) {
    const unsigned warp = threadIdx.x / 32, line = threadIdx.x % 32 / 4, part = threadIdx.x % 4 * 8;
    const unsigned top = (blockIdx.y * WARPS_M + warp / WARPS_N) * SIDE;
    const unsigned left = (blockIdx.x * WARPS_N + warp % WARPS_N) * SIDE;
    const bf16 *a_rows[SIDE / 8], *w_rows[SIDE / 8];
    bool is_patch[SIDE / 8];
#pragma unroll
    for (unsigned i = 0; i < SIDE / 8; i++) {
        const unsigned row = min(top + 8 * i + line, m - 1), patch = row % tokens;
        is_patch[i] = patch < patches;
        a_rows[i] = rows + (static_cast<u64>(row / tokens) * patches + (is_patch[i] ? patch : 0)) * stride;
    }
    // Columns 2c and 2c + 1 of fragment j are 8c + 2j and 8c + 2j + 1.
#pragma unroll
    for (unsigned j = 0; j < SIDE / 8; j++) {
        w_rows[j] = weights + static_cast<u64>(min(left + line / 2 * 8 + 2 * j + line % 2, n - 1)) * stride;
    }
    float acc[SIDE / 16][SIDE / 8][4] = {};
#pragma unroll 2
    for (unsigned at = part; at - part < stride; at += STEP) {
        uint4 a[SIDE / 8], w[SIDE / 8];
#pragma unroll
        for (unsigned i = 0; i < SIDE / 8; i++) a[i] = load_fragment<true>(a_rows[i], at, stride);
#pragma unroll
        for (unsigned j = 0; j < SIDE / 8; j++) w[j] = load_fragment<true>(w_rows[j], at, stride);
#pragma unroll
        for (unsigned i = 0; i < SIDE / 16; i++) {
#pragma unroll
            for (unsigned j = 0; j < SIDE / 8; j++) mma_step(acc[i][j], a[2 * i], a[2 * i + 1], w[j]);
        }
    }

    const unsigned column = left + part;
    if (column >= n) return;
    auto load_columns = [&](const float *from) {
        Vec<8> values;
        if (ALIGNED_OUT) {
            load_vec(values, from + column);
        } else {
#pragma unroll
            for (unsigned i = 0; i < 8; i++) values.value[i] = column + i < n ? from[column + i] : 0.0f;
        }
        return values;
    };
    Vec<8> bias_values{};
    if (HAS_BIAS) bias_values = load_columns(bias);
#pragma unroll
    for (unsigned i = 0; i < SIDE / 8; i++) {
        const unsigned row = top + 8 * i + line;
        if (row >= m) continue;
        Vec<8> values;
        if (is_patch[i]) {
#pragma unroll
            for (unsigned v = 0; v < 8; v++) {
                values.value[v] = acc[i / 2][v / 2][i % 2 * 2 + v % 2] + bias_values.value[v];
            }
        } else {
            values = load_columns(pad);
        }
        const uint4 words = pack(values);
        for (unsigned copy = 0; copy < copies; copy++) {
            bf16 *to = out + (static_cast<u64>(copy) * m + row) * n;
            store8<ALIGNED_OUT>(to, column, n, reinterpret_cast<const bf16 *>(&words));
        }
    }
}
