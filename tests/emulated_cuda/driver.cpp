// The driver API, as far as a program that computes needs it: the calls that cudarc's safe interface makes, with the
// meaning and the error codes of NVIDIA's documentation ("CUDA Driver API").

#include "memory.h"
#include "modules.h"
#include "streams.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <mutex>

using namespace emulated_cuda;

namespace {

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
    launch_failed = 719,
    unsupported_in_capture = 900,
    not_supported = 801,
};

// One device, with the limits of an A100, or of an H100, but few multiprocessors.
constexpr unsigned multiprocessors = 4, block_threads = 1024, multiprocessor_threads = 2048;

/// A number from the environment.
int number(const char *name, int usual) {
    const char *text = std::getenv(name);
    return text ? std::atoi(text) : usual;
}

/// The major compute capability: 8, or 9, or less for tests of what a program says to an old device.
int capability() {
    return number("EMULATED_CUDA_CAPABILITY", 8);
}

/// Shared memory of a multiprocessor, and the most of it that a block may have.
unsigned multiprocessor_shared() { return (capability() >= 9 ? 228 : 164) << 10; }
unsigned block_shared_opt_in() { return multiprocessor_shared() - (1 << 10); }

/// One context is all contexts: the device has nothing that a second would keep apart.
int context;
bool initialized = false;
thread_local bool current = false;
std::recursive_mutex mutex;
/// Page-locked host memory: copies from and to it are asynchronous.
std::map<const char *, std::size_t> pinned;

bool is_pinned(const void *host) {
    auto found = pinned.upper_bound(static_cast<const char *>(host));
    return found != pinned.begin() && (--found, static_cast<const char *>(host) < found->first + found->second);
}

int say(int code, const std::string &sentence) {
    std::fprintf(stderr, "emulated CUDA: %s\n", sentence.c_str());
    return code;
}

Stream &stream_of(void *handle) {
    // 1 and 2 name the legacy and the per-thread default stream.
    if (reinterpret_cast<std::uintptr_t>(handle) <= 2) return *legacy_stream();
    return *static_cast<Stream *>(handle);
}

/// What nearly every call begins with: it holds the lock, and wants a context and no earlier error.
template <class F> int call(F body) {
    std::lock_guard lock(mutex);
    if (!initialized) return not_initialized;
    if (!current) return invalid_context;
    if (int code = sticky_error()) return code;
    return body();
}

/// A call that may wait, which a capturing thread must not make.
template <class F> int blocking_call(F body) {
    return call([&] {
        if (int code = forbid_in_capture()) return code;
        return int(body());
    });
}

void *pointer(unsigned long long device) { return reinterpret_cast<void *>(device); }

int copy(void *to, const void *from, std::size_t bytes, Stream &stream) {
    return stream.enqueue([=] {
        std::memcpy(to, from, bytes);
        return 0;
    });
}

int fill(unsigned long long device, const void *pattern, std::size_t width, std::size_t count, Stream &stream) {
    if (!holds(pointer(device), width * count)) return invalid_value;
    std::string bytes(static_cast<const char *>(pattern), width);
    return stream.enqueue([=] {
        for (std::size_t i = 0; i < count; i++) std::memcpy(static_cast<char *>(pointer(device)) + i * width, bytes.data(), width);
        return 0;
    });
}

/// Ends the call once the stream has run what was queued.
int finish(Stream &stream, int code) { return code ? code : stream.run_to(stream.queued); }

int occupancy(const Function &function, int threads, std::size_t dynamic) {
    std::size_t shared = function.shared_bytes + dynamic + 1024;
    if (threads <= 0 || unsigned(threads) > block_threads) return 0;
    return int(std::min({std::size_t(multiprocessor_threads / threads), multiprocessor_shared() / shared, std::size_t(32)}));
}

