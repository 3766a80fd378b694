// Emulates kernels/sm90/ptx/cluster.cuh.
#pragma once

#include "sm90/ptx/barrier.cuh"

inline unsigned cluster_rank() { return emulated_cuda_current->rank; }
template <unsigned Ctas> inline void cluster_sync() {
    if (Ctas == 1) __syncthreads();
    else emulated_cuda_cluster_barrier(Ctas);
}

inline void st_async(float *to, float value, Barrier &barrier, unsigned rank) {
    using namespace emulated_cuda;
    const Mapped mapped = emulated_cuda_mapped(to, sizeof value, rank);
    Arrivals &its = emulated_cuda_current->arrivals[rank];
    if (its.values == sizeof its.sent / sizeof *its.sent) emulated_cuda_fail("more than %u values in flight", its.values);
    for (unsigned i = 0; i < its.values; i++)
        if (its.sent[i].place == mapped.there) emulated_cuda_fail("stores a value to where another one is in flight");
    its.sent[its.values++] = {static_cast<float *>(mapped.there), value, emulated_cuda_mapped(&barrier, sizeof barrier, rank).there};
    *static_cast<float *>(mapped.here) = poison<float>();
}
