// Runs a launch: distributes its CTAs or clusters over the cores, with their threads as fibers.
#pragma once

#include "runtime.h"
#include <cstddef>
#include <string>
#include <vector>

namespace emulated_cuda {

struct Module;

/// The maximum number of CTAs in a cluster, and of threads in all of them, in whole warps.
constexpr unsigned cluster_blocks = 8, cluster_threads = 1536;

/// A kernel with its arguments, checked by the driver.
struct Launch {
    const Kernel *kernel;
    const Module *module;
    std::string name;
    Index grid, block;
    unsigned dynamic_shared;
    /// The offset of each argument in `bytes`.
    std::vector<void *> arguments;
    std::vector<unsigned char> bytes;
};

/// The driver's codes for errors in a kernel.
constexpr int illegal_address = 700, assertion = 710, misaligned_address = 716, launch_failed = 719;

/// The reason why a launch ended early: the driver's error code and a sentence; code 0 for success.
struct Failure {
    int code = 0;
    std::string sentence;
};

/// Runs every CTA and waits for them.
Failure run(const Launch &launch);

/// The calling thread's copy of the module's `__shared__` variables, and its size.
struct StaticShared {
    void *start;
    std::size_t bytes;
};
StaticShared static_shared(const Module &module);

/// Describes the position of an address among the allocations.
std::string describe_address(const void *address);

} // namespace emulated_cuda
