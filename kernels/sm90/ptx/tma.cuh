// PTX cp.async.bulk.tensor, the Tensor Memory Accelerator (TMA): copies of boxes of a tensor
// between global and shared memory, one instruction of one thread each.
#pragma once

#include "sm90/ptx/barrier.cuh"

// A CUtensorMap, as the driver encodes it.
struct __align__(64) TensorMap {
    u64 opaque[16];
};

// Loads the box of `map` at these coordinates into shared memory, with zeros outside of the tensor,
// and completes its bytes at `barrier`.
__device__ __forceinline__ void tma_load(void *to, const TensorMap &map, Barrier &barrier, unsigned x, unsigned y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            shared_address(to)),
        "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y)
        : "memory");
}

__device__ __forceinline__ void tma_load(void *to, const TensorMap &map, Barrier &barrier, unsigned x, unsigned y,
                                         unsigned z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
        "[%2];" ::"r"(shared_address(to)),
        "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y), "r"(z)
        : "memory");
}

__device__ __forceinline__ void tma_load(void *to, const TensorMap &map, Barrier &barrier, unsigned x, int y, int z,
                                         unsigned w) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
        "[%2];" ::"r"(shared_address(to)),
        "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
        : "memory");
}

// tma_load to the same address in both CTAs of a cluster of two, and to the barrier of each.
__device__ __forceinline__ void tma_load_multicast(void *to, const TensorMap &map, Barrier &barrier, unsigned x,
                                                   unsigned y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
                 "[%1, {%3, "
                 "%4}], [%2], %5;" ::"r"(shared_address(to)),
                 "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y), "h"(static_cast<unsigned short>(3))
                 : "memory");
}

__device__ __forceinline__ void tma_load_multicast(void *to, const TensorMap &map, Barrier &barrier, unsigned x,
                                                   unsigned y, unsigned z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
                 "[%1, {%3, "
                 "%4, %5}], [%2], %6;" ::"r"(shared_address(to)),
                 "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y), "r"(z), "h"(static_cast<unsigned short>(3))
                 : "memory");
}

// Stores a box from shared memory, laid out as tma_load writes one; parts outside of the tensor are
// dropped. It has completed when the thread that issued it has waited.
__device__ __forceinline__ void tma_store(const TensorMap &map, const void *from, unsigned x, unsigned y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
                 "r"(shared_address(from)), "r"(x), "r"(y)
                 : "memory");
}

__device__ __forceinline__ void tma_store(const TensorMap &map, const void *from, unsigned x, unsigned y, unsigned z) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
                 "r"(shared_address(from)), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

__device__ __forceinline__ void tma_store(const TensorMap &map, const void *from, unsigned x, unsigned y, unsigned z,
                                          unsigned w) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&map),
                 "r"(shared_address(from)), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}

// Ends a group of stores.
__device__ __forceinline__ void tma_store_commit() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until at most Pending groups still read from shared memory.
template <int Pending> __device__ __forceinline__ void tma_store_wait() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}
