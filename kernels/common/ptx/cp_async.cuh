// PTX cp.async: copies from global to shared memory that bypass the registers.
#pragma once

#include "common/ptx/shared.cuh"

// Starts a copy of 16 bytes: `bytes` of them are read, the rest are zeros.
__device__ __forceinline__ void cp_async_16(void *to, const void *from, int bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most Pending of this thread's latest groups are in flight.
template <int Pending> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}
