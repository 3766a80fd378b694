// What a compiled kernel and the driver that runs it agree on. The driver is the other side of every declaration
// here; the prelude builds CUDA's language on it. Included in both, so it needs no standard header.
#pragma once

namespace emulated_cuda {

using Size = decltype(sizeof 0);
using Word = unsigned long long;

struct Index {
    unsigned x, y, z;
};

/// One cp.async of 16 bytes on its way: `bytes` come from `from`, the rest is zero.
struct Copy {
    void *to;
    const void *from;
    unsigned bytes, group;
};

/// What cuTensorMapEncodeTiled writes: a tensor of 16-bit elements and the boxes to copy of it, innermost first, with ones
/// past its rank.
struct TensorMap {
    Word address, sizes[4], strides[3];
    unsigned box[4], rank, unused[11];
};
static_assert(sizeof(TensorMap) == 128, "the size of CUtensorMap");

/// A box of a tensor and its place in shared memory, where rows are swizzled.
struct Box {
    char *in_shared;
    TensorMap map;
    int at[4];
};

/// One box on its way to shared memory, and the barrier there that counts its bytes.
struct Load {
    Box box;
    void *barrier;
};

/// One value on its way from another block of the cluster, and the barrier that counts its bytes.
struct Sent {
    float *place, value;
    void *barrier;
};

/// What is on its way to the shared memory of a block, oldest first. Addresses are those that the block itself has for it.
struct Arrivals {
    unsigned loads, values;
    Load load[64];
    Sent sent[1024];
};

/// One box on its way from shared memory.
struct Store {
    Box box;
    unsigned group;
};

/// One wgmma on its way, of this thread's part: the sums, the matrices, and this lane's part of the left one where it is in
/// registers.
struct Wgmma {
    float *sums;
    Word left, right;
    unsigned registers[4];
    unsigned columns, group;
    bool add, left_in_registers, right_in_rows;
};

/// One CUDA thread. It is a fiber: it runs until it waits for others, then the next one runs.
struct Thread {
    void *stack;
    Index thread, block, block_size, grid_size;
    unsigned warp, lane;
    void *dynamic_shared;
    // The number of its block in the cluster, and what comes to each block of it.
    unsigned rank;
    Arrivals *arrivals;
    // Groups of cp.async: those committed so far, and the copies that have not landed, oldest first.
    unsigned committed, copies;
    Copy copy[512];
    // The same of boxes that leave shared memory, and of wgmma.
    unsigned stores_committed, stores;
    Store store[8];
    unsigned wgmma_committed, wgmmas;
    Wgmma wgmma[32];
};

/// What the last lane to arrive at a collective does for all: `lanes` has a bit for each that takes part, and
/// `arguments[lane]` is what that lane brought.
using Collective = void (*)(void **arguments, unsigned lanes);

/// A kernel as the module exports it, in an array `emulated_cuda_kernels` that ends with an entry of nulls.
struct Kernel {
    void (*function)();
    void (*invoke)(void **parameters);
    const unsigned *sizes;
    unsigned parameters;
    unsigned max_threads;
    /// The blocks of a cluster, which are neighbours in x.
    unsigned cluster;
};

/// Where another block of the cluster has what the calling one has at some address of its own: the address by which that block
/// knows it, and the one at which the caller may write to it until it waits.
struct Mapped {
    void *there, *here;
};

} // namespace emulated_cuda

#pragma GCC visibility push(default)
extern "C" {
/// The thread that runs here. Its address stays valid across waits, since a fiber never changes its host thread.
extern __thread emulated_cuda::Thread *emulated_cuda_current __attribute__((tls_model("initial-exec")));

/// Waits for `threads` threads of the block (0 for all) at barrier `id`, as bar.sync and bar.red do: `predicate` is
/// counted and the count is returned.
unsigned emulated_cuda_barrier(unsigned id, unsigned threads, bool predicate);

/// Waits for the lanes of `mask` that have not left, and has the last one run `collective`.
void emulated_cuda_collective(unsigned mask, emulated_cuda::Collective collective, void *argument);

/// The lanes of this thread's warp that have not left.
unsigned emulated_cuda_lanes();

/// Lets other threads of the cluster run.
void emulated_cuda_yield();

/// Waits at an mbarrier, until its phase may be over or, where it returns true, until nobody else can run: then something is on
/// its way to it, which the caller lands.
bool emulated_cuda_sleep(const void *mbarrier);

/// Has those go on who wait at an mbarrier of block `rank`, by the address that this block has for it.
void emulated_cuda_wake(const void *mbarrier, unsigned rank);

/// Waits for all threads of a cluster of so many blocks.
void emulated_cuda_cluster_barrier(unsigned blocks);

/// Where what lies at `local` in shared memory is in block `rank` of the cluster.
emulated_cuda::Mapped emulated_cuda_mapped(const void *local, unsigned bytes, unsigned rank);

/// Ends the launch with an error and this sentence.
[[noreturn]] void emulated_cuda_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
}
#pragma GCC visibility pop
