// The driver's interface: device and host memory, and copies between them.

#include "calls.h"
#include "memory.h"
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

using namespace emulated_cuda;

namespace {

/// Page-locked host memory. Copies from and to it are asynchronous.
struct Pinned {
    std::size_t bytes;
    /// The copies that were called and have not run yet.
    std::shared_ptr<int> under_way = std::make_shared<int>(0);
};
std::map<const char *, Pinned> pinned;

Pinned *pinned_at(const void *host) {
    auto found = pinned.upper_bound(static_cast<const char *>(host));
    bool inside = found != pinned.begin() && (--found, static_cast<const char *>(host) < found->first + found->second.bytes);
    return inside ? &found->second : nullptr;
}

void *pointer(unsigned long long device) { return reinterpret_cast<void *>(device); }

int copy(void *to, const void *from, std::size_t bytes, Stream &stream) {
    return stream.enqueue([=] {
        std::memcpy(to, from, bytes);
        return 0;
    });
}

/// Like copy, with page-locked memory at one end.
int copy_pinned(void *to, const void *from, std::size_t bytes, Stream &stream, const Pinned &host) {
    if (stream.capture) return copy(to, from, bytes, stream);
    ++*host.under_way;
    return stream.enqueue([=, under_way = host.under_way] {
        std::memcpy(to, from, bytes);
        --*under_way;
        return 0;
    });
}

/// Ends the page lock of memory that no copy under way reads or writes.
int unlock(void *host) {
    auto found = pinned.find(static_cast<char *>(host));
    if (found == pinned.end()) return invalid_value;
    // The API does not guarantee that freeing waits for them.
    if (*found->second.under_way) {
        say(invalid_value, "page-locked memory is freed while a copy of it is under way");
        std::abort();
    }
    int code = run_all();
    pinned.erase(found);
    return code;
}

int fill(unsigned long long device, const void *pattern, std::size_t width, std::size_t count, Stream &stream) {
    if (!holds(pointer(device), width * count)) return invalid_value;
    std::string bytes(static_cast<const char *>(pattern), width);
    return stream.enqueue([=] {
        for (std::size_t i = 0; i < count; i++) std::memcpy(static_cast<char *>(pointer(device)) + i * width, bytes.data(), width);
        return 0;
    });
}

/// Returns after the stream has run its queued work.
int finish(Stream &stream, int code) { return code ? code : stream.run_to(stream.queued); }

} // namespace

API cuMemGetInfo_v2(std::size_t *free, std::size_t *total) {
    return call([&] { return *free = memory_free(), *total = memory_total(), success; });
}
API cuMemAlloc_v2(unsigned long long *device, std::size_t bytes) {
    return blocking_call([&] {
        if (!bytes) return invalid_value;
        void *memory = allocate(bytes);
        return *device = reinterpret_cast<unsigned long long>(memory), memory ? success : out_of_memory;
    });
}
API cuMemFree_v2(unsigned long long device) {
    return blocking_call([&] {
        if (!device) return int(success);
        if (int code = run_all()) return code;
        return int(release(pointer(device)) ? success : invalid_value);
    });
}
API cuMemAllocAsync(unsigned long long *device, std::size_t bytes, void *stream) {
    return call([&] {
        if (stream_of(stream).capture) return say(not_supported, "allocating in a graph is not emulated");
        void *memory = bytes ? allocate(bytes) : nullptr;
        *device = reinterpret_cast<unsigned long long>(memory);
        return int(memory ? success : bytes ? out_of_memory : invalid_value);
    });
}
API cuMemFreeAsync(unsigned long long device, void *stream) {
    return call([&] {
        if (stream_of(stream).capture) return say(not_supported, "freeing in a graph is not emulated");
        if (!holds(pointer(device), 1)) return int(invalid_value);
        return stream_of(stream).enqueue([=] { return release(pointer(device)) ? success : invalid_value; });
    });
}
API cuMemHostAlloc(void **host, std::size_t bytes, unsigned) {
    return blocking_call([&] {
        *host = std::malloc(bytes);
        if (!*host) return out_of_memory;
        pinned[static_cast<char *>(*host)] = {bytes};
        return success;
    });
}
API cuMemAllocHost_v2(void **host, std::size_t bytes) { return cuMemHostAlloc(host, bytes, 0); }
API cuMemFreeHost(void *host) {
    return blocking_call([&] {
        int code = unlock(host);
        if (code != invalid_value) std::free(host);
        return code;
    });
}
API cuMemHostRegister_v2(void *host, std::size_t bytes, unsigned) {
    return blocking_call([&] {
        if (!host || !bytes || pinned_at(host)) return invalid_value;
        pinned[static_cast<char *>(host)] = {bytes};
        return success;
    });
}
API cuMemHostUnregister(void *host) {
    return blocking_call([&] { return unlock(host); });
}

API cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, std::size_t bytes, void *stream) {
    return call([&] {
        if (!holds(pointer(to), bytes)) return int(invalid_value);
        if (Pinned *host = pinned_at(from)) return copy_pinned(pointer(to), from, bytes, stream_of(stream), *host);
        if (stream_of(stream).capture) return copy(pointer(to), from, bytes, stream_of(stream));
        // Pageable memory is copied to a staging buffer before the call returns.
        std::string kept(static_cast<const char *>(from), bytes);
        return stream_of(stream).enqueue([to, kept = std::move(kept)] {
            std::memcpy(pointer(to), kept.data(), kept.size());
            return 0;
        });
    });
}
API cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, std::size_t bytes, void *stream) {
    return call([&] {
        if (!holds(pointer(from), bytes)) return int(invalid_value);
        Stream &s = stream_of(stream);
        if (Pinned *host = pinned_at(to)) return copy_pinned(to, pointer(from), bytes, s, *host);
        int code = copy(to, pointer(from), bytes, s);
        // The data has arrived in pageable memory when the call returns.
        return s.capture ? code : finish(s, code);
    });
}
API cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, std::size_t bytes, void *stream) {
    return call([&] {
        if (!holds(pointer(from), bytes) || !holds(pointer(to), bytes)) return int(invalid_value);
        return copy(pointer(to), pointer(from), bytes, stream_of(stream));
    });
}
API cuMemcpyHtoD_v2(unsigned long long to, const void *from, std::size_t bytes) {
    return blocking_call([&] { return finish(*legacy_stream(), cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr)); });
}
API cuMemcpyDtoH_v2(void *to, unsigned long long from, std::size_t bytes) {
    return blocking_call([&] { return finish(*legacy_stream(), cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr)); });
}
API cuMemcpyDtoD_v2(unsigned long long to, unsigned long long from, std::size_t bytes) {
    return blocking_call([&] { return cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr); });
}

API cuMemsetD8Async(unsigned long long device, unsigned char value, std::size_t count, void *stream) {
    return call([&] { return fill(device, &value, 1, count, stream_of(stream)); });
}
API cuMemsetD16Async(unsigned long long device, unsigned short value, std::size_t count, void *stream) {
    return call([&] { return fill(device, &value, 2, count, stream_of(stream)); });
}
API cuMemsetD32Async(unsigned long long device, unsigned value, std::size_t count, void *stream) {
    return call([&] { return fill(device, &value, 4, count, stream_of(stream)); });
}
API cuMemsetD8_v2(unsigned long long device, unsigned char value, std::size_t count) {
    return blocking_call([&] { return cuMemsetD8Async(device, value, count, nullptr); });
}
API cuMemsetD32_v2(unsigned long long device, unsigned value, std::size_t count) {
    return blocking_call([&] { return cuMemsetD32Async(device, value, count, nullptr); });
}
