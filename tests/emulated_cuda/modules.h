// Modules: the shared libraries that the emulated NVRTC compiles from kernels.
#pragma once

#include "blocks.h"
#include <memory>

namespace emulated_cuda {

/// The default limit of a CTA's shared memory.
constexpr unsigned default_shared = 48 << 10;

struct Function {
    const Module *module;
    const Kernel *kernel;
    std::string name;
    /// The kernel's own `__shared__` memory, without that of the functions it calls.
    std::size_t shared_bytes;
    /// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES; its default is the limit minus static
    /// memory.
    unsigned max_dynamic_shared;
};

struct Module {
    void *library = nullptr;
    int file = -1;
    void *(*touch_shared)() = nullptr;
    std::size_t shared_bytes = 0;
    std::vector<std::unique_ptr<Function>> functions;

    Module() = default;
    Module(const Module &) = delete;
    ~Module();

    /// Loads an image; returns null and the reason in `why` if it is invalid.
    static std::unique_ptr<Module> load(const void *image, std::string *why);
    Function *find(const char *name) const;
};

} // namespace emulated_cuda
