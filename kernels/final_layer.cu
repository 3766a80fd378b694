// final_layer: velocity = unpatchify(W·(LN(x)·(1 + scale)) + b). x `[items, tokens, k]`,
// W `[n, stride]` with n = PATCH²·channels, out F32 `[items, channels, height, width]`. The normed
// token is rounded to BF16.
//
// Grid: a CTA of 8 warps per ROWS tokens of an item and COLUMNS of the product. It computes the
//   moments of each token, then reads the tokens again, out of the L2, for the product
//   (gemm/fragments.cuh). Each warp takes every eighth step along k, and the warps' sums meet in
//   shared memory.
// Constants: PATCH, HAS_BIAS, SHARED (one scale for all items), ALIGNED (k is a multiple of 8).

#include "common/reduce.cuh"
#include "gemm/fragments.cuh"

#ifndef PATCH
#define PATCH 2
#define HAS_BIAS 1
#define SHARED 1
#define ALIGNED 1
#endif

constexpr unsigned WARPS = 8, THREADS = 32 * WARPS;
constexpr unsigned ROWS = 32, COLUMNS = 64;
// The distance of columns in shared memory: a warp's stores go to all banks.
constexpr unsigned COLUMN_STRIDE = ROWS + 4;

// Calls visit(value) for this lane's values of a row. Up to 128 of them are in flight at a time.
template <class Visit> __device__ __forceinline__ void each_value(const bf16 *row, unsigned k, Visit visit) {
    constexpr unsigned AT_ONCE = 16, APART = 8 * 32;
    for (unsigned at = threadIdx.x % 32 * 8; at < k; at += AT_ONCE * APART) {
        uint4 words[AT_ONCE];
#pragma unroll
        for (unsigned i = 0; i < AT_ONCE; i++) words[i] = load_fragment<ALIGNED>(row, at + i * APART, k);
#pragma unroll
        for (unsigned i = 0; i < AT_ONCE; i++) {
            const Vec<8> values = unpack(PackedVec<8>{words[i]});
#pragma unroll
            for (unsigned v = 0; v < 8; v++) {
                if (at + i * APART + v < k) visit(values.value[v]);
            }
        }
    }
}

// Mean and 1/√(variance + eps) of a row, in every lane of the warp. The variance is summed around
// the mean in a second pass, which hits the L1.
__device__ __forceinline__ float2 moments(const bf16 *row, unsigned k, float eps) {
    float sum = 0.0f, squares = 0.0f;
    each_value(row, k, [&](float value) { sum += value; });
    const float mean = lane_sum<32>(sum) / k;
    each_value(row, k, [&](float value) { squares += (value - mean) * (value - mean); });
    return make_float2(mean, rsqrtf(lane_sum<32>(squares) / k + eps));
}

// One CTA per SM is enough for a picture; its warps use the registers to have a whole step in
// flight.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    final_layer(const bf16 *x, const bf16 *scale, const bf16 *weights, const float *bias, float *out, unsigned n,
                unsigned k, unsigned stride, unsigned tokens, unsigned patches, unsigned table_stride,
                unsigned table_offset, unsigned channels, unsigned height, unsigned width, float eps) {
    extern __shared__ __align__(16) unsigned char smem[];
    __shared__ float2 of_row[ROWS];
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const unsigned bands = (patches + ROWS - 1) / ROWS, item = blockIdx.x / bands, first = blockIdx.x % bands * ROWS;
    const unsigned origin = blockIdx.y * COLUMNS;
    // Rows past the last patch repeat it; their products are not stored.
    auto token = [&](unsigned row) {
        return x + (static_cast<u64>(item) * tokens + min(first + row, patches - 1)) * k;
    };
#pragma unroll 1
    for (unsigned row = warp; row < ROWS; row += WARPS) {
        const float2 found = moments(token(row), k, eps);
        if (lane == 0) of_row[row] = found;
    }
    __syncthreads();

    const unsigned line = lane / 4;
    const bf16 *scales = scale + table_offset + (SHARED ? 0 : static_cast<u64>(item) * table_stride);
    const bf16 *rows[ROWS / 8], *columns[COLUMNS / 8];
    float2 norms[ROWS / 8];
#pragma unroll
    for (unsigned i = 0; i < ROWS / 8; i++) rows[i] = token(8 * i + line), norms[i] = of_row[8 * i + line];
#pragma unroll
    for (unsigned j = 0; j < COLUMNS / 8; j++) {
        columns[j] = weights + static_cast<u64>(min(origin + 8 * j + line, n - 1)) * stride;
    }
    float acc[ROWS / 16][COLUMNS / 8][4] = {};
    for (unsigned step = warp * STEP; step < k; step += WARPS * STEP) {
        const unsigned at = step + lane % 4 * 8;
        uint4 a[ROWS / 8], w[COLUMNS / 8];
#pragma unroll
        for (unsigned i = 0; i < ROWS / 8; i++) a[i] = load_fragment<ALIGNED>(rows[i], at, k);
#pragma unroll
        for (unsigned j = 0; j < COLUMNS / 8; j++) w[j] = load_fragment<true>(columns[j], at, stride);
        const Vec<8> factor = unpack(PackedVec<8>{load_fragment<ALIGNED>(scales, at, k)});
#pragma unroll
        for (unsigned i = 0; i < ROWS / 8; i++) {
            Vec<8> normed = unpack(PackedVec<8>{a[i]});
#pragma unroll
            for (unsigned v = 0; v < 8; v++) {
                const float value = (normed.value[v] - norms[i].x) * norms[i].y * (1.0f + factor.value[v]);
                normed.value[v] = at + v < k ? value : 0.0f;
            }
            a[i] = pack(normed);
        }
#pragma unroll
        for (unsigned i = 0; i < ROWS / 16; i++) {
#pragma unroll
            for (unsigned j = 0; j < COLUMNS / 8; j++) mma_step(acc[i][j], a[2 * i], a[2 * i + 1], w[j]);
        }
    }

    float *partial = reinterpret_cast<float *>(smem);
#pragma unroll
    for (unsigned i = 0; i < ROWS / 16; i++) {
#pragma unroll
        for (unsigned j = 0; j < COLUMNS / 8; j++) {
#pragma unroll
            for (unsigned v = 0; v < 4; v++) {
                const unsigned row = 16 * i + 8 * (v / 2) + line, column = 8 * j + lane % 4 * 2 + v % 2;
                partial[(warp * COLUMNS + column) * COLUMN_STRIDE + row] = acc[i][j][v];
            }
        }
    }
    __syncthreads();
    for (unsigned at = threadIdx.x; at < ROWS * COLUMNS; at += THREADS) {
        const unsigned row = at % ROWS, column = at / ROWS, patch = first + row, output = origin + column;
        if (patch >= patches || output >= n) continue;
        float value = HAS_BIAS ? bias[output] : 0.0f;
#pragma unroll
        for (unsigned i = 0; i < WARPS; i++) value += partial[(i * COLUMNS + column) * COLUMN_STRIDE + row];
        const unsigned channel = output % channels, inner = output / channels, across = width / PATCH;
        const unsigned down = patch / across * PATCH + inner / PATCH, right = patch % across * PATCH + inner % PATCH;
        out[((static_cast<u64>(item) * channels + channel) * height + down) * width + right] = value;
    }
}
