// PTX mbarrier, fences of the async proxy, and named barriers.
#pragma once

#include "common/ptx/shared.cuh"
#include "common/types.cuh"

// An mbarrier in shared memory. A phase completes when `count` threads have arrived and all
// expected bytes have landed.
struct Barrier {
    u64 state;

    __device__ __forceinline__ void init(unsigned count) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(count) : "memory");
    }

    __device__ __forceinline__ void arrive() {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
    }

    // Arrives at the same barrier of CTA `rank` in a cluster of Ctas.
    template <unsigned Ctas> __device__ __forceinline__ void arrive_remote(unsigned rank) {
        if (Ctas == 1) return arrive();
        asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                     "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(shared_address(this)),
                     "r"(rank)
                     : "memory");
    }

    // Arrives, and adds `bytes` to those that the phase waits for.
    __device__ __forceinline__ void arrive_expect_tx(unsigned bytes) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                     : "memory");
    }

    // Waits until the phase of this parity has completed.
    __device__ __forceinline__ void wait(unsigned parity) {
        asm volatile("{\n.reg .pred passed;\nagain:\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 passed, [%0], %1;\n"
                     "@passed bra done;\nbra again;\ndone:\n}" ::"r"(shared_address(this)),
                     "r"(parity)
                     : "memory");
    }
};

// Makes initialised barriers visible to the cluster and to TMA.
__device__ __forceinline__ void fence_barrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}

// Makes this thread's writes to shared memory visible to TMA.
__device__ __forceinline__ void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Ids of named barriers; 0 is that of __syncthreads.
enum NamedBarrier : unsigned {
    // Consumer warpgroup i has CONSUMER_BARRIER + i.
    CONSUMER_BARRIER = 1,
    // All consumer warpgroups.
    CONSUMERS_BARRIER = 7,
};

// bar.sync for `threads` threads, a multiple of 32.
__device__ __forceinline__ void named_barrier_sync(unsigned id, unsigned threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// bar.red.or: the same, and true in all threads if `predicate` is true in one.
__device__ __forceinline__ bool named_barrier_or(unsigned id, unsigned threads, bool predicate) {
    unsigned any;
    asm volatile("{\n.reg .pred own, any;\nsetp.ne.u32 own, %3, 0;\nbar.red.or.pred any, %1, %2, own;\n"
                 "selp.u32 %0, 1, 0, any;\n}"
                 : "=r"(any)
                 : "r"(id), "r"(threads), "r"(static_cast<unsigned>(predicate))
                 : "memory");
    return any != 0;
}
