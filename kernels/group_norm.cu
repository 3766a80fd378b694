// group_norm: (x − mean)/√(variance + eps)·weight + bias over the channels of a group and all pixels, then SiLU where
// wanted. x `[items, pixels, channels]`.
//
// `measure` sums over chunks of pixels around a value of the group, so that a mean far from 0 costs no digits; `merge` puts
// the chunks' means and squares together (Chan, Golub, LeVeque 1979); `apply` reads x again, from its end on, because what
// `measure` read last may still be in the L2.
// Constants: ALIGNED (channels are a multiple of 8 and at most 2048, each vector of 8 in one thread), SILU.

constexpr unsigned THREADS = 256;

// Mean and sum of squares around it, of every group in a chunk: `[items, groups, chunks, 2]`.
#if ALIGNED

// Where a thread works: eight channels of every `lines`-th pixel of a chunk. Threads from line `lines` on have none.
struct Place {
    unsigned lines, line, channel;

    __device__ __forceinline__ explicit Place(unsigned channels)
        : lines(THREADS / (channels / 8)), line(threadIdx.x / (channels / 8)),
          channel(threadIdx.x % (channels / 8) * 8) {}

    // Calls visit(values, pixel) for this thread's pixels of the `count` from `start` on, of which it reads four before it
    // uses the first.
    template <class Visit>
    __device__ __forceinline__ void each(const bf16 *start, unsigned channels, unsigned count, Visit visit) const {
        constexpr unsigned AT_ONCE = 4;
        if (line >= lines) return;
        for (unsigned pixel = line; pixel < count; pixel += AT_ONCE * lines) {
            Stored<8> stored[AT_ONCE];
#pragma unroll
            for (unsigned i = 0; i < AT_ONCE; i++) {
                const unsigned at = min(pixel + i * lines, count - 1);
                read_stored(stored[i], start + static_cast<u64>(at) * channels + channel);
            }
#pragma unroll
            for (unsigned i = 0; i < AT_ONCE; i++) {
                if (pixel + i * lines < count) visit(unpacked(stored[i]), pixel + i * lines);
            }
        }
    }
};

// All groups of a chunk at once.
extern "C" __global__ void __launch_bounds__(THREADS)
    measure(const bf16 *x, float *partial, unsigned pixels, unsigned channels, unsigned groups, unsigned chunk,
            unsigned chunks) {
    __shared__ float sums[THREADS * 8], squares[THREADS * 8];
    const unsigned item = blockIdx.x / chunks, first = blockIdx.x % chunks * chunk;
    const unsigned count = min(chunk, pixels - first), width = channels / groups;
    const Place place(channels);
    const bf16 *start = x + (static_cast<u64>(item) * pixels + first) * channels;
    float center[8], sum[8] = {}, square[8] = {};
#pragma unroll
    for (int i = 0; i < 8; i++) center[i] = widen(start[(place.channel + i) / width * width]);
    place.each(start, channels, count, [&](const Values<8> &values, unsigned) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float away = values.value[i] - center[i];
            sum[i] += away;
            square[i] += away * away;
        }
    });
    if (place.line < place.lines) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            sums[place.line * channels + place.channel + i] = sum[i];
            squares[place.line * channels + place.channel + i] = square[i];
        }
    }
    __syncthreads();
    // The lines of a channel, then the channels of a group.
    for (unsigned channel = threadIdx.x; channel < channels; channel += THREADS) {
        for (unsigned line = 1; line < place.lines; line++) {
            sums[channel] += sums[line * channels + channel];
            squares[channel] += squares[line * channels + channel];
        }
    }
    __syncthreads();
    for (unsigned group = threadIdx.x; group < groups; group += THREADS) {
        float all = 0.0f, all_squares = 0.0f;
        for (unsigned i = group * width; i < (group + 1) * width; i++) {
            all += sums[i];
            all_squares += squares[i];
        }
        const float n = static_cast<float>(count * width), mean = all / n;
        float *to = partial + ((static_cast<u64>(item) * groups + group) * chunks + blockIdx.x % chunks) * 2;
        to[0] = widen(start[group * width]) + mean;
        to[1] = all_squares - all * mean;
    }
}

