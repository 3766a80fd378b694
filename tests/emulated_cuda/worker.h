// A CTA, or a cluster of CTAs, is a set of fibers on one host thread. A thread runs until it has to
// wait for others; the thread that completes a wait marks the waiting ones ready. If no thread is
// ready and some wait, the kernel has a deadlock, and the launch fails with that message.
#pragma once

#include "blocks.h"
#include "fibers.h"
#include <cstring>
#include <memory>
#include <utility>

namespace emulated_cuda {

constexpr unsigned max_threads = cluster_threads, warp_lanes = 32, max_warps = max_threads / warp_lanes, barriers = 16;
static_assert(max_warps <= 64, "a bit of Worker::ready_warps for each");
constexpr std::size_t shared_arena = 256 << 10;

/// A collective at which some lanes of a warp have arrived.
struct Meeting {
    Collective collective;
    unsigned mask, arrived;
    void *arguments[warp_lanes];
};

struct Warp {
    unsigned alive, ready;
    /// A bit for each entry of `meetings` in progress.
    unsigned open;
    Meeting meetings[warp_lanes];
};

struct Barrier {
    unsigned expected, arrived, predicates, result;
    unsigned waiting[max_warps];
};

/// The state of a CTA of a cluster.
struct Block {
    /// Dynamic shared memory. It ends with the arena, which a protected page follows.
    std::uint8_t *arena, *dynamic;
    /// A copy of static shared memory, while another CTA's occupies the kernel's address.
    std::vector<std::uint8_t> statics;
    Barrier barrier[barriers];
    unsigned left;

    Block() {
        void *mapped = mmap(nullptr, shared_arena + page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) std::abort();
        arena = static_cast<std::uint8_t *>(mapped);
        mprotect(arena + shared_arena, page_bytes, PROT_NONE);
    }
};

/// One host thread's share of a launch: the cluster that it runs now, of one CTA if the kernel
/// declares no cluster. The warps of its CTAs are stored consecutively.
struct Worker {
    Stacks stacks{max_threads};
    std::unique_ptr<Thread[]> threads{new Thread[max_threads]()};
    Warp warps[max_warps];
    Block block[cluster_blocks];
    std::unique_ptr<Arrivals[]> arrivals{new Arrivals[cluster_blocks]};
    /// The barrier of the whole cluster, and whether all threads have passed it once.
    Barrier together;
    bool met;
    /// The threads that wait at an mbarrier, and the address of that mbarrier. `lands` tells the
    /// next thread that it must land a copy.
    unsigned asleep[max_warps];
    const void *waits_at[max_threads];
    bool lands;
    /// A bit for each warp with a thread that is ready.
    std::uint64_t ready_warps;
    unsigned warp, left, yields;
    /// The threads and the warps per CTA, and the number of CTAs. `live` is the CTA whose static
    /// shared memory is at the kernel's address.
    unsigned size, block_warps, blocks, live;
    StaticShared statics;
    const Launch *launch;
    void *scheduler;
    bool shuffled, inside = false;
    std::uint64_t random;
    Failure failure;
    const void *fault = nullptr;

    unsigned draw() {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        return unsigned(random >> 32);
    }

    /// A set bit of `set`: the lowest, or a random one if the order is shuffled.
    template <class Bits> unsigned pick(Bits set) {
        constexpr unsigned width = 8 * sizeof(Bits);
        if (!shuffled) return unsigned(__builtin_ctzll(set));
        unsigned turn = draw() % width;
        Bits turned = set >> turn | set << (-turn & (width - 1));
        return (unsigned(__builtin_ctzll(turned)) + turn) % width;
    }

    void make_ready(unsigned warp, unsigned lanes) {
        if (!lanes) return;
        warps[warp].ready |= lanes;
        ready_warps |= std::uint64_t(1) << warp;
    }

    /// The lanes of a warp that wait at this mbarrier.
    unsigned sleepers(unsigned warp, const void *mbarrier) const {
        unsigned found = 0;
        for (unsigned lanes = asleep[warp]; lanes; lanes &= lanes - 1) {
            unsigned lane = unsigned(__builtin_ctz(lanes));
            found |= unsigned(waits_at[warp * warp_lanes + lane] == mbarrier) << lane;
        }
        return found;
    }

