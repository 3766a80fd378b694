// What only Hopper (sm_90a) has: barriers that count bytes, the copy engine for tiles, products of whole warpgroups.
//
// A warpgroup is four warps of which the first one's index is a multiple of four. PTX: NVIDIA's "Parallel Thread Execution
// ISA", chapters "mbarrier", "cp.async.bulk.tensor" and "wgmma". As with ../instructions.cuh, tests put functions of the same
// names in front.
#ifndef ZIMAGE_EMULATED

// A tensor map, as the driver encodes it.
struct __align__(64) TensorMap {
    u64 opaque[16];
};

// A barrier in shared memory, which is passed when `count` threads have arrived and all bytes that were announced too.
struct Barrier {
    u64 state;

    __device__ __forceinline__ void init(unsigned count) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(count) : "memory");
    }

    __device__ __forceinline__ void arrive() {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
    }

    // Arrives at the barrier that stands here in block `rank` of the cluster.
    template <unsigned BLOCKS> __device__ __forceinline__ void arrive_at(unsigned rank) {
        if (BLOCKS == 1) return arrive();
        asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                     "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(shared_address(this)),
                     "r"(rank)
                     : "memory");
    }

    // Arrives, and announces bytes that the copy engine will bring.
    __device__ __forceinline__ void expect(unsigned bytes) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                     : "memory");
    }

    // Waits until the phase of this parity is over.
    __device__ __forceinline__ void wait(unsigned parity) {
        asm volatile("{\n.reg .pred passed;\nagain:\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 passed, [%0], %1;\n"
                     "@passed bra done;\nbra again;\ndone:\n}" ::"r"(shared_address(this)),
                     "r"(parity)
                     : "memory");
    }
};

// Makes barriers that were just initialised visible to the copy engine.
__device__ __forceinline__ void fence_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}

// Copies the box of `map` at (x, y), (x, y, z) or (x, y, z, w) into shared memory, with zeros for what lies outside of the
// tensor, and tells `barrier` its bytes.
__device__ __forceinline__ void copy_box(void *to, const TensorMap &map, Barrier &barrier, unsigned x, unsigned y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
                     shared_address(to)),
                 "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y)
                 : "memory");
}

__device__ __forceinline__ void copy_box(void *to, const TensorMap &map, Barrier &barrier, unsigned x, unsigned y, unsigned z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
                 "[%2];" ::"r"(shared_address(to)),
                 "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

__device__ __forceinline__ void copy_box(void *to, const TensorMap &map, Barrier &barrier, unsigned x, int y, int z, unsigned w) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
                 "[%2];" ::"r"(shared_address(to)),
                 "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}

// Copies a box from shared memory, laid out as copy_box brings one, to where `map` has it, as far as the tensor goes. It is
// done when the thread that asked for it has waited.
__device__ __forceinline__ void store_box(const TensorMap &map, const void *from, unsigned x, unsigned y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map), "r"(shared_address(from)),
                 "r"(x), "r"(y)
                 : "memory");
}

__device__ __forceinline__ void store_box(const TensorMap &map, const void *from, unsigned x, unsigned y, unsigned z) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
                 "r"(shared_address(from)), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

__device__ __forceinline__ void store_box(const TensorMap &map, const void *from, unsigned x, unsigned y, unsigned z, unsigned w) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&map),
                 "r"(shared_address(from)), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}

// Ends a group of stores.
__device__ __forceinline__ void store_commit() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until the memory of all but PENDING groups may be written again.
template <int PENDING> __device__ __forceinline__ void store_wait() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

// Lets the copy engine see what this thread wrote to shared memory.
__device__ __forceinline__ void fence_shared() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The number of this block in its cluster.
__device__ __forceinline__ unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// A barrier of all threads of a cluster of so many blocks.
template <unsigned BLOCKS> __device__ __forceinline__ void cluster_sync() {
    if (BLOCKS == 1) {
        __syncthreads();
    } else {
        asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
    }
}

// As copy_box, to the same place in both blocks of a cluster of two, and to the barrier there.
__device__ __forceinline__ void copy_box_to_all(void *to, const TensorMap &map, Barrier &barrier, unsigned x, unsigned y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, "
                 "%4}], [%2], %5;" ::"r"(shared_address(to)),
                 "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y), "h"(static_cast<unsigned short>(3))
                 : "memory");
}

__device__ __forceinline__ void copy_box_to_all(void *to, const TensorMap &map, Barrier &barrier, unsigned x, unsigned y,
                                                unsigned z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, "
                 "%4, %5}], [%2], %6;" ::"r"(shared_address(to)),
                 "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y), "r"(z), "h"(static_cast<unsigned short>(3))
                 : "memory");
}

