// The driver's interface: the device, its contexts, and error names.

#include "calls.h"
#include "exports.h"
#include "memory.h"
#include "modules.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>

namespace emulated_cuda {

std::recursive_mutex mutex;
bool initialized = false;
thread_local bool current = false;

int number(const char *name, int usual) {
    const char *text = std::getenv(name);
    return text ? std::atoi(text) : usual;
}

int say(int code, const std::string &sentence) {
    std::fprintf(stderr, "emulated CUDA: %s\n", sentence.c_str());
    return code;
}

namespace {

/// The major compute capability: 8, or 9, or less for tests of a program's message about an old
/// device.
int capability() {
    return number("EMULATED_CUDA_CAPABILITY", 8);
}

/// All contexts are one context: the device has no state that a second one would separate.
int context;

/// The driver's CUDA version, in thousands per major version.
int driver() {
    return number("EMULATED_CUDA_DRIVER", 13000);
}

/// A driver exports the functions of its own CUDA version and of earlier ones.
__attribute__((constructor)) void hide_later_functions() {
    static const std::map<const char *, int> since{
        {"cuEventRecordWithFlags", 11010},      {"cuMemAllocAsync", 11020},
        {"cuMemFreeAsync", 11020},              {"cuDeviceGetUuid_v2", 11040}, {"cuGraphInstantiateWithFlags", 11040},
        {"cuLaunchKernelEx", 11080},            {"cuTensorMapEncodeTiled", 12000}, {"cuEventElapsedTime_v2", 12080},
    };
    void *self = library_of(&context);
    for (auto [name, version] : since)
        if (version > driver()) hide(self, name);
    hide_named(self);
}

} // namespace

unsigned multiprocessor_shared() { return (capability() >= 9 ? 228 : 164) << 10; }
unsigned block_shared_opt_in() { return multiprocessor_shared() - (1 << 10); }

} // namespace emulated_cuda

using namespace emulated_cuda;

API cuInit(unsigned flags) {
    std::lock_guard lock(mutex);
    if (flags) return invalid_value;
    if (number("EMULATED_CUDA_DEVICES", 1) == 0) return no_device;
    if (!initialized) {
        // Kernels refer to this library's symbols, however the program loaded it.
        Dl_info self;
        if (dladdr(reinterpret_cast<void *>(&cuInit), &self)) dlopen(self.dli_fname, RTLD_NOLOAD | RTLD_GLOBAL | RTLD_NOW);
        initialized = true;
    }
    return success;
}
API cuDriverGetVersion(int *version) { return *version = driver(), success; }
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
        {16, number("EMULATED_CUDA_MULTIPROCESSORS", 4)}, // MULTIPROCESSOR_COUNT
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

// ---- errors -------------------------------------------------------------------------------------

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
    {invalid_cluster_size, {"CUDA_ERROR_INVALID_CLUSTER_SIZE", "cluster misconfiguration"}},
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
