// PTX wgmma and setmaxnreg, instructions of a warpgroup: four warps, the first of which has an
// index that is a multiple of four.
#pragma once

#include "common/ptx/shared.cuh"
#include "common/types.cuh"

// A value that is the same in all lanes, marked as such for the compiler.
__device__ __forceinline__ unsigned warp_uniform(unsigned x) {
    return __shfl_sync(0xffffffffu, x, 0);
}

// setmaxnreg: gives registers of this warpgroup back to the CTA's pool, or takes some.
template <unsigned Count> __device__ __forceinline__ void warpgroup_reg_dealloc() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}

template <unsigned Count> __device__ __forceinline__ void warpgroup_reg_alloc() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

// The shared memory descriptor of a matrix in the 128-byte swizzle: rows of 128 bytes in groups of
// eight, at an address that is a multiple of 1024. `leading` is the distance in bytes to the next
// 64 columns of an MN-major matrix; K-major matrices ignore it.
__device__ __forceinline__ u64 smem_desc(const void *in_shared, unsigned leading = 16) {
    const u64 address = (shared_address(in_shared) & 0x3ffffu) >> 4;
    return address | static_cast<u64>(leading >> 4) << 16 | static_cast<u64>(1024 >> 4) << 32 | 1ull << 62;
}

// The descriptor of a matrix that starts `bytes` later.
__device__ __forceinline__ u64 advance(u64 desc, unsigned bytes) {
    return desc + (bytes >> 4);
}

// Orders accesses to the registers of a wgmma before it.
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Ends a group of wgmma.
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most Pending groups are in flight.
template <int Pending> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Keeps the compiler from moving accesses to `acc` across the wgmma that write it.
template <int Count> __device__ __forceinline__ void warpgroup_fence_operand(float (&acc)[Count]) {
#pragma unroll
    for (int i = 0; i < Count; i++) asm volatile("" : "+f"(acc[i])::"memory");
}

// The accumulators as asm operands, and their numbers in the text.
#define OPERANDS_8(d, i)                                                                                               \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),        \
        "+f"(d[i + 7])
#define OPERANDS_32(d, i) OPERANDS_8(d, i), OPERANDS_8(d, i + 8), OPERANDS_8(d, i + 16), OPERANDS_8(d, i + 24)
#define NUMBERS_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NUMBERS_64 \
    NUMBERS_32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NUMBERS_96 \
    NUMBERS_64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define NUMBERS_128 \
    NUMBERS_96 ", " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// d = a·b, or d += a·b if `accumulate`. a is 64×16 and b 16×N, both K-major in shared memory; d has
// N/2 elements per thread. Warp i of the warpgroup holds rows 16·i to 16·i + 15 of d; d[4·j] to
// d[4·j + 3] are columns 8·j to 8·j + 7 in the layout of mma.sync.
__device__ __forceinline__ void wgmma_ss(float (&d)[32], u64 a, u64 b, bool accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" NUMBERS_32 "}, %32, %33, p, 1, 1, 0, 0;\n}"
                 : OPERANDS_32(d, 0)
                 : "l"(a), "l"(b), "r"(static_cast<unsigned>(accumulate)));
}

__device__ __forceinline__ void wgmma_ss(float (&d)[64], u64 a, u64 b, bool accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" NUMBERS_64 "}, %64, %65, p, 1, 1, 0, 0;\n}"
                 : OPERANDS_32(d, 0), OPERANDS_32(d, 32)
                 : "l"(a), "l"(b), "r"(static_cast<unsigned>(accumulate)));
}

__device__ __forceinline__ void wgmma_ss(float (&d)[96], u64 a, u64 b, bool accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %98, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" NUMBERS_96 "}, %96, %97, p, 1, 1, 0, 0;\n}"
                 : OPERANDS_32(d, 0), OPERANDS_32(d, 32), OPERANDS_32(d, 64)
                 : "l"(a), "l"(b), "r"(static_cast<unsigned>(accumulate)));
}

__device__ __forceinline__ void wgmma_ss(float (&d)[128], u64 a, u64 b, bool accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" NUMBERS_128
                 "}, %128, %129, p, 1, 1, 0, 0;\n}"
                 : OPERANDS_32(d, 0), OPERANDS_32(d, 32), OPERANDS_32(d, 64), OPERANDS_32(d, 96)
                 : "l"(a), "l"(b), "r"(static_cast<unsigned>(accumulate)));
}

// wgmma_ss with b MN-major.
__device__ __forceinline__ void wgmma_ss_mn(float (&d)[128], u64 a, u64 b, bool accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" NUMBERS_128
                 "}, %128, %129, p, 1, 1, 0, 1;\n}"
                 : OPERANDS_32(d, 0), OPERANDS_32(d, 32), OPERANDS_32(d, 64), OPERANDS_32(d, 96)
                 : "l"(a), "l"(b), "r"(static_cast<unsigned>(accumulate)));
}

// wgmma_ss with elements of E4M3: a is 64×32 and b 32×N, which also have rows of 32 bytes.
__device__ __forceinline__ void wgmma_ss_e4m3(float (&d)[32], u64 a, u64 b, bool accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {" NUMBERS_32 "}, %32, %33, p, 1, 1;\n}"
                 : OPERANDS_32(d, 0)
                 : "l"(a), "l"(b), "r"(static_cast<unsigned>(accumulate)));
}

__device__ __forceinline__ void wgmma_ss_e4m3(float (&d)[64], u64 a, u64 b, bool accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" NUMBERS_64 "}, %64, %65, p, 1, 1;\n}"
                 : OPERANDS_32(d, 0), OPERANDS_32(d, 32)
                 : "l"(a), "l"(b), "r"(static_cast<unsigned>(accumulate)));
}

__device__ __forceinline__ void wgmma_ss_e4m3(float (&d)[96], u64 a, u64 b, bool accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %98, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n192k32.f32.e4m3.e4m3 {" NUMBERS_96 "}, %96, %97, p, 1, 1;\n}"
                 : OPERANDS_32(d, 0), OPERANDS_32(d, 32), OPERANDS_32(d, 64)
                 : "l"(a), "l"(b), "r"(static_cast<unsigned>(accumulate)));
}

__device__ __forceinline__ void wgmma_ss_e4m3(float (&d)[128], u64 a, u64 b, bool accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k32.f32.e4m3.e4m3 {" NUMBERS_128 "}, %128, %129, p, 1, 1;\n}"
                 : OPERANDS_32(d, 0), OPERANDS_32(d, 32), OPERANDS_32(d, 64), OPERANDS_32(d, 96)
                 : "l"(a), "l"(b), "r"(static_cast<unsigned>(accumulate)));
}

// wgmma_ss with a in registers, in the layout of mma.sync, and b MN-major.
__device__ __forceinline__ void wgmma_rs(float (&d)[64], const unsigned (&a)[4], u64 b, bool accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" NUMBERS_64
                 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
                 : OPERANDS_32(d, 0), OPERANDS_32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<unsigned>(accumulate)));
}

// wgmma_rs with elements of E4M3: a is 64×32, four codes in the place of two BF16, and b K-major.
__device__ __forceinline__ void wgmma_rs_e4m3(float (&d)[64], const unsigned (&a)[4], u64 b, bool accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" NUMBERS_64
                 "}, {%64, %65, %66, %67}, %68, p, 1, 1;\n}"
                 : OPERANDS_32(d, 0), OPERANDS_32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<unsigned>(accumulate)));
}

#undef NUMBERS_128
#undef NUMBERS_96
#undef NUMBERS_64
#undef NUMBERS_32
#undef OPERANDS_32
#undef OPERANDS_8
