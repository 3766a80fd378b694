// The interface between a compiled kernel and the driver that runs it. The driver defines these
// functions, and the prelude builds the CUDA language on them. Both include this header, so it
// includes no standard header.
#pragma once

namespace emulated_cuda {

using Size = decltype(sizeof 0);
using Word = unsigned long long;

struct Index {
    unsigned x, y, z;
};

/// A cp.async of 16 bytes in flight: `bytes` come from `from`, the rest is zero.
struct Copy {
    void *to;
    const void *from;
    unsigned bytes, group;
};

/// The output of cuTensorMapEncodeTiled: a tensor of elements of 1 or 2 bytes and its boxes,
/// innermost dimension first, with ones past its rank.
struct TensorMap {
    Word address, sizes[4], strides[3];
    unsigned box[4], rank, element_bytes, unused[10];
};
static_assert(sizeof(TensorMap) == 128, "the size of CUtensorMap");

/// A box of a tensor and its address in shared memory, where rows are swizzled.
struct Box {
    char *in_shared;
    TensorMap map;
    int at[4];
};

/// A TMA load in flight, and the barrier that counts its bytes.
struct Load {
    Box box;
    void *barrier;
};

/// An st.async in flight from another CTA of the cluster, and the barrier that counts its bytes.
struct Sent {
    float *place, value;
    void *barrier;
};

/// Loads and stores in flight to the shared memory of a CTA, oldest first. Addresses are the CTA's
/// own.
struct Arrivals {
    unsigned loads, values;
    Load load[64];
    Sent sent[1024];
};

/// A TMA store in flight.
struct Store {
    Box box;
    unsigned group;
};

/// This thread's part of a wgmma in flight: the accumulators, the matrices, and this lane's part of
/// A if that is in registers. The elements are BF16, or E4M3.
struct Wgmma {
    float *sums;
    Word left, right;
    unsigned registers[4];
    unsigned columns, group;
    bool add, left_in_registers, right_in_rows, e4m3;
};

/// One CUDA thread. It is a fiber: it runs until it waits for others, and then the next one runs.
struct Thread {
    void *stack;
    Index thread, block, block_size, grid_size;
    unsigned warp, lane;
    void *dynamic_shared;
    // The rank of its CTA in the cluster, and the copies in flight to each CTA of the cluster.
    unsigned rank;
    Arrivals *arrivals;
    // Groups of cp.async: those committed so far, and the copies that have not landed, oldest
    // first.
    unsigned committed, copies;
    Copy copy[512];
    // The same for TMA stores and for wgmma.
    unsigned stores_committed, stores;
    Store store[8];
    unsigned wgmma_committed, wgmmas;
    Wgmma wgmma[32];
};

/// The work that the last lane to arrive at a collective does for all: `lanes` has a bit for each
/// that takes part, and `arguments[lane]` is the argument of a lane.
using Collective = void (*)(void **arguments, unsigned lanes);

/// An exported kernel of a module, in an array `emulated_cuda_kernels` that ends with a null entry.
struct Kernel {
    void (*function)();
    void (*invoke)(void **parameters);
    const unsigned *sizes;
    unsigned parameters;
    unsigned max_threads;
    /// The CTAs of a cluster, which are neighbours along x.
    unsigned cluster;
};

/// The counterpart of an address in another CTA of the cluster: the address that this CTA uses for
/// it, and the address at which the caller may write to it until its next wait.
struct Mapped {
    void *there, *here;
};

} // namespace emulated_cuda

#pragma GCC visibility push(default)
extern "C" {
/// The running thread. Its address stays valid across waits, since a fiber never changes its host
/// thread.
extern __thread emulated_cuda::Thread *emulated_cuda_current __attribute__((tls_model("initial-exec")));

/// Waits for `threads` threads of the CTA (0 for all) at barrier `id`, like bar.sync and bar.red;
/// returns the number of threads with a true `predicate`.
unsigned emulated_cuda_barrier(unsigned id, unsigned threads, bool predicate);

/// Waits for the lanes of `mask` that have not exited; the last one runs `collective`.
void emulated_cuda_collective(unsigned mask, emulated_cuda::Collective collective, void *argument);

/// The lanes of this thread's warp that have not exited.
unsigned emulated_cuda_lanes();

/// Lets other threads of the cluster run.
void emulated_cuda_yield();

/// Waits at an mbarrier until its phase may have completed, or until no other thread can run. In
/// the second case it returns true, a copy is in flight to the mbarrier, and the caller lands it.
bool emulated_cuda_sleep(const void *mbarrier);

/// Wakes the threads that wait at an mbarrier of CTA `rank`, by the address that this CTA uses for
/// it.
void emulated_cuda_wake(const void *mbarrier, unsigned rank);

/// Waits for all threads of a cluster of `blocks` CTAs.
void emulated_cuda_cluster_barrier(unsigned blocks);

/// The counterpart of shared memory at `local` in CTA `rank` of the cluster.
emulated_cuda::Mapped emulated_cuda_mapped(const void *local, unsigned bytes, unsigned rank);

/// Ends the launch with an error and a message.
[[noreturn]] void emulated_cuda_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
}
#pragma GCC visibility pop