int launch(const Function &function, Index grid, Index block, unsigned dynamic, Stream &stream, void **parameters) {
    auto refuse = [&](const std::string &why) { return say(invalid_value, "kernel " + function.name + ": " + why); };
    const Kernel &kernel = *function.kernel;
    unsigned long long threads = 1ull * block.x * block.y * block.z;
    if (!threads || !grid.x || !grid.y || !grid.z) return refuse("a launch of nothing");
    if (threads > kernel.max_threads || block.z > 64)
        return refuse("blocks of " + std::to_string(threads) + " threads, at most " + std::to_string(kernel.max_threads));
    if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) return refuse("a grid that is too large");
    if (dynamic > function.max_dynamic_shared)
        return refuse(std::to_string(dynamic) + " bytes of dynamic shared memory beside " +
                      std::to_string(function.shared_bytes) + " static ones, of which " +
                      std::to_string(function.max_dynamic_shared) + " were allowed");
    if (!parameters && kernel.parameters) return invalid_value;
    Launch launch{&kernel, function.module, function.name, grid, block, dynamic, {}, {}};
    std::size_t bytes = 0;
    for (unsigned i = 0; i < kernel.parameters; i++) bytes += (kernel.sizes[i] + 15) & ~15u;
    // Aligned as the largest parameter type is: vectors of bytes come from the allocator, which aligns to 16.
    launch.bytes.resize(bytes);
    unsigned char *at = launch.bytes.data();
    for (unsigned i = 0; i < kernel.parameters; at += (kernel.sizes[i] + 15) & ~15u, i++) {
        std::memcpy(at, parameters[i], kernel.sizes[i]);
        launch.arguments.push_back(at);
    }
    if (number("EMULATED_CUDA_FAIL_LAUNCH", 0))
        return stream.enqueue([] { return say(launch_failed, "a launch that fails because it was asked to"); });
    auto shared = std::make_shared<Launch>(std::move(launch));
    return stream.enqueue([shared] {
        Failure failure = run(*shared);
        return failure.code ? say(failure.code, failure.sentence) : success;
    });
}

} // namespace

#define API extern "C" __attribute__((visibility("default"))) int

// ---- the device and its contexts -------------------------------------------------------------------------------

API cuInit(unsigned flags) {
    std::lock_guard lock(mutex);
    if (flags) return invalid_value;
    if (number("EMULATED_CUDA_DEVICES", 1) == 0) return no_device;
    if (!initialized) {
        // Kernels refer to this library's symbols, whatever way the program loaded it.
        Dl_info self;
        if (dladdr(reinterpret_cast<void *>(&cuInit), &self)) dlopen(self.dli_fname, RTLD_NOLOAD | RTLD_GLOBAL | RTLD_NOW);
        initialized = true;
    }
    return success;
}
API cuDriverGetVersion(int *version) { return *version = number("EMULATED_CUDA_DRIVER", 13000), success; }
API cuDeviceGetCount(int *count) { return initialized ? (*count = 1, success) : not_initialized; }
API cuDeviceGet(int *device, int ordinal) {
    if (!initialized) return not_initialized;
    return ordinal == 0 ? (*device = 0, success) : invalid_device;
}
API cuDeviceGetName(char *name, int length, int) { return std::snprintf(name, length, "Emulated CUDA device"), success; }
API cuDeviceGetUuid_v2(char *uuid, int) { return std::memset(uuid, 0xec, 16), success; }
API cuDeviceGetUuid(char *uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }
API cuDeviceTotalMem_v2(std::size_t *bytes, int) { return *bytes = memory_total(), success; }

API cuDeviceGetAttribute(int *value, int attribute, int) {
    static const std::map<int, int> attributes{
        {1, block_threads},           // MAX_THREADS_PER_BLOCK
        {2, 1024},                    // MAX_BLOCK_DIM_X
        {3, 1024},                    // MAX_BLOCK_DIM_Y
        {4, 64},                      // MAX_BLOCK_DIM_Z
        {5, 0x7fffffff},              // MAX_GRID_DIM_X
        {6, 65535},                   // MAX_GRID_DIM_Y
        {7, 65535},                   // MAX_GRID_DIM_Z
        {8, default_shared},          // MAX_SHARED_MEMORY_PER_BLOCK
        {9, 64 << 10},                // TOTAL_CONSTANT_MEMORY
        {10, 32},                     // WARP_SIZE
        {12, 64 << 10},               // MAX_REGISTERS_PER_BLOCK
        {13, 1000000},                // CLOCK_RATE
        {16, multiprocessors},        // MULTIPROCESSOR_COUNT
        {31, 1},                      // CONCURRENT_KERNELS
        {36, 1000000},                // MEMORY_CLOCK_RATE
        {37, 5120},                   // GLOBAL_MEMORY_BUS_WIDTH
        {38, 40 << 20},               // L2_CACHE_SIZE
        {39, multiprocessor_threads}, // MAX_THREADS_PER_MULTIPROCESSOR
        {41, 1},                      // UNIFIED_ADDRESSING
        {75, capability()},           // COMPUTE_CAPABILITY_MAJOR
        {76, 0},                      // COMPUTE_CAPABILITY_MINOR
        {81, multiprocessor_shared()},  // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        {82, 64 << 10},               // MAX_REGISTERS_PER_MULTIPROCESSOR
        {97, block_shared_opt_in()},    // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        {106, 32},                    // MAX_BLOCKS_PER_MULTIPROCESSOR
        {111, 1024},                  // RESERVED_SHARED_MEMORY_PER_BLOCK
        {115, 1},                     // MEMORY_POOLS_SUPPORTED
    };
    auto found = attributes.find(attribute);
    *value = found == attributes.end() ? 0 : found->second;
    return success;
}

