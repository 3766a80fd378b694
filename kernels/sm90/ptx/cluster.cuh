// PTX for thread block clusters: ranks, barriers, and stores to the shared memory of another CTA.
#pragma once

#include "sm90/ptx/barrier.cuh"

// The rank of this CTA in its cluster.
__device__ __forceinline__ unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// A barrier of all threads of a cluster of Ctas.
template <unsigned Ctas> __device__ __forceinline__ void cluster_sync() {
    if (Ctas == 1) {
        __syncthreads();
    } else {
        asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
    }
}

// Stores a value to the address of `to` in CTA `rank`, and completes four bytes at `barrier` there.
__device__ __forceinline__ void st_async(float *to, float value, Barrier &barrier, unsigned rank) {
    asm volatile(
        "{\n.reg .b32 there, told;\nmapa.shared::cluster.u32 there, %0, %3;\nmapa.shared::cluster.u32 told, %2, %3;\n"
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [there], %1, [told];\n}" ::"r"(shared_address(to)),
        "r"(__float_as_uint(value)), "r"(shared_address(&barrier)), "r"(rank)
        : "memory");
}
