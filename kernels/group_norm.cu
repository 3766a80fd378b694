// group_norm: (x − mean)/√(variance + eps)·weight + bias over the channels of a group and all pixels, then SiLU where
// wanted. x `[items, pixels, channels]`.
//
// `measure` sums over chunks of pixels around a value of the group, so that a mean far from 0 costs no digits; `merge` puts
// the chunks' means and squares together (Chan, Golub, LeVeque 1979); `apply` reads x again.
// Constants: ALIGNED (channels are a multiple of 8 and at most 2048, each vector of 8 in one thread), SILU.

constexpr unsigned THREADS = 256;

// Mean and sum of squares around it, of every group in a chunk: `[items, groups, chunks, 2]`.
#if ALIGNED

// All groups of a chunk at once: a thread has eight channels of some pixels.
extern "C" __global__ void __launch_bounds__(THREADS)
    measure(const bf16 *x, float *partial, unsigned pixels, unsigned channels, unsigned groups, unsigned chunk,
            unsigned chunks) {
    __shared__ float sums[THREADS * 8], squares[THREADS * 8];
    const unsigned item = blockIdx.x / chunks, first = blockIdx.x % chunks * chunk;
    const unsigned count = min(chunk, pixels - first), width = channels / groups;
    const unsigned vectors = channels / 8, lines = THREADS / vectors;
    const unsigned line = threadIdx.x / vectors, channel = threadIdx.x % vectors * 8;
    const bf16 *start = x + (static_cast<u64>(item) * pixels + first) * channels;
    float sum[8] = {}, square[8] = {};
    if (line < lines) {
        float center[8];
#pragma unroll
        for (int i = 0; i < 8; i++) center[i] = widen(start[(channel + i) / width * width]);
        for (unsigned pixel = line; pixel < count; pixel += lines) {
            Values<8> values;
            read_values(values, start + static_cast<u64>(pixel) * channels + channel);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float away = values.value[i] - center[i];
                sum[i] += away;
                square[i] += away * away;
            }
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            sums[line * channels + channel + i] = sum[i];
            squares[line * channels + channel + i] = square[i];
        }
    }
    __syncthreads();
    for (unsigned group = threadIdx.x; group < groups; group += THREADS) {
        float all = 0.0f, all_squares = 0.0f;
        for (unsigned line = 0; line < lines; line++) {
            for (unsigned i = 0; i < width; i++) {
                all += sums[line * channels + group * width + i];
                all_squares += squares[line * channels + group * width + i];
            }
        }
        const float n = static_cast<float>(count * width), mean = all / n;
        float *to = partial + ((static_cast<u64>(item) * groups + group) * chunks + blockIdx.x % chunks) * 2;
        to[0] = widen(start[group * width]) + mean;
        to[1] = all_squares - all * mean;
    }
}

#else

// One group of a chunk, value by value.
extern "C" __global__ void __launch_bounds__(THREADS)
    measure(const bf16 *x, float *partial, unsigned pixels, unsigned channels, unsigned groups, unsigned chunk,
            unsigned chunks) {
    __shared__ float scratch[2][THREADS / 32];
    const unsigned group = blockIdx.x / chunks % groups, item = blockIdx.x / chunks / groups;
    const unsigned first = blockIdx.x % chunks * chunk;
    const unsigned width = channels / groups, count = min(chunk, pixels - first) * width;
    const bf16 *start = x + (static_cast<u64>(item) * pixels + first) * channels + group * width;
    const float center = widen(start[0]);
    float sum = 0.0f, square = 0.0f;
    for (unsigned i = threadIdx.x; i < count; i += THREADS) {
        const float away = widen(start[static_cast<u64>(i / width) * channels + i % width]) - center;
        sum += away;
        square += away * away;
    }
    sum = block_sum<THREADS>(sum, scratch[0]);
    square = block_sum<THREADS>(square, scratch[1]);
    if (threadIdx.x == 0) {
        const float mean = sum / count;
        float *to = partial + 2 * static_cast<u64>(blockIdx.x);
        to[0] = center + mean;
        to[1] = square - sum * mean;
    }
}

#endif

// Mean and 1/√(variance + eps) of every group, a thread each: `[items, groups, 2]`.
extern "C" __global__ void __launch_bounds__(32)
    merge(const float *partial, float *moments, unsigned width, unsigned pixels, unsigned chunk,
          unsigned chunks, float eps) {
    const unsigned group = blockIdx.x, lane = threadIdx.x;
    const float *from = partial + static_cast<u64>(group) * chunks * 2;
    float count = 0.0f, mean = 0.0f, squares = 0.0f;
    auto add = [&](float n, float other, float other_squares) {
        const float all = count + n;
        if (all == 0.0f) return;
        const float away = other - mean;
        mean += away * (n / all);
        squares += other_squares + away * away * (count * (n / all));
        count = all;
    };
    for (unsigned i = lane; i < chunks; i += 32) {
        add(static_cast<float>(min(chunk, pixels - i * chunk) * width), from[2 * i], from[2 * i + 1]);
    }
    for (int step = 16; step > 0; step /= 2) {
        const float n = __shfl_down_sync(0xffffffffu, count, step), other = __shfl_down_sync(0xffffffffu, mean, step);
        add(n, other, __shfl_down_sync(0xffffffffu, squares, step));
    }
    if (lane == 0) {
        moments[2 * group] = mean;
        moments[2 * group + 1] = rsqrtf(squares / count + eps);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    apply(const bf16 *x, const float *weight, const float *bias, const float *moments, bf16 *out, unsigned vectors,
          unsigned item_vectors, unsigned channels, unsigned groups) {
    constexpr int VECTOR = ALIGNED ? 8 : 1;
    const unsigned width = channels / groups;
    for (u64 at = blockIdx.x * static_cast<u64>(THREADS) + threadIdx.x; at < vectors; at += static_cast<u64>(gridDim.x) * THREADS) {
        const unsigned item = at / item_vectors, channel = at * VECTOR % channels;
        Values<VECTOR> values, weights, biases;
        read_values(values, x + at * VECTOR);
        read_values(weights, weight + channel);
        read_values(biases, bias + channel);
#pragma unroll
        for (int i = 0; i < VECTOR; i++) {
            const float *moment = moments + 2 * (static_cast<u64>(item) * groups + (channel + i) / width);
            const float value = (values.value[i] - moment[0]) * moment[1] * weights.value[i] + biases.value[i];
            values.value[i] = SILU ? silu(value) : value;
        }
        write_values(out + at * VECTOR, values);
    }
}
