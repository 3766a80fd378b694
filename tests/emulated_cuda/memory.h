// Device memory: every allocation ends at a page that nobody may touch, and no address is given
// twice, so that a kernel that reads past a tensor or after its release is caught by the processor.
#pragma once

#include <cstddef>

namespace emulated_cuda {

/// Poisoned memory (all bits set) of `bytes`, aligned to 16, or null where the device has no more.
void *allocate(std::size_t bytes);
/// Gives an allocation back; false where `start` is not the start of one.
bool release(void *start);
/// True if `bytes` from `start` lie in one live allocation.
bool holds(const void *start, std::size_t bytes);
std::size_t memory_total();
std::size_t memory_free();

} // namespace emulated_cuda
