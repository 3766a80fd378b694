// Emulates kernels/sm90/ptx/barrier.cuh. A box, or a value from another CTA, lands as late as
// possible: when a thread waits for it and no other thread can run.
#pragma once

#include "sm90/ptx/box.cuh"

namespace emulated_cuda {

/// Loads and stores that are in flight to this thread's CTA.
inline Arrivals &arrivals() { return emulated_cuda_current->arrivals[emulated_cuda_current->rank]; }

/// Removes the oldest entry for `barrier` from a list; returns false if there is none.
template <class T> inline bool take_for(const void *barrier, T *list, unsigned &count, T &taken) {
    for (unsigned i = 0; i < count; i++) {
        if (list[i].barrier != barrier) continue;
        taken = list[i];
        count--;
        __builtin_memmove(list + i, list + i + 1, (count - i) * sizeof(T));
        return true;
    }
    return false;
}

/// Lands the oldest load or store in flight to `barrier`, boxes first; returns its bytes.
inline unsigned land(const void *barrier) {
    Arrivals &mine = arrivals();
    Load load;
    if (take_for(barrier, mine.load, mine.loads, load)) {
        const unsigned bytes = load.box.map.element_bytes;
        each_element(load.box, [bytes](char *in_shared, const char *in_tensor) {
            if (in_tensor) __builtin_memcpy(in_shared, in_tensor, bytes);
            else __builtin_memset(in_shared, 0, bytes);
        });
        return bytes_of(load.box.map);
    }
    Sent sent;
    if (!take_for(barrier, mine.sent, mine.values, sent)) return 0;
    *sent.place = sent.value;
    return sizeof sent.value;
}

} // namespace emulated_cuda

struct Barrier {
    unsigned short pending, count;
    // The expected bytes that have not landed minus those that landed before they were expected.
    // The lowest bit is the phase.
    int phased_bytes;

    void init(unsigned threads) {
        pending = count = (unsigned short)threads, phased_bytes = 0;
    }
    void arrive() { arrive_remote<1>(emulated_cuda_current->rank); }
    template <unsigned Ctas> void arrive_remote(unsigned rank) {
        const emulated_cuda::Mapped at = emulated_cuda_mapped(this, sizeof *this, rank);
        if (static_cast<Barrier *>(at.here)->add(0, true)) emulated_cuda_wake(at.there, rank);
    }
    void arrive_expect_tx(unsigned bytes) {
        if (add(int(bytes), true)) emulated_cuda_wake(this, emulated_cuda_current->rank);
    }
    /// True if this call completes the phase.
    bool add(int bytes, bool arrives) {
        // Fresh shared memory is all ones.
        if (count == 0xffff) emulated_cuda_fail("an mbarrier that nobody has initialised");
        if (arrives && !pending--) emulated_cuda_fail("an mbarrier for %u threads: one more arrived", count);
        phased_bytes += bytes * 2;
        if (pending != 0 || phased_bytes >> 1 != 0) return false;
        return pending = count, phased_bytes ^= 1, true;
    }
    bool passed(unsigned parity) const { return unsigned(phased_bytes & 1) != parity; }
    void wait(unsigned parity) {
        using namespace emulated_cuda;
        while (!passed(parity))
            if (emulated_cuda_sleep(this) && add(-int(land(this)), false)) emulated_cuda_wake(this, emulated_cuda_current->rank);
    }
};
static_assert(sizeof(Barrier) == 8, "an mbarrier's size");

inline void fence_barrier_init() {}
inline void fence_proxy_async() {}

enum NamedBarrier : unsigned { CONSUMER_BARRIER = 1, CONSUMERS_BARRIER = 7 };

inline void named_barrier_sync(unsigned id, unsigned threads) { emulated_cuda_barrier(id, threads, false); }
inline bool named_barrier_or(unsigned id, unsigned threads, bool predicate) {
    return emulated_cuda_barrier(id, threads, predicate) != 0;
}