// Writes to where `place` stands in block `rank` of the cluster, and tells `barrier` there its four bytes.
__device__ __forceinline__ void send(float *place, float value, Barrier &barrier, unsigned rank) {
    asm volatile("{\n.reg .b32 there, told;\nmapa.shared::cluster.u32 there, %0, %3;\nmapa.shared::cluster.u32 told, %2, %3;\n"
                 "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [there], %1, [told];\n}" ::"r"(shared_address(place)),
                 "r"(__float_as_uint(value)), "r"(shared_address(&barrier)), "r"(rank)
                 : "memory");
}

// What all lanes of a warp have alike, said so that the compiler knows.
__device__ __forceinline__ unsigned uniform(unsigned x) {
    return __shfl_sync(0xffffffffu, x, 0);
}

// A barrier of some warps: `id` 1 to 15, `threads` a multiple of 32.
__device__ __forceinline__ void barrier_sync(unsigned id, unsigned threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Gives registers of this warpgroup away, or takes some.
template <unsigned COUNT> __device__ __forceinline__ void registers_give() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <unsigned COUNT> __device__ __forceinline__ void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// Says where a matrix lies for wgmma: rows of 128 bytes in which chunks of 16 are swapped (the copy engine's 128-byte
// swizzle), eight rows after the other, at an address that is a multiple of 1024. `across` are the bytes to the next 64
// columns where rows run along the product's columns, and mean nothing where they run along k.
__device__ __forceinline__ u64 matrix_at(const void *in_shared, unsigned across = 16) {
    const u64 address = (shared_address(in_shared) & 0x3ffffu) >> 4;
    return address | static_cast<u64>(across >> 4) << 16 | static_cast<u64>(1024 >> 4) << 32 | 1ull << 62;
}

// A matrix that starts `bytes` later.
__device__ __forceinline__ u64 later(u64 matrix, unsigned bytes) {
    return matrix + (bytes >> 4);
}

// Between writes to registers of a product and the product.
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Ends a group of products.
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most PENDING groups are under way.
template <int PENDING> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Keeps the compiler from moving accesses to `sums` across the products that write them.
template <int COUNT> __device__ __forceinline__ void hold(float (&sums)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(sums[i])::"memory");
}

#define EIGHT(d, i)                                                                                                    \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),        \
        "+f"(d[i + 7])
#define THIRTY_TWO(d, i) EIGHT(d, i), EIGHT(d, i + 8), EIGHT(d, i + 16), EIGHT(d, i + 24)

// d = a·b, or d += a·b where `add`: a 64×16, b 16×N where d has N/2 sums, both in shared memory with rows along k. Warp i of
// the warpgroup holds rows 16·i to 16·i + 15 of d, d[4·j] to d[4·j + 3] of them as mma.sync has columns 8·j to 8·j + 7.
__device__ __forceinline__ void wgmma_k16(float (&d)[32], u64 a, u64 b, bool add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "%32, %33, p, 1, 1, 0, 0;\n}"
                 : THIRTY_TWO(d, 0)
                 : "l"(a), "l"(b), "r"(static_cast<unsigned>(add)));
}

__device__ __forceinline__ void wgmma_k16(float (&d)[64], u64 a, u64 b, bool add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, p, 1, 1, 0, 0;\n}"
                 : THIRTY_TWO(d, 0), THIRTY_TWO(d, 32)
                 : "l"(a), "l"(b), "r"(static_cast<unsigned>(add)));
}

__device__ __forceinline__ void wgmma_k16(float (&d)[96], u64 a, u64 b, bool add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %98, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
                 "%96, %97, p, 1, 1, 0, 0;\n}"
                 : THIRTY_TWO(d, 0), THIRTY_TWO(d, 32), THIRTY_TWO(d, 64)
                 : "l"(a), "l"(b), "r"(static_cast<unsigned>(add)));
}

__device__ __forceinline__ void wgmma_k16(float (&d)[128], u64 a, u64 b, bool add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
                 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
                 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
                 "%128, %129, p, 1, 1, 0, 0;\n}"
                 : THIRTY_TWO(d, 0), THIRTY_TWO(d, 32), THIRTY_TWO(d, 64), THIRTY_TWO(d, 96)
                 : "l"(a), "l"(b), "r"(static_cast<unsigned>(add)));
}

// The same with a in registers, as mma.sync has it, and rows of b along its columns.
__device__ __forceinline__ void wgmma_k16_rows(float (&d)[64], const unsigned (&a)[4], u64 b, bool add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
                 : THIRTY_TWO(d, 0), THIRTY_TWO(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<unsigned>(add)));
}

#undef THIRTY_TWO
#undef EIGHT

#endif
