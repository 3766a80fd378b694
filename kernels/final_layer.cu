// final_layer: velocity = unpatchify(W·(LN(x)·(1 + scale)) + b), x `[items, tokens, k]`, W `[n, stride]` with n = PATCH²·channels,
// out F32 `[items, channels, height, width]`. The normed token is rounded to BF16.
//
// A block takes ROWS tokens of an item and COLUMNS of the product. It finds what LN needs of each token, and reads the
// tokens again, out of the L2, for the product, in which each warp has every WARPS-th step along k.
// Constants: PATCH, HAS_BIAS, SHARED (one scale for all items), ALIGNED (k is a multiple of 8).

constexpr unsigned WARPS = 8, THREADS = 32 * WARPS;
constexpr unsigned ROWS = 32, COLUMNS = 64;
// Where a warp's sums lie in shared memory: a column after the other, so far apart that a warp writes to all banks.
constexpr unsigned COLUMN = ROWS + 4;

// Calls visit(value) for this lane's values of a row, of which it reads up to 128 before it uses the first.
template <class Visit> __device__ __forceinline__ void each_of(const bf16 *row, unsigned k, Visit visit) {
    constexpr unsigned AT_ONCE = 16, APART = 8 * 32;
    for (unsigned at = threadIdx.x % 32 * 8; at < k; at += AT_ONCE * APART) {
        uint4 words[AT_ONCE];
#pragma unroll
        for (unsigned i = 0; i < AT_ONCE; i++) words[i] = eight_of<ALIGNED>(row, at + i * APART, k);
#pragma unroll
        for (unsigned i = 0; i < AT_ONCE; i++) {
            const Values<8> values = unpacked(Stored<8>{words[i]});
#pragma unroll
            for (unsigned v = 0; v < 8; v++) {
                if (at + i * APART + v < k) visit(values.value[v]);
            }
        }
    }
}

// Mean and 1/√(variance + eps) of a row, in every lane of the warp; the variance is summed around the mean, when the row
// is in the L1.
__device__ __forceinline__ float2 moments(const bf16 *row, unsigned k, float eps) {
    float sum = 0.0f, squares = 0.0f;
    each_of(row, k, [&](float value) { sum += value; });
    const float mean = lanes_sum<32>(sum) / k;
    each_of(row, k, [&](float value) { squares += (value - mean) * (value - mean); });
    return make_float2(mean, rsqrtf(lanes_sum<32>(squares) / k + eps));
}

// One block a multiprocessor is enough for a picture: its warps take the registers to have a whole step on the way.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    final_layer(const bf16 *x, const bf16 *scale, const bf16 *weights, const float *bias, float *out, unsigned n,
                unsigned k, unsigned stride, unsigned tokens, unsigned patches, unsigned table_stride,
                unsigned table_offset, unsigned channels, unsigned height, unsigned width, float eps) {
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ float2 of_row[ROWS];
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const unsigned bands = (patches + ROWS - 1) / ROWS, item = blockIdx.x / bands, first = blockIdx.x % bands * ROWS;
    const unsigned origin = blockIdx.y * COLUMNS;
    // Past the last patch the last one's token, whose products nobody stores.
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
    const bf16 *factors = scale + table_offset + (SHARED ? 0 : static_cast<u64>(item) * table_stride);
    const bf16 *rows[ROWS / 8], *columns[COLUMNS / 8];
    float2 norms[ROWS / 8];
#pragma unroll
    for (unsigned i = 0; i < ROWS / 8; i++) rows[i] = token(8 * i + line), norms[i] = of_row[8 * i + line];
#pragma unroll
    for (unsigned j = 0; j < COLUMNS / 8; j++) {
        columns[j] = weights + static_cast<u64>(min(origin + 8 * j + line, n - 1)) * stride;
    }
    float sums[ROWS / 16][COLUMNS / 8][4] = {};
    for (unsigned step = warp * STEP; step < k; step += WARPS * STEP) {
        const unsigned at = step + lane % 4 * 8;
        uint4 a[ROWS / 8], w[COLUMNS / 8];
#pragma unroll
        for (unsigned i = 0; i < ROWS / 8; i++) a[i] = eight_of<ALIGNED>(rows[i], at, k);
#pragma unroll
        for (unsigned j = 0; j < COLUMNS / 8; j++) w[j] = eight_of<true>(columns[j], at, stride);
        const Values<8> by = unpacked(Stored<8>{eight_of<ALIGNED>(factors, at, k)});
#pragma unroll
        for (unsigned i = 0; i < ROWS / 8; i++) {
            Values<8> normed = unpacked(Stored<8>{a[i]});
#pragma unroll
            for (unsigned v = 0; v < 8; v++) {
                const float value = (normed.value[v] - norms[i].x) * norms[i].y * (1.0f + by.value[v]);
                normed.value[v] = at + v < k ? value : 0.0f;
            }
            a[i] = packed(normed);
        }
#pragma unroll
        for (unsigned i = 0; i < ROWS / 16; i++) {
#pragma unroll
            for (unsigned j = 0; j < COLUMNS / 8; j++) multiply(sums[i][j], a[2 * i], a[2 * i + 1], w[j]);
        }
    }

    float *all = reinterpret_cast<float *>(shared);
#pragma unroll
    for (unsigned i = 0; i < ROWS / 16; i++) {
#pragma unroll
        for (unsigned j = 0; j < COLUMNS / 8; j++) {
#pragma unroll
            for (unsigned v = 0; v < 4; v++) {
                const unsigned row = 16 * i + 8 * (v / 2) + line, column = 8 * j + lane % 4 * 2 + v % 2;
                all[(warp * COLUMNS + column) * COLUMN + row] = sums[i][j][v];
            }
        }
    }
    __syncthreads();
    for (unsigned at = threadIdx.x; at < ROWS * COLUMNS; at += THREADS) {
        const unsigned row = at % ROWS, column = at / ROWS, patch = first + row, output = origin + column;
        if (patch >= patches || output >= n) continue;
        float value = HAS_BIAS ? bias[output] : 0.0f;
#pragma unroll
        for (unsigned i = 0; i < WARPS; i++) value += all[(i * COLUMNS + column) * COLUMN + row];
        const unsigned channel = output % channels, inner = output / channels, across = width / PATCH;
        const unsigned down = patch / across * PATCH + inner / PATCH, right = patch % across * PATCH + inner % PATCH;
        out[((static_cast<u64>(item) * channels + channel) * height + down) * width + right] = value;
    }
}
