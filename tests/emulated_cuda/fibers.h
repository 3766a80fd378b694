// Threads that hand over to each other by hand: a switch saves what the calling convention lets a
// function rely on, and costs a few nanoseconds, where the C library's swapcontext makes two system
// calls.
#pragma once

#include <sys/mman.h>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#ifndef __x86_64__
#error "the emulated CUDA switches its fibers in x86-64 assembly; other processors have no such switch yet"
#endif

extern "C" {
/// Goes on where `to` was saved, and saves the caller's place in `*from`.
void emulated_cuda_switch(void **from, void *to);
/// The second half of a switch, entered with the stack pointer at a saved place.
void emulated_cuda_resume();
}

namespace emulated_cuda {

constexpr std::size_t page_bytes = 4096;

/// Stacks for the threads of one block.
class Stacks {
    // Not a power of two, so that the threads' live ends fall into different sets of the caches.
    static constexpr std::size_t stride = (68 << 10) + 5 * 64;
    std::uint8_t *memory;

  public:
    explicit Stacks(std::size_t count) {
        void *mapped = mmap(nullptr, count * stride, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) std::abort();
        memory = static_cast<std::uint8_t *>(mapped);
        for (std::size_t i = 0; i < count; i++) {
            auto low = (reinterpret_cast<std::uintptr_t>(memory + i * stride) + page_bytes - 1) & -page_bytes;
            mprotect(reinterpret_cast<void *>(low), page_bytes, PROT_NONE);
        }
    }

    /// A saved place on stack `i` from which a switch enters `entry`.
    void *start(std::size_t i, void (*entry)()) {
        auto top = reinterpret_cast<std::uintptr_t>(memory + (i + 1) * stride) & ~std::uintptr_t(63);
        auto place = reinterpret_cast<std::uintptr_t *>(top - 16);
        *place = reinterpret_cast<std::uintptr_t>(entry);
        return place - 6;
    }
};

} // namespace emulated_cuda
