// Declares for clangd what NVRTC knows without a header, so that it opens a kernel without a CUDA
// toolkit (compile_flags.txt). No program includes it.
#pragma once

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __grid_constant__ __attribute__((grid_constant))
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __cluster_dims__(...)

struct float2 {
    float x, y;
};
struct __align__(16) float4 {
    float x, y, z, w;
};
struct uint2 {
    unsigned x, y;
};
struct uint3 {
    unsigned x, y, z;
};
struct __align__(16) uint4 {
    unsigned x, y, z, w;
};

extern const __device__ uint3 threadIdx, blockIdx, blockDim, gridDim;

__device__ float2 make_float2(float, float);
__device__ float4 make_float4(float, float, float, float);
__device__ uint2 make_uint2(unsigned, unsigned);
__device__ uint4 make_uint4(unsigned, unsigned, unsigned, unsigned);

__device__ void __syncthreads();
__device__ void __syncwarp();
__device__ int __any_sync(unsigned, int);
template <class T> __device__ T __shfl_sync(unsigned, T, int);
template <class T> __device__ T __shfl_xor_sync(unsigned, T, int);
template <class T> __device__ T __shfl_down_sync(unsigned, T, unsigned);
__device__ unsigned long long __cvta_generic_to_shared(const void *);

template <class T> __device__ T min(T, T);
template <class T> __device__ T max(T, T);
__device__ float __uint_as_float(unsigned);
__device__ unsigned __float_as_uint(float);
__device__ unsigned __byte_perm(unsigned, unsigned, unsigned);
__device__ unsigned __funnelshift_r(unsigned, unsigned, unsigned);
__device__ float __fmul_rn(float, float);
__device__ float __fdividef(float, float);
__device__ float __expf(float);
__device__ float cosf(float);
__device__ float fabsf(float);
__device__ float fmaxf(float, float);
__device__ float fmaf(float, float, float);
__device__ float fminf(float, float);
__device__ float rintf(float);
__device__ float rsqrtf(float);
__device__ float sinf(float);
__device__ float sqrtf(float);
__device__ float tanhf(float);
