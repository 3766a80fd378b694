// Modules: the shared libraries that the compiler's stand-in makes of kernels.
#pragma once

#include "blocks.h"
#include <memory>

namespace emulated_cuda {

/// The shared memory of a block, where the program asks for no more.
constexpr unsigned default_shared = 48 << 10;

struct Function {
    const Module *module;
    const Kernel *kernel;
    std::string name;
    /// The `__shared__` memory that the kernel itself declares, without that of functions it calls.
    std::size_t shared_bytes;
    /// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES; its default is what static memory leaves.
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

    /// Loads an image; null if it is invalid, with the reason in `why`.
    static std::unique_ptr<Module> load(const void *image, std::string *why);
    Function *find(const char *name) const;
};

} // namespace emulated_cuda
