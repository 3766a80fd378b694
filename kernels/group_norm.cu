// group_norm: (x − mean)/√(variance + eps)·weight + bias over the channels of a group and all
// pixels, then optionally SiLU. x `[items, pixels, channels]`.
//
// Grid: three kernels.
//   measure  a CTA per chunk of pixels (ALIGNED: all groups, else one) sums relative to a value of
//            the group, so that a mean far from 0 costs no digits.
//   merge    a CTA per group combines the chunks' means and squares (Chan, Golub, LeVeque 1979).
//   apply    a CTA per chunk reads x again, the last chunks first, because the L2 may still have
//            them.
// group_moments: measure, and merge_variance in place of merge. normalize_groups: invert_variance,
// then apply.
// Constants: ALIGNED (channels are a multiple of 8, at most 2048; a thread per vector of 8), SILU.

#include "common/math.cuh"
#include "common/reduce.cuh"
#include "common/vec.cuh"

#ifndef ALIGNED
#define ALIGNED 1
#define SILU 1
#endif

constexpr unsigned THREADS = 256;

// `partial` has the mean of every group in a chunk, and the sum of squares around it:
// `[items, groups, chunks, 2]`.
#if ALIGNED

// A thread's part of a chunk: eight channels of every `lines`-th pixel. Threads from line `lines`
// on have no part.
struct Part {
    unsigned lines, line, channel;

    __device__ __forceinline__ explicit Part(unsigned channels)
        : lines(THREADS / (channels / 8)), line(threadIdx.x / (channels / 8)),
          channel(threadIdx.x % (channels / 8) * 8) {}

    // Calls visit(values, pixel) for this thread's pixels of the `count` from `start` on. Four
    // loads are in flight at a time.
    template <class Visit>
    __device__ __forceinline__ void each(const bf16 *start, unsigned channels, unsigned count, Visit visit) const {
        constexpr unsigned AT_ONCE = 4;
        if (line >= lines) return;
        for (unsigned pixel = line; pixel < count; pixel += AT_ONCE * lines) {
            PackedVec<8> packed[AT_ONCE];
#pragma unroll
            for (unsigned i = 0; i < AT_ONCE; i++) {
                const unsigned at = min(pixel + i * lines, count - 1);
                load_packed(packed[i], start + static_cast<u64>(at) * channels + channel);
            }
#pragma unroll
            for (unsigned i = 0; i < AT_ONCE; i++) {
                if (pixel + i * lines < count) visit(unpack(packed[i]), pixel + i * lines);
            }
        }
    }
};

// A CTA measures all groups of a chunk.
extern "C" __global__ void __launch_bounds__(THREADS)
    measure(const bf16 *x, float *partial, unsigned pixels, unsigned channels, unsigned groups, unsigned chunk,
            unsigned chunks) {
    __shared__ float sums[THREADS * 8], squares[THREADS * 8];
    const unsigned item = blockIdx.x / chunks, first = blockIdx.x % chunks * chunk;
    const unsigned count = min(chunk, pixels - first), width = channels / groups;
    const Part part(channels);
    const bf16 *start = x + (static_cast<u64>(item) * pixels + first) * channels;
    float center[8], sum[8] = {}, square[8] = {};
#pragma unroll
    for (int i = 0; i < 8; i++) center[i] = to_float(start[(part.channel + i) / width * width]);
    part.each(start, channels, count, [&](const Vec<8> &values, unsigned) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float away = values.value[i] - center[i];
            sum[i] += away;
            square[i] += away * away;
        }
    });
    if (part.line < part.lines) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            sums[part.line * channels + part.channel + i] = sum[i];
            squares[part.line * channels + part.channel + i] = square[i];
        }
    }
    __syncthreads();
    // Sums over the lines of a channel, then over the channels of a group.
    for (unsigned channel = threadIdx.x; channel < channels; channel += THREADS) {
        for (unsigned line = 1; line < part.lines; line++) {
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
        to[0] = to_float(start[group * width]) + mean;
        to[1] = all_squares - all * mean;
    }
}

