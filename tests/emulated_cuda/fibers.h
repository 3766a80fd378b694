// Cooperative fibers. A switch saves the callee-saved registers of the calling convention and takes
// a few nanoseconds; the C library's swapcontext makes two system calls.
#pragma once

#include <sys/mman.h>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#ifndef __x86_64__
#error "the emulated CUDA switches its fibers in x86-64 assembly; other processors have no such switch yet"
#endif

extern "C" {
/// Resumes at `to`, and saves the caller's context in `*from`.
void emulated_cuda_switch(void **from, void *to);
/// The second half of a switch, entered with the stack pointer at a saved context.
void emulated_cuda_resume();
}

namespace emulated_cuda {

constexpr std::size_t page_bytes = 4096;

/// Stacks for the threads of one CTA.
class Stacks {
    // The stride is not a power of two, so that the live ends of the stacks use different cache
    // sets.
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

    /// A saved context on stack `i`, from which a switch enters `entry`.
    void *start(std::size_t i, void (*entry)()) {
        auto top = reinterpret_cast<std::uintptr_t>(memory + (i + 1) * stride) & ~std::uintptr_t(63);
        auto place = reinterpret_cast<std::uintptr_t *>(top - 16);
        *place = reinterpret_cast<std::uintptr_t>(entry);
        return place - 6;
    }
};

} // namespace emulated_cuda
