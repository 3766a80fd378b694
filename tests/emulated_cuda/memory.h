// Device memory: a protected page follows every allocation, and no address is reused, so that a
// kernel that reads past a tensor or after its release causes a page fault.
#pragma once

#include <cstddef>

namespace emulated_cuda {

/// Poisoned memory (all bits set) of `bytes`, aligned to 16, or null if the device is out of
/// memory.
void *allocate(std::size_t bytes);
/// Frees an allocation; returns false if `start` is not the start of one.
bool release(void *start);
/// True if `bytes` from `start` lie in one live allocation.
bool holds(const void *start, std::size_t bytes);
std::size_t memory_total();
std::size_t memory_free();

} // namespace emulated_cuda