    /// A thread of block `rank` that waits at this mbarrier.
    Thread *sleeper(unsigned rank, const void *mbarrier) {
        for (unsigned w = rank * block_warps; w < (rank + 1) * block_warps; w++)
            if (unsigned lanes = sleepers(w, mbarrier)) return &threads[w * warp_lanes + pick(lanes)];
        return nullptr;
    }

    /// Wakes a thread that waits for an asynchronous copy and tells it to land the oldest one.
    Thread *next_to_land();

    /// The next thread to run, no longer marked ready; null if all wait.
    Thread *next() {
        if (!ready_warps) return next_to_land();
        // A copy lands as late as possible, but in a shuffled order sometimes early.
        if (shuffled && draw() % 64 == 0)
            if (Thread *early = next_to_land()) return early;
        if (shuffled || !(ready_warps >> warp & 1)) warp = pick(ready_warps);
        unsigned lane = pick(warps[warp].ready);
        warps[warp].ready &= ~(1u << lane);
        if (!warps[warp].ready) ready_warps &= ~(std::uint64_t(1) << warp);
        return &threads[warp * warp_lanes + lane];
    }

    /// Runs `to`, and saves the caller's place in `*from`.
    void switch_to(Thread *to, void **from) {
        if (to->rank != live) {
            std::memcpy(block[live].statics.data(), statics.start, statics.bytes);
            live = to->rank;
            std::memcpy(statics.start, block[live].statics.data(), statics.bytes);
        }
        emulated_cuda_current = to;
        emulated_cuda_switch(from, to->stack);
    }

    /// Runs other threads until one of them makes the current thread ready.
    void wait() {
        Thread *me = emulated_cuda_current, *to = next();
        if (!to) deadlock();
        if (to != me) switch_to(to, &me->stack);
    }

    /// Waits at an mbarrier until the waiting threads are woken; returns true if the current thread
    /// must land the copy that it waits for.
    bool sleep(const void *mbarrier) {
        const Thread &me = *emulated_cuda_current;
        waits_at[&me - &threads[0]] = mbarrier;
        asleep[me.warp] |= 1u << me.lane;
        wait();
        return std::exchange(lands, false);
    }

    void wake(unsigned rank, const void *mbarrier) {
        for (unsigned w = rank * block_warps; w < (rank + 1) * block_warps; w++) {
            unsigned lanes = sleepers(w, mbarrier);
            asleep[w] &= ~lanes;
            make_ready(w, lanes);
        }
    }

    /// Continues the current thread; in a shuffled order, others may run first.
    void go_on() {
        if (!shuffled) return;
        make_ready(emulated_cuda_current->warp, 1u << emulated_cuda_current->lane);
        wait();
    }

    /// Runs the next runnable thread in order, so that a polling thread lets all others run.
    void yield();

    /// Waits at `b` until `expected` threads have arrived, all of `count` warps from `first` on;
    /// returns the number of threads with a true `predicate`.
    unsigned meet(Barrier &b, unsigned expected, unsigned first, unsigned count, bool predicate);

    [[noreturn]] void deadlock();

    [[noreturn]] void abandon() {
        void *nowhere;
        emulated_cuda_switch(&nowhere, scheduler);
        __builtin_unreachable();
    }

    /// The current thread's indices, for a message.
    std::string place() const;

    void finish(Warp &w, unsigned slot) {
        Meeting &meeting = w.meetings[slot];
        w.open &= ~(1u << slot);
        meeting.collective(meeting.arguments, meeting.arrived);
    }

    /// Ends the current thread.
    [[noreturn]] void leave();

    /// Makes all threads of CTA `rank`, which is at `at` in the grid, ready to begin.
    void prepare(unsigned rank, Index at);
    /// Runs the cluster whose first CTA is at `first` in the grid.
    void run_cluster(Index first, std::uint64_t seed);
};

/// The worker of the calling host thread; null if it runs no CTAs. The initializer is constant, so
/// that accesses need no check for initialization.
extern constinit thread_local Worker *worker;

} // namespace emulated_cuda
