// Shared parts of the driver's interface: the calls that cudarc makes, with the semantics and error
// codes of NVIDIA's documentation ("CUDA Driver API"). Its chapters are device_calls.cpp,
// memory_calls.cpp, module_calls.cpp and stream_calls.cpp.
#pragma once

#include "streams.h"
#include <cstdint>
#include <mutex>
#include <string>

#define API extern "C" __attribute__((visibility("default"))) int

namespace emulated_cuda {

enum Result {
    success = 0,
    invalid_value = 1,
    out_of_memory = 2,
    not_initialized = 3,
    no_device = 100,
    invalid_device = 101,
    invalid_image = 200,
    invalid_context = 201,
    not_found = 500,
    not_ready = 600,
    not_supported = 801,
    unsupported_in_capture = 900,
    invalid_cluster_size = 912,
};

// One device with the limits of an A100 or an H100, but few SMs.
constexpr unsigned block_threads = 1024, multiprocessor_threads = 2048;

/// The shared memory of an SM, and the maximum per CTA.
unsigned multiprocessor_shared();
unsigned block_shared_opt_in();

/// A number from the environment.
int number(const char *name, int usual);

/// Prints the sentence to stderr; returns the code.
int say(int code, const std::string &sentence);

extern std::recursive_mutex mutex;
extern bool initialized;
extern thread_local bool current;

/// Runs `body` under the lock if there is a context and no earlier error; nearly every call uses
/// it.
template <class F> int call(F body) {
    std::lock_guard lock(mutex);
    if (!initialized) return not_initialized;
    if (!current) return invalid_context;
    if (int code = sticky_error()) return code;
    return body();
}

/// A call that may wait, which is forbidden on a capturing thread.
template <class F> int blocking_call(F body) {
    return call([&] {
        if (int code = forbid_in_capture()) return code;
        return int(body());
    });
}

inline Stream &stream_of(void *handle) {
    // 1 and 2 are the legacy and the per-thread default stream.
    if (reinterpret_cast<std::uintptr_t>(handle) <= 2) return *legacy_stream();
    return *static_cast<Stream *>(handle);
}

} // namespace emulated_cuda
