// Runs a launch: its blocks, or clusters of them, over the cores, their threads as fibers.
#pragma once

#include "runtime.h"
#include <cstddef>
#include <string>
#include <vector>

namespace emulated_cuda {

struct Module;

/// The most blocks that a cluster may have, and the most threads of all of them, in whole warps.
constexpr unsigned cluster_blocks = 8, cluster_threads = 1024;

/// A kernel with its arguments, as the driver checked them.
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

/// The driver's codes for what a kernel can do wrong.
constexpr int illegal_address = 700, assertion = 710, misaligned_address = 716, launch_failed = 719;

/// Why a launch ended early: the driver's error code and a sentence; code 0 where it did not.
struct Failure {
    int code = 0;
    std::string sentence;
};

/// Runs every block and waits for them.
Failure run(const Launch &launch);

/// The calling thread's copy of what the module declares `__shared__`, and its size.
struct StaticShared {
    void *start;
    std::size_t bytes;
};
StaticShared static_shared(const Module &module);

/// In words where an address lies among the allocations.
std::string describe_address(const void *address);

} // namespace emulated_cuda