// A CTA applies the norm to a chunk of `measure`.
extern "C" __global__ void __launch_bounds__(THREADS)
    apply(const bf16 *x, const float *weight, const float *bias, const float *moments, bf16 *out, unsigned pixels,
          unsigned channels, unsigned groups, unsigned chunk, unsigned chunks) {
    const unsigned block = gridDim.x - 1 - blockIdx.x, item = block / chunks, first = block % chunks * chunk;
    const unsigned width = channels / groups;
    const Part part(channels);
    const u64 start = (static_cast<u64>(item) * pixels + first) * channels;
    Vec<8> factors, biases;
    float mean[8];
    load_vec(factors, weight + part.channel);
    load_vec(biases, bias + part.channel);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float *moment = moments + 2 * (static_cast<u64>(item) * groups + (part.channel + i) / width);
        mean[i] = moment[0];
        factors.value[i] *= moment[1];
    }
    bf16 *to = out + start + part.channel;
    part.each(x + start, channels, min(chunk, pixels - first), [&](Vec<8> values, unsigned pixel) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float value = (values.value[i] - mean[i]) * factors.value[i] + biases.value[i];
            values.value[i] = SILU ? silu(value) : value;
        }
        store_vec(to + static_cast<u64>(pixel) * channels, values);
    });
}

#else

// A CTA measures one group of a chunk, value by value.
extern "C" __global__ void __launch_bounds__(THREADS)
    measure(const bf16 *x, float *partial, unsigned pixels, unsigned channels, unsigned groups, unsigned chunk,
            unsigned chunks) {
    __shared__ float scratch[2][THREADS / 32];
    const unsigned group = blockIdx.x / chunks % groups, item = blockIdx.x / chunks / groups;
    const unsigned first = blockIdx.x % chunks * chunk;
    const unsigned width = channels / groups, count = min(chunk, pixels - first) * width;
    const bf16 *start = x + (static_cast<u64>(item) * pixels + first) * channels + group * width;
    const float center = to_float(start[0]);
    float sum = 0.0f, square = 0.0f;
    for (unsigned i = threadIdx.x; i < count; i += THREADS) {
        const float away = to_float(start[static_cast<u64>(i / width) * channels + i % width]) - center;
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

// A CTA applies the norm to one group of a chunk, value by value.
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
        const float value = (to_float(x[at]) - mean) * (factor * weight[channel]) + bias[channel];
        out[at] = to_bf16(SILU ? silu(value) : value);
    }
}

#endif

// The count of some values, their mean, and the sum of squares around it.
struct Moments {
    float count, mean, squares;

    __device__ __forceinline__ void add(float n, float other, float other_squares) {
        const float all = count + n;
        if (all == 0.0f) return;
        const float away = other - mean;
        mean += away * (n / all);
        squares += other_squares + away * away * (count * (n / all));
        count = all;
    }
};

// The mean and squares of group blockIdx.x over all chunks, in thread 0.
__device__ __forceinline__ Moments merged(const float *partial, unsigned width, unsigned pixels, unsigned chunk,
                                          unsigned chunks) {
    __shared__ Moments of_warp[THREADS / 32];
    const float *from = partial + static_cast<u64>(blockIdx.x) * chunks * 2;
    Moments all{};
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
    }
    return all;
}

// `moments` has the mean and 1/√(variance + eps) of every group: `[items, groups, 2]`.
extern "C" __global__ void __launch_bounds__(THREADS)
    merge(const float *partial, float *moments, unsigned width, unsigned pixels, unsigned chunk,
          unsigned chunks, float eps) {
    const Moments all = merged(partial, width, pixels, chunk, chunks);
    if (threadIdx.x == 0) {
        moments[2 * blockIdx.x] = all.mean;
        moments[2 * blockIdx.x + 1] = rsqrtf(all.squares / all.count + eps);
    }
}

// As merge, with the variance.
extern "C" __global__ void __launch_bounds__(THREADS)
    merge_variance(const float *partial, float *moments, unsigned width, unsigned pixels, unsigned chunk,
                   unsigned chunks) {
    const Moments all = merged(partial, width, pixels, chunk, chunks);
    if (threadIdx.x == 0) {
        moments[2 * blockIdx.x] = all.mean;
        moments[2 * blockIdx.x + 1] = all.squares / all.count;
    }
}

// The moments of merge from those of merge_variance. Grid: a thread per group.
extern "C" __global__ void __launch_bounds__(THREADS)
    invert_variance(const float *variances, float *moments, unsigned groups, float eps) {
    const unsigned group = blockIdx.x * THREADS + threadIdx.x;
    if (group < groups) {
        moments[2 * group] = variances[2 * group];
        moments[2 * group + 1] = rsqrtf(variances[2 * group + 1] + eps);
    }
}
