// Sums and maxima over lanes and over a CTA.
#pragma once

// The sum over groups of Lanes neighbouring lanes, in every lane.
template <int Lanes> __device__ __forceinline__ float lane_sum(float x) {
#pragma unroll
    for (int step = Lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// The sum over a CTA of Threads, in every thread. `scratch` has one float per warp; it may be
// reused after the next barrier.
template <int Threads> __device__ __forceinline__ float block_sum(float x, float *scratch) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    x = lane_sum<32>(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < Threads / 32; i++) total += scratch[i];
    return total;
}

// The maximum over groups of Lanes neighbouring lanes, in every lane; NaN is ignored.
template <int Lanes> __device__ __forceinline__ float lane_max(float x) {
#pragma unroll
    for (int step = Lanes / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// The maximum over a CTA of Threads, as `block_sum`.
template <int Threads> __device__ __forceinline__ float block_max(float x, float *scratch) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    x = lane_max<32>(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    float largest = scratch[0];
#pragma unroll
    for (int i = 1; i < Threads / 32; i++) largest = fmaxf(largest, scratch[i]);
    return largest;
}
