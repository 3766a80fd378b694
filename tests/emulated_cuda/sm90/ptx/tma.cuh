// Emulates kernels/sm90/ptx/tma.cuh. A load lands when a thread waits for its barrier, a store at
// the wait that covers it.
#pragma once

#include "sm90/ptx/barrier.cuh"

namespace emulated_cuda {

template <class... At> inline void tma_load_to(unsigned rank, void *to, const TensorMap &map, Barrier &barrier, At... at) {
    const Mapped place = emulated_cuda_mapped(to, bytes_of(map), rank);
    Arrivals &its = emulated_cuda_current->arrivals[rank];
    if (its.loads == sizeof its.load / sizeof *its.load) emulated_cuda_fail("more than %u boxes in flight", its.loads);
    const Box box = box_at(place.there, map, at...);
    for (unsigned i = 0; i < its.loads; i++) {
        const Box &other = its.load[i].box;
        if (box.in_shared < other.in_shared + bytes_of(other.map) && other.in_shared < box.in_shared + bytes_of(map))
            emulated_cuda_fail("loads a box to where another one is in flight");
    }
    its.load[its.loads++] = {box, emulated_cuda_mapped(&barrier, sizeof barrier, rank).there};
    __builtin_memset(place.here, 0xff, bytes_of(map));
}

} // namespace emulated_cuda

template <class... At> inline void tma_load(void *to, const TensorMap &map, Barrier &barrier, At... at) {
    emulated_cuda::tma_load_to(emulated_cuda_current->rank, to, map, barrier, at...);
}
template <class... At> inline void tma_load_multicast(void *to, const TensorMap &map, Barrier &barrier, At... at) {
    for (unsigned rank = 0; rank < 2; rank++) emulated_cuda::tma_load_to(rank, to, map, barrier, at...);
}

template <class... At> inline void tma_store(const TensorMap &map, const void *from, At... at) {
    using namespace emulated_cuda;
    Thread &mine = *emulated_cuda_current;
    if (mine.stores == sizeof mine.store / sizeof *mine.store) emulated_cuda_fail("more than %u boxes on their way out", mine.stores);
    mine.store[mine.stores++] = {box_at(from, map, at...), mine.stores_committed};
}
inline void tma_store_commit() { emulated_cuda_current->stores_committed++; }
template <int Pending> inline void tma_store_wait() {
    using namespace emulated_cuda;
    Thread &mine = *emulated_cuda_current;
    unsigned landed = 0;
    for (; landed < mine.stores && mine.store[landed].group + Pending < mine.stores_committed; landed++) {
        const Box &box = mine.store[landed].box;
        each_element(box, [bytes = box.map.element_bytes](const char *in_shared, char *in_tensor) {
            if (in_tensor) __builtin_memcpy(in_tensor, in_shared, bytes);
        });
    }
    mine.stores -= landed;
    __builtin_memmove(mine.store, mine.store + landed, mine.stores * sizeof(Store));
}