API cuDevicePrimaryCtxRetain(void **out, int device) {
    if (!initialized) return not_initialized;
    return device == 0 ? (*out = &context, success) : invalid_device;
}
API cuDevicePrimaryCtxRelease_v2(int) { return success; }
API cuCtxSetCurrent(void *wanted) { return initialized ? (current = wanted != nullptr, success) : not_initialized; }
API cuCtxGetCurrent(void **out) { return *out = current ? &context : nullptr, success; }
API cuCtxGetDevice(int *device) { return *device = 0, current ? success : invalid_context; }
API cuCtxSynchronize() {
    return blocking_call([] { return run_all(); });
}
API cuCtxGetStreamPriorityRange(int *least, int *greatest) { return *least = *greatest = 0, success; }

// ---- memory ----------------------------------------------------------------------------------------------------

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
        pinned[static_cast<char *>(*host)] = bytes;
        return success;
    });
}
API cuMemAllocHost_v2(void **host, std::size_t bytes) { return cuMemHostAlloc(host, bytes, 0); }
API cuMemFreeHost(void *host) {
    return blocking_call([&] {
        if (!pinned.contains(static_cast<char *>(host))) return int(invalid_value);
        int code = run_all();
        pinned.erase(static_cast<char *>(host));
        std::free(host);
        return code;
    });
}

API cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, std::size_t bytes, void *stream) {
    return call([&] {
        if (!holds(pointer(to), bytes)) return int(invalid_value);
        if (is_pinned(from) || stream_of(stream).capture) return copy(pointer(to), from, bytes, stream_of(stream));
        // Pageable memory is copied aside before the call returns.
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
        int code = copy(to, pointer(from), bytes, s);
        // Pageable memory has its bytes when the call returns.
        return is_pinned(to) || s.capture ? code : finish(s, code);
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

// ---- modules and launches --------------------------------------------------------------------------------------

API cuModuleLoadData(void **module, const void *image) {
    return call([&] {
        std::string why;
        *module = Module::load(image, &why).release();
        return *module ? int(success) : say(invalid_image, why);
    });
}
API cuModuleLoadDataEx(void **module, const void *image, unsigned, int *, void **) { return cuModuleLoadData(module, image); }
API cuModuleUnload(void *module) {
    return call([&] {
        int code = run_all();
        delete static_cast<Module *>(module);
        return code;
    });
}
API cuModuleGetFunction(void **function, void *module, const char *name) {
    return call([&] { return (*function = static_cast<Module *>(module)->find(name)) ? success : not_found; });
}

API cuFuncGetAttribute(int *value, int attribute, void *handle) {
    return call([&] {
        const auto &function = *static_cast<Function *>(handle);
        switch (attribute) {
        case 0: return *value = int(function.kernel->max_threads), success;
        case 1: return *value = int(function.shared_bytes), success;
        case 5: case 6: return *value = 80, success; // PTX_VERSION and BINARY_VERSION: what the device shows
        case 8: return *value = int(function.max_dynamic_shared), success;
        default: return *value = 0, success;
        }
    });
}
API cuFuncSetAttribute(void *handle, int attribute, int value) {
    return call([&] {
        auto &function = *static_cast<Function *>(handle);
        if (attribute != 8) return success;
        if (value < 0 || function.shared_bytes + unsigned(value) > block_shared_opt_in()) return invalid_value;
        return function.max_dynamic_shared = unsigned(value), success;
    });
}
API cuFuncSetCacheConfig(void *, int) { return success; }
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int threads, std::size_t dynamic) {
    return call([&] { return *blocks = occupancy(*static_cast<Function *>(function), threads, dynamic), success; });
}
API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, void *function, int threads, std::size_t dynamic, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, dynamic);
}

API cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned dynamic,
                   void *stream, void **parameters, void **extra) {
    return call([&] {
        if (extra) return say(not_supported, "a launch with packed parameters is not emulated");
        return launch(*static_cast<Function *>(function), {gx, gy, gz}, {bx, by, bz}, dynamic, stream_of(stream), parameters);
    });
}
struct LaunchConfig {
    Index grid, block;
    unsigned dynamic;
    void *stream, *attributes;
    unsigned attribute_count;
};
API cuLaunchKernelEx(const LaunchConfig *config, void *function, void **parameters, void **extra) {
    const Index &g = config->grid, &b = config->block;
    // Attributes say how to schedule, or ask for clusters, which compute capability 8.0 has not.
    return cuLaunchKernel(function, g.x, g.y, g.z, b.x, b.y, b.z, config->dynamic, config->stream, parameters, extra);
}
/// Of the kinds of maps only those for swizzled rows of 128 bytes of BF16.
API cuTensorMapEncodeTiled(void *map, unsigned type, unsigned rank, void *address, const unsigned long long *sizes,
                           const unsigned long long *strides, const unsigned *box, const unsigned *steps, unsigned interleave,
                           unsigned swizzle, unsigned, unsigned fill) {
    constexpr unsigned bfloat16 = 9, swizzle_128b = 3;
    if (type != bfloat16 || interleave || swizzle != swizzle_128b || fill || rank < 2 || rank > 3)
        return say(not_supported, "a tensor map of a kind that is not emulated");
    TensorMap out{};
    out.address = reinterpret_cast<unsigned long long>(address), out.rank = rank;
    bool fits = out.address % 16 == 0 && box[0] * 2 == 128;
    for (unsigned i = 0; i < 3; i++) {
        out.sizes[i] = i < rank ? sizes[i] : 1, out.box[i] = i < rank ? box[i] : 1;
        fits = fits && out.sizes[i] && out.sizes[i] >> 32 == 0 && out.box[i] && out.box[i] <= 256 && (i >= rank || steps[i] == 1);
        if (i + 1 < rank) fits = fits && (out.strides[i] = strides[i]) % 16 == 0;
    }
    if (!fits) return say(invalid_value, "a tensor map that the copy engine does not take");
    return std::memcpy(map, &out, sizeof out), success;
}
API cuLaunchHostFunc(void *stream, void (*function)(void *), void *data) {
    return call([&] { return stream_of(stream).enqueue([=] { return function(data), 0; }); });
}

// ---- streams and events ----------------------------------------------------------------------------------------

