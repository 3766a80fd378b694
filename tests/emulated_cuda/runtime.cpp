// The functions that kernels call: the driver's side of runtime.h, which checks the arguments
// before the worker acts, and the handlers of the compiler's sanitizer.

#include "runtime.h"
#include "worker.h"
#include <cstdarg>
#include <cstdio>

using namespace emulated_cuda;

namespace {

/// A source location, as the sanitizer passes it.
struct SourcePlace {
    const char *file;
    unsigned line, column;
};

} // namespace

__thread Thread *emulated_cuda_current __attribute__((tls_model("initial-exec")));

unsigned emulated_cuda_barrier(unsigned id, unsigned threads, bool predicate) {
    Worker &w = *worker;
    unsigned rank = emulated_cuda_current->rank;
    Block &own = w.block[rank];
    if (id >= barriers || threads % warp_lanes || threads > w.size)
        emulated_cuda_fail("there is no barrier %u for %u threads", id, threads);
    if (!threads && own.left) emulated_cuda_fail("waits at a barrier that %u threads of the block left without", own.left);
    unsigned expected = threads ? threads : w.size;
    Barrier &b = own.barrier[id];
    if (b.arrived && b.expected != expected)
        emulated_cuda_fail("waits at barrier %u for %u threads, others for %u", id, expected, b.expected);
    return w.meet(b, expected, rank * w.block_warps, w.block_warps, predicate);
}

void emulated_cuda_cluster_barrier(unsigned blocks) {
    Worker &w = *worker;
    if (blocks != w.blocks) emulated_cuda_fail("waits for a cluster of %u blocks in one of %u", blocks, w.blocks);
    if (w.left) emulated_cuda_fail("waits at a barrier that %u threads of the cluster left without", w.left);
    w.meet(w.together, blocks * w.size, 0, blocks * w.block_warps, false);
    w.met = true;
}

bool emulated_cuda_sleep(const void *mbarrier) { return worker->sleep(mbarrier); }

void emulated_cuda_wake(const void *mbarrier, unsigned rank) { worker->wake(rank, mbarrier); }

Mapped emulated_cuda_mapped(const void *local, unsigned bytes, unsigned rank) {
    Worker &w = *worker;
    unsigned mine = emulated_cuda_current->rank;
    if (rank >= w.blocks) emulated_cuda_fail("reaches into block %u of a cluster of %u", rank, w.blocks);
    auto address = reinterpret_cast<std::uintptr_t>(local);
    std::size_t in_static = address - reinterpret_cast<std::uintptr_t>(w.statics.start);
    std::size_t in_dynamic = address - reinterpret_cast<std::uintptr_t>(w.block[mine].dynamic);
    bool is_static = in_static < w.statics.bytes && bytes <= w.statics.bytes - in_static;
    bool is_dynamic = in_dynamic < w.launch->dynamic_shared && bytes <= w.launch->dynamic_shared - in_dynamic;
    if (!is_static && !is_dynamic) emulated_cuda_fail("maps %u bytes at %p, which are not in shared memory", bytes, local);
    Block &other = w.block[rank];
    // The other CTA may not have started before that, and its memory ends with it.
    if (rank != mine && !w.met) emulated_cuda_fail("reaches into block %u before a barrier of the cluster", rank);
    if (other.left == w.size) emulated_cuda_fail("reaches into block %u of the cluster, which has ended", rank);
    if (is_dynamic) return {other.dynamic + in_dynamic, other.dynamic + in_dynamic};
    void *there = const_cast<void *>(local);
    return {there, rank == mine ? there : other.statics.data() + in_static};
}

void emulated_cuda_collective(unsigned mask, Collective collective, void *argument) {
    Worker &cluster = *worker;
    const Thread &me = *emulated_cuda_current;
    Warp &w = cluster.warps[me.warp];
    if (!(mask >> me.lane & 1)) emulated_cuda_fail("is not in the mask %08x of its own collective", mask);
    unsigned slot = 32;
    for (unsigned open = w.open; open; open &= open - 1) {
        unsigned i = unsigned(__builtin_ctz(open));
        const Meeting &other = w.meetings[i];
        if (!(other.mask & mask)) continue;
        if (other.mask != mask || other.collective != collective)
            emulated_cuda_fail("comes to a collective of lanes %08x while others of its warp are at %s one of lanes %08x",
                               mask, other.collective == collective ? "the same" : "another", other.mask);
        slot = i;
    }
    if (slot == 32) {
        slot = unsigned(__builtin_ctz(~w.open));
        w.open |= 1u << slot;
        w.meetings[slot].collective = collective;
        w.meetings[slot].mask = mask;
        w.meetings[slot].arrived = 0;
    }
    Meeting &meeting = w.meetings[slot];
    meeting.arguments[me.lane] = argument;
    meeting.arrived |= 1u << me.lane;
    if (meeting.arrived != (mask & w.alive)) return cluster.wait();
    cluster.finish(w, slot);
    cluster.make_ready(me.warp, meeting.arrived & ~(1u << me.lane));
    cluster.go_on();
}

unsigned emulated_cuda_lanes() { return worker->warps[emulated_cuda_current->warp].alive; }

void emulated_cuda_yield() { worker->yield(); }

void emulated_cuda_fail(const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    int code = std::strstr(text, "assertion") ? assertion : launch_failed;
    worker->failure = {code, worker->place() + text};
    worker->abandon();
}

// The compiler's undefined behaviour checks (-fsanitize) call these. Their arguments start with the
// source location.
#define EMULATED_CUDA_CHECK(name, words)                                                                              \
    extern "C" __attribute__((visibility("default"))) void __ubsan_handle_##name##_abort(const SourcePlace *at) {     \
        emulated_cuda_fail("%s:%u:%u: %s", at->file, at->line, at->column, words);                                    \
    }
EMULATED_CUDA_CHECK(type_mismatch_v1, "a misaligned access, or one through a null pointer")
EMULATED_CUDA_CHECK(out_of_bounds, "an index past the end of its array")
EMULATED_CUDA_CHECK(shift_out_of_bounds, "a shift by more bits than there are")
EMULATED_CUDA_CHECK(divrem_overflow, "a division by zero")
EMULATED_CUDA_CHECK(add_overflow, "signed overflow in an addition")
EMULATED_CUDA_CHECK(sub_overflow, "signed overflow in a subtraction")
EMULATED_CUDA_CHECK(mul_overflow, "signed overflow in a product")
EMULATED_CUDA_CHECK(negate_overflow, "signed overflow in a negation")
