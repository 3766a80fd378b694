#include "memory.h"
#include "blocks.h"
#include "fibers.h"
#include <cstdint>
#include <cstring>
#include <map>

namespace emulated_cuda {
namespace {

struct Allocation {
    std::size_t bytes;
    bool live;
};

constexpr std::size_t reserved = std::size_t(8) << 40;

std::map<std::uintptr_t, Allocation> allocations;
std::size_t used = 0;

std::size_t pages(std::size_t bytes) { return (bytes + page_bytes - 1) & -page_bytes; }

/// Fresh addresses after a protected page; 0 if the address space is exhausted.
std::uintptr_t take_addresses(std::size_t bytes) {
    static const std::uintptr_t start = [] {
        void *mapped = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return mapped == MAP_FAILED ? 0 : reinterpret_cast<std::uintptr_t>(mapped);
    }();
    static std::size_t taken = 0;
    if (!start || bytes > reserved - taken - 2 * page_bytes) return 0;
    std::uintptr_t at = start + taken + page_bytes;
    taken += page_bytes + bytes;
    return at;
}

} // namespace

std::size_t memory_total() {
    static const std::size_t total = [] {
        const char *text = std::getenv("EMULATED_CUDA_MEMORY_MB");
        return (text ? std::strtoull(text, nullptr, 10) : 64 << 10) << 20;
    }();
    return total;
}

std::size_t memory_free() { return memory_total() - used; }

void *allocate(std::size_t bytes) {
    std::size_t size = (bytes + 15) & ~std::size_t(15), span = pages(size);
    if (bytes > memory_free() || span > memory_free()) return nullptr;
    std::uintptr_t at = take_addresses(span);
    if (!at || mprotect(reinterpret_cast<void *>(at), span, PROT_READ | PROT_WRITE)) return nullptr;
    std::memset(reinterpret_cast<void *>(at), 0xff, span);
    used += span;
    std::uintptr_t start = at + span - size;
    allocations[start] = {bytes, true};
    return reinterpret_cast<void *>(start);
}

bool release(void *start) {
    auto found = allocations.find(reinterpret_cast<std::uintptr_t>(start));
    if (found == allocations.end() || !found->second.live) return false;
    std::size_t size = (found->second.bytes + 15) & ~std::size_t(15), span = pages(size);
    auto at = reinterpret_cast<void *>(found->first + size - span);
    mmap(at, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    used -= span;
    found->second.live = false;
    return true;
}

bool holds(const void *start, std::size_t bytes) {
    auto at = reinterpret_cast<std::uintptr_t>(start);
    auto found = allocations.upper_bound(at);
    if (found == allocations.begin()) return false;
    --found;
    return found->second.live && at - found->first <= found->second.bytes &&
           bytes <= found->second.bytes - (at - found->first);
}

std::string describe_address(const void *address) {
    auto at = reinterpret_cast<std::uintptr_t>(address);
    auto found = allocations.upper_bound(at);
    char text[160];
    if (found == allocations.begin() || at - std::prev(found)->first > std::size_t(1) << 40) {
        std::snprintf(text, sizeof text, "%p, which is not device memory", address);
        return text;
    }
    const auto &[start, allocation] = *--found;
    if (!allocation.live && at - start < allocation.bytes)
        std::snprintf(text, sizeof text, "an allocation of %zu bytes that was freed", allocation.bytes);
    else
        std::snprintf(text, sizeof text, "byte %zu of an allocation of %zu bytes", at - start, allocation.bytes);
    return text;
}

} // namespace emulated_cuda
