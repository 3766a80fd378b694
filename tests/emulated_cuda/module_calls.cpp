// The driver's interface: modules, their functions, launches, and tensor maps.

#include "calls.h"
#include "modules.h"
#include <algorithm>
#include <cstring>

using namespace emulated_cuda;

namespace {

int occupancy(const Function &function, int threads, std::size_t dynamic) {
    std::size_t shared = function.shared_bytes + dynamic + 1024;
    if (threads <= 0 || unsigned(threads) > block_threads) return 0;
    return int(std::min({std::size_t(multiprocessor_threads / threads), multiprocessor_shared() / shared, std::size_t(32)}));
}

int launch(const Function &function, Index grid, Index block, unsigned dynamic, Stream &stream, void **parameters) {
    auto refuse = [&](const std::string &why, int code = invalid_value) {
        return say(code, "kernel " + function.name + ": " + why);
    };
    const Kernel &kernel = *function.kernel;
    unsigned long long threads = 1ull * block.x * block.y * block.z;
    if (!threads || !grid.x || !grid.y || !grid.z) return refuse("a launch of nothing");
    if (threads > kernel.max_threads || block.z > 64)
        return refuse("blocks of " + std::to_string(threads) + " threads, at most " + std::to_string(kernel.max_threads));
    if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) return refuse("a grid that is too large");
    if (kernel.cluster && grid.x % kernel.cluster)
        return refuse("a grid that is " + std::to_string(grid.x) + " blocks wide, in clusters of " + std::to_string(kernel.cluster),
                      invalid_cluster_size);
    if (kernel.cluster < 1 || kernel.cluster > cluster_blocks || (threads + 31) / 32 * 32 * kernel.cluster > cluster_threads)
        return refuse("a cluster of a kind that is not emulated", not_supported);
    if (dynamic > function.max_dynamic_shared)
        return refuse(std::to_string(dynamic) + " bytes of dynamic shared memory beside " +
                      std::to_string(function.shared_bytes) + " static ones, of which " +
                      std::to_string(function.max_dynamic_shared) + " were allowed");
    if (!parameters && kernel.parameters) return invalid_value;
    Launch launch{&kernel, function.module, function.name, grid, block, dynamic, {}, {}};
    std::size_t bytes = 0;
    for (unsigned i = 0; i < kernel.parameters; i++) bytes += (kernel.sizes[i] + 15) & ~15u;
    // The buffer is aligned for the largest parameter type: byte vectors use the allocator, which
    // aligns to 16.
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
struct LaunchAttribute {
    unsigned id;
    alignas(8) unsigned char value[64];
};
struct LaunchConfig {
    Index grid, block;
    unsigned dynamic;
    void *stream;
    const LaunchAttribute *attributes;
    unsigned attribute_count;
};
API cuLaunchKernelEx(const LaunchConfig *config, void *function, void **parameters, void **extra) {
    const Index &g = config->grid, &b = config->block;
    // All attributes but one are scheduling hints.
    constexpr unsigned cluster_dimension = 4;
    for (unsigned i = 0; i < config->attribute_count; i++)
        if (config->attributes[i].id == cluster_dimension)
            return say(not_supported, "clusters that a launch asks for, not its kernel, are not emulated");
    return cuLaunchKernel(function, g.x, g.y, g.z, b.x, b.y, b.z, config->dynamic, config->stream, parameters, extra);
}
/// Encodes only maps of BF16 or bytes whose box rows are as wide as their swizzle, 128 or 64 bytes.
API cuTensorMapEncodeTiled(void *map, unsigned type, unsigned rank, void *address, const unsigned long long *sizes,
                           const unsigned long long *strides, const unsigned *box, const unsigned *steps, unsigned interleave,
                           unsigned swizzle, unsigned, unsigned fill) {
    constexpr unsigned uint8 = 0, bfloat16 = 9, swizzle_64b = 2, swizzle_128b = 3;
    if ((type != uint8 && type != bfloat16) || interleave || (swizzle != swizzle_64b && swizzle != swizzle_128b) || fill || rank < 2 || rank > 4)
        return say(not_supported, "a tensor map of a kind that is not emulated");
    TensorMap out{};
    out.address = reinterpret_cast<unsigned long long>(address), out.rank = rank;
    out.element_bytes = type == uint8 ? 1 : 2;
    bool fits = out.address % 16 == 0 && box[0] * out.element_bytes == (swizzle == swizzle_64b ? 64 : 128);
    for (unsigned i = 0; i < 4; i++) {
        out.sizes[i] = i < rank ? sizes[i] : 1, out.box[i] = i < rank ? box[i] : 1;
        fits = fits && out.sizes[i] && out.sizes[i] >> 32 == 0 && out.box[i] && out.box[i] <= 256 && (i >= rank || steps[i] == 1);
        if (i + 1 < rank) fits = fits && (out.strides[i] = strides[i]) % 16 == 0;
    }
    if (!fits) return say(invalid_value, "a tensor map that TMA does not take");
    return std::memcpy(map, &out, sizeof out), success;
}
API cuLaunchHostFunc(void *stream, void (*function)(void *), void *data) {
    return call([&] { return stream_of(stream).enqueue([=] { return function(data), 0; }); });
}