API cuStreamCreate(void **stream, unsigned flags) {
    return call([&] { return *stream = create_stream(!(flags & 1)), success; });
}
API cuStreamCreateWithPriority(void **stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
API cuStreamDestroy_v2(void *stream) {
    return call([&] { return stream_of(stream).run_to(stream_of(stream).queued); });
}
API cuStreamSynchronize(void *stream) {
    return blocking_call([&] {
        Stream &s = stream_of(stream);
        return s.capture ? unsupported_in_capture : s.run_to(s.queued);
    });
}
API cuStreamQuery(void *stream) {
    return blocking_call([&] {
        Stream &s = stream_of(stream);
        if (s.done == s.queued) return int(success);
        // Each query sees a little more done, so that polling ends.
        int code = s.run_to(s.done + 1);
        return code ? code : int(not_ready);
    });
}
API cuStreamWaitEvent(void *stream, void *event, unsigned) {
    return call([&] { return wait(stream_of(stream), *static_cast<Event *>(event)); });
}

API cuEventCreate(void **event, unsigned) {
    return call([&] { return *event = create_event(), success; });
}
API cuEventDestroy_v2(void *) { return success; }
API cuEventRecord(void *event, void *stream) {
    return call([&] { return record(*static_cast<Event *>(event), stream_of(stream)); });
}
API cuEventRecordWithFlags(void *event, void *stream, unsigned) { return cuEventRecord(event, stream); }
API cuEventSynchronize(void *event) {
    return blocking_call([&] {
        auto &e = *static_cast<Event *>(event);
        return e.reached() ? 0 : e.stream->run_to(e.position);
    });
}
API cuEventQuery(void *event) {
    return blocking_call([&] {
        auto &e = *static_cast<Event *>(event);
        if (e.reached()) return int(success);
        int code = e.stream->run_to(e.stream->done + 1);
        return code ? code : int(not_ready);
    });
}
API cuEventElapsedTime_v2(float *milliseconds, void *start, void *end) {
    return call([&] {
        auto &from = *static_cast<Event *>(start), &to = *static_cast<Event *>(end);
        if (!from.stream || !to.stream) return invalid_value;
        if (!from.reached() || !to.reached()) return not_ready;
        return *milliseconds = std::chrono::duration<float, std::milli>(to.time - from.time).count(), success;
    });
}
API cuEventElapsedTime(float *milliseconds, void *start, void *end) { return cuEventElapsedTime_v2(milliseconds, start, end); }

// ---- graphs ----------------------------------------------------------------------------------------------------

API cuStreamBeginCapture_v2(void *stream, int mode) {
    return call([&] { return begin_capture(stream_of(stream), mode); });
}
API cuStreamEndCapture(void *stream, void **graph) {
    return call([&] {
        auto captured = std::make_unique<Graph>();
        *graph = nullptr;
        int code = end_capture(stream_of(stream), captured.get());
        if (!code) *graph = captured.release();
        return code;
    });
}
API cuStreamIsCapturing(void *stream, int *status) {
    return call([&] {
        const auto &capture = stream_of(stream).capture;
        return *status = !capture ? 0 : capture->broken ? 2 : 1, success;
    });
}
API cuThreadExchangeStreamCaptureMode(int *) { return say(not_supported, "changing a thread's capture mode is not emulated"); }
API cuGraphGetNodes(void *graph, void **nodes, std::size_t *count) {
    return call([&] {
        if (nodes) return say(not_supported, "naming a graph's nodes is not emulated");
        return *count = static_cast<Graph *>(graph)->nodes.size(), int(success);
    });
}
API cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
    return call([&] { return *executable = new std::shared_ptr<Graph>(new Graph(*static_cast<Graph *>(graph))), success; });
}
API cuGraphUpload(void *, void *) { return success; }
API cuGraphLaunch(void *executable, void *stream) {
    return call([&] {
        return stream_of(stream).enqueue([graph = *static_cast<std::shared_ptr<Graph> *>(executable)] {
            for (const Work &node : graph->nodes)
                if (int code = node()) return code;
            return 0;
        });
    });
}
API cuGraphDestroy(void *graph) {
    return call([&] { return delete static_cast<Graph *>(graph), success; });
}
API cuGraphExecDestroy(void *executable) {
    return call([&] { return delete static_cast<std::shared_ptr<Graph> *>(executable), success; });
}

// ---- errors ----------------------------------------------------------------------------------------------------

namespace {
struct Words {
    const char *name, *sentence;
};
const std::map<int, Words> words{
    {success, {"CUDA_SUCCESS", "no error"}},
    {invalid_value, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
    {out_of_memory, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
    {not_initialized, {"CUDA_ERROR_NOT_INITIALIZED", "initialization error"}},
    {invalid_device, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
    {invalid_image, {"CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"}},
    {invalid_context, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
    {401, {"CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"}},
    {not_found, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
    {not_ready, {"CUDA_ERROR_NOT_READY", "device not ready"}},
    {700, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
    {710, {"CUDA_ERROR_ASSERT", "device-side assert triggered"}},
    {716, {"CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"}},
    {719, {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}},
    {not_supported, {"CUDA_ERROR_NOT_SUPPORTED", "operation not supported"}},
    {unsupported_in_capture, {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
    {901, {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}},
    {903, {"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "the capture was not initiated in this stream"}},
    {905, {"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"}},
};
} // namespace
API cuGetErrorName(int code, const char **name) {
    auto found = words.find(code);
    return *name = found == words.end() ? nullptr : found->second.name, found == words.end() ? invalid_value : success;
}
API cuGetErrorString(int code, const char **sentence) {
    auto found = words.find(code);
    return *sentence = found == words.end() ? nullptr : found->second.sentence, found == words.end() ? invalid_value : success;
}
