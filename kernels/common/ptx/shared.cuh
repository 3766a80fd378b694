// Addresses in shared memory.
#pragma once

// The 32-bit address that instructions on shared memory take.
__device__ __forceinline__ unsigned shared_address(const void *in_shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(in_shared));
}