// A block takes the pixels of one of measure's.
extern "C" __global__ void __launch_bounds__(THREADS)
    apply(const bf16 *x, const float *weight, const float *bias, const float *moments, bf16 *out, unsigned pixels,
          unsigned channels, unsigned groups, unsigned chunk, unsigned chunks) {
    const unsigned block = gridDim.x - 1 - blockIdx.x, item = block / chunks, first = block % chunks * chunk;
    const unsigned width = channels / groups;
    const Place place(channels);
    const u64 start = (static_cast<u64>(item) * pixels + first) * channels;
    Values<8> factors, biases;
    float mean[8];
    read_values(factors, weight + place.channel);
    read_values(biases, bias + place.channel);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float *moment = moments + 2 * (static_cast<u64>(item) * groups + (place.channel + i) / width);
        mean[i] = moment[0];
        factors.value[i] *= moment[1];
    }
    bf16 *to = out + start + place.channel;
    place.each(x + start, channels, min(chunk, pixels - first), [&](Values<8> values, unsigned pixel) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float value = (values.value[i] - mean[i]) * factors.value[i] + biases.value[i];
            values.value[i] = SILU ? silu(value) : value;
        }
        write_values(to + static_cast<u64>(pixel) * channels, values);
    });
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

// Value by value.
extern "C" __global__ void __launch_bounds__(THREADS)
    apply(const bf16 *x, const float *weight, const float *bias, const float *moments, bf16 *out, unsigned pixels,
          unsigned channels, unsigned groups, unsigned chunk, unsigned chunks) {
    const unsigned group = blockIdx.x / chunks % groups, item = blockIdx.x / chunks / groups;
    const unsigned first = blockIdx.x % chunks * chunk;
    const unsigned width = channels / groups, count = min(chunk, pixels - first) * width;
    const u64 start = (static_cast<u64>(item) * pixels + first) * channels + group * width;
    const float *moment = moments + 2 * (static_cast<u64>(item) * groups + group);
    const float mean = moment[0], factor = moment[1];
    for (unsigned i = threadIdx.x; i < count; i += THREADS) {
        const unsigned channel = group * width + i % width;
        const u64 at = start + static_cast<u64>(i / width) * channels + i % width;
        const float value = (widen(x[at]) - mean) * (factor * weight[channel]) + bias[channel];
        out[at] = narrow(SILU ? silu(value) : value);
    }
}

#endif

// So many values, their mean and the sum of squares around it.
struct Moments {
    float count = 0.0f, mean = 0.0f, squares = 0.0f;

    __device__ __forceinline__ void add(float n, float other, float other_squares) {
        const float all = count + n;
        if (all == 0.0f) return;
        const float away = other - mean;
        mean += away * (n / all);
        squares += other_squares + away * away * (count * (n / all));
        count = all;
    }
};

// Mean and 1/√(variance + eps) of every group, a block each: `[items, groups, 2]`.
extern "C" __global__ void __launch_bounds__(THREADS)
    merge(const float *partial, float *moments, unsigned width, unsigned pixels, unsigned chunk,
          unsigned chunks, float eps) {
    __shared__ Moments of_warp[THREADS / 32];
    const unsigned group = blockIdx.x;
    const float *from = partial + static_cast<u64>(group) * chunks * 2;
    Moments all;
#pragma unroll 4
    for (unsigned i = threadIdx.x; i < chunks; i += THREADS) {
        all.add(static_cast<float>(min(chunk, pixels - i * chunk) * width), from[2 * i], from[2 * i + 1]);
    }
    for (int step = 16; step > 0; step /= 2) {
        const float n = __shfl_down_sync(0xffffffffu, all.count, step);
        const float mean = __shfl_down_sync(0xffffffffu, all.mean, step);
        all.add(n, mean, __shfl_down_sync(0xffffffffu, all.squares, step));
    }
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = all;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned i = 1; i < THREADS / 32; i++) all.add(of_warp[i].count, of_warp[i].mean, of_warp[i].squares);
        moments[2 * group] = all.mean;
        moments[2 * group + 1] = rsqrtf(all.squares / all.count + eps);
    }
}
