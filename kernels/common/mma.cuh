// Every instruction that belongs to an architecture, one function each.
//
// Nothing else in this folder holds assembly. The tests run kernels on a machine without a GPU by putting functions of
// the same names in front that mean the same on a processor, and ZIMAGE_EMULATED says so. The names are those of PTX
// (NVIDIA's "Parallel Thread Execution ISA"), which also says how the fragments of a matrix lie in a warp.
#ifndef ZIMAGE_EMULATED

// The bits of a BF16: to nearest, ties to even; what is not a number stays so.
__device__ __forceinline__ unsigned short bf16_from_float(float x) {
    unsigned short out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out) : "f"(x));
    return out;
}

__device__ __forceinline__ float float_from_bf16(unsigned short bits) {
    return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

// Two of them in a word, `low` in its lower half, which comes first in memory.
__device__ __forceinline__ unsigned bf16x2_from_floats(float low, float high) {
    unsigned out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

// The value of an IEEE half.
__device__ __forceinline__ float float_from_f16(unsigned short bits) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(bits));
    return out;
}

// 2^x, good to two ulps.
__device__ __forceinline__ float exp2_approx(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// From Hopper on a grid may be put on the multiprocessors that the one before it has left, and prepare itself while that one
// ends ("griddepcontrol"). What follows this in every block comes after the end of all that was called before.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next grid prepare itself as soon as all blocks of this one are running.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ __forceinline__ unsigned shared_address(const void *in_shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(in_shared));
}

// Four 8×8 matrices of 16-bit elements: lane i gives the address of row i%8 of matrix i/8, and gets of each the elements
// (i/4, 2·(i%4)) and the next one.
__device__ __forceinline__ void ldmatrix_x4(unsigned (&to)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&to)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d += a·b for a 16×16, b 16×8, d 16×8. A lane holds of d (i/4, 2·(i%4)), the next column, and both eight rows below.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Starts to copy 16 bytes into shared memory, of which `bytes` are read and the others are zeros.
__device__ __forceinline__ void cp_async_16(void *to, const void *from, int bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most N of this thread's latest groups are under way.
template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#endif
