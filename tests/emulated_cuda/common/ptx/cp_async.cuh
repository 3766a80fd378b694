// Emulates kernels/common/ptx/cp_async.cuh.
#pragma once

namespace emulated_cuda {

/// Completes the copies of all groups before `group`.
inline void land_copies(unsigned group) {
    Thread &thread = *emulated_cuda_current;
    unsigned landed = 0;
    for (; landed < thread.copies && thread.copy[landed].group < group; landed++) {
        const Copy &copy = thread.copy[landed];
        __builtin_memcpy(copy.to, copy.from, copy.bytes);
        __builtin_memset(static_cast<char *>(copy.to) + copy.bytes, 0, 16 - copy.bytes);
    }
    thread.copies -= landed;
    __builtin_memmove(thread.copy, thread.copy + landed, thread.copies * sizeof(Copy));
}

} // namespace emulated_cuda

/// A copy lands as late as the ISA allows, at the wait that covers it. Until then its destination
/// is poisoned.
inline void cp_async_16(void *to, const void *from, int bytes = 16) {
    emulated_cuda::Thread &thread = *emulated_cuda_current;
    if (bytes < 0 || bytes > 16) emulated_cuda_fail("cp.async of %d of 16 bytes", bytes);
    if (reinterpret_cast<emulated_cuda::Size>(to) % 16 || (bytes && reinterpret_cast<emulated_cuda::Size>(from) % 16))
        emulated_cuda_fail("cp.async from %p to %p, which are not aligned to 16 bytes", from, to);
    if (thread.copies == sizeof thread.copy / sizeof *thread.copy)
        emulated_cuda_fail("cp.async: more than %u copies of a thread in flight", thread.copies);
    __builtin_memset(to, 0xff, 16);
    thread.copy[thread.copies++] = {to, from, unsigned(bytes), thread.committed};
}
inline void cp_async_commit() { emulated_cuda_current->committed++; }
template <int Pending> inline void cp_async_wait() {
    unsigned committed = emulated_cuda_current->committed;
    emulated_cuda::land_copies(committed < Pending ? 0 : committed - Pending);
}
