// The longer functions of Worker: starting a cluster of CTAs on a host thread, switching between
// its fibers, and ending them.

#include "worker.h"
#include <cstdio>

// Saves the six callee-saved registers, then switches the stack.
asm(R"(
.text
.globl emulated_cuda_switch
.type emulated_cuda_switch, @function
emulated_cuda_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
.globl emulated_cuda_resume
.type emulated_cuda_resume, @function
emulated_cuda_resume:
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

namespace emulated_cuda {

constinit thread_local Worker *worker = nullptr;

Thread *Worker::next_to_land() {
    Thread *found = nullptr;
    for (unsigned i = 0, turn = shuffled ? draw() % blocks : 0; i < blocks && !found; i++) {
        unsigned rank = (i + turn) % blocks;
        const Arrivals &to = arrivals[rank];
        for (unsigned k = 0; k < to.loads && !found; k++) found = sleeper(rank, to.load[k].barrier);
        for (unsigned k = 0; k < to.values && !found; k++)
            if (!k || to.sent[k].barrier != to.sent[k - 1].barrier) found = sleeper(rank, to.sent[k].barrier);
    }
    if (found) asleep[found->warp] &= ~(1u << found->lane), lands = true;
    return found;
}

void Worker::yield() {
    Thread *me = emulated_cuda_current, *to = nullptr;
    // All ready threads may be polling for the work of a thread that waits for a copy to land.
    if (!ready_warps || ++yields % (4 * max_threads) == 0) to = next_to_land();
    if (!to && !ready_warps) return;
    if (!to) {
        unsigned next = me->warp, lanes = warps[next].ready & ~1u << me->lane;
        std::uint64_t later = ready_warps & ~std::uint64_t(1) << next;
        if (!lanes) next = unsigned(__builtin_ctzll(later ? later : ready_warps)), lanes = warps[next].ready;
        to = &threads[next * warp_lanes + unsigned(__builtin_ctz(lanes))];
        warps[next].ready &= ~(1u << to->lane);
        if (!warps[next].ready) ready_warps &= ~(std::uint64_t(1) << next);
    }
    make_ready(me->warp, 1u << me->lane);
    switch_to(to, &me->stack);
}

unsigned Worker::meet(Barrier &b, unsigned expected, unsigned first, unsigned count, bool predicate) {
    const Thread &me = *emulated_cuda_current;
    b.expected = expected;
    b.predicates += predicate;
    b.waiting[me.warp] |= 1u << me.lane;
    if (++b.arrived < expected) {
        wait();
        return b.result;
    }
    b.result = b.predicates;
    b.arrived = b.predicates = 0;
    b.waiting[me.warp] &= ~(1u << me.lane);
    for (unsigned i = first; i < first + count; i++) make_ready(i, std::exchange(b.waiting[i], 0));
    go_on();
    return b.result;
}

void Worker::deadlock() {
    unsigned at_barriers = together.arrived, at_mbarriers = 0, at_collectives = 0;
    for (unsigned rank = 0; rank < blocks; rank++)
        for (const Barrier &b : block[rank].barrier) at_barriers += b.arrived;
    for (unsigned i = 0; i < blocks * block_warps; i++) at_mbarriers += unsigned(__builtin_popcount(asleep[i]));
    for (const Warp &w : warps)
        for (unsigned open = w.open; open; open &= open - 1)
            at_collectives += unsigned(__builtin_popcount(w.meetings[__builtin_ctz(open)].arrived));
    emulated_cuda_fail("deadlock: %u threads wait at barriers, %u at mbarriers and %u at collectives of their warps, "
                       "%u have left", at_barriers, at_mbarriers, at_collectives, left);
}

std::string Worker::place() const {
    const Thread &t = *emulated_cuda_current;
    char text[160];
    std::snprintf(text, sizeof text, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u): ", launch->name.c_str(), t.block.x,
                  t.block.y, t.block.z, t.thread.x, t.thread.y, t.thread.z);
    return text;
}

void Worker::leave() {
    const Thread &t = *emulated_cuda_current;
    Warp &w = warps[t.warp];
    Block &own = block[t.rank];
    const Arrivals &to_own = arrivals[t.rank];
    w.alive &= ~(1u << t.lane);
    left++;
    own.left++;
    if (own.barrier[0].arrived)
        emulated_cuda_fail("leaves while %u threads of the block wait at a barrier", own.barrier[0].arrived);
    if (together.arrived) emulated_cuda_fail("leaves while %u threads of the cluster wait at a barrier", together.arrived);
    if (t.stores) emulated_cuda_fail("leaves while %u boxes leave shared memory", t.stores);
    if (own.left == size && (to_own.loads || to_own.values))
        emulated_cuda_fail("ends its block while %u boxes and %u values are on their way to it", to_own.loads, to_own.values);
    // A collective does not wait for lanes that have exited.
    for (unsigned open = w.open; open; open &= open - 1) {
        unsigned slot = unsigned(__builtin_ctz(open));
        Meeting &meeting = w.meetings[slot];
        if ((meeting.mask & w.alive) == meeting.arrived) {
            finish(w, slot);
            make_ready(t.warp, meeting.arrived);
        }
    }
    Thread *to = next();
    if (!to && left < blocks * size) deadlock();
    if (!to) abandon();
    void *nowhere;
    switch_to(to, &nowhere);
    __builtin_unreachable();
}

namespace {

void thread_main() {
    const Launch &launch = *worker->launch;
    launch.kernel->invoke(const_cast<void **>(launch.arguments.data()));
    worker->leave();
}

} // namespace

void Worker::prepare(unsigned rank, Index at) {
    const Index &dims = launch->block;
    Block &own = block[rank];
    std::memset(own.barrier, 0, sizeof own.barrier);
    own.left = 0;
    if (blocks > 1) own.statics.assign(statics.bytes, 0xff);
    own.dynamic = own.arena + shared_arena - ((launch->dynamic_shared + 15) & ~15u);
    std::memset(own.dynamic, 0xff, launch->dynamic_shared);
    arrivals[rank].loads = arrivals[rank].values = 0;
    for (unsigned i = 0; i < size; i++) {
        unsigned place = rank * block_warps * warp_lanes + i;
        Thread &t = threads[place];
        t.stack = stacks.start(place, thread_main);
        t.thread = {i % dims.x, i / dims.x % dims.y, i / dims.x / dims.y};
        t.block = at, t.block_size = dims, t.grid_size = launch->grid;
        t.warp = place / warp_lanes, t.lane = i % warp_lanes;
        t.dynamic_shared = own.dynamic;
        t.rank = rank, t.arrivals = &arrivals[0];
        t.committed = t.copies = t.stores_committed = t.stores = t.wgmma_committed = t.wgmmas = 0;
    }
    for (unsigned i = 0; i < block_warps; i++) {
        unsigned lanes = size - i * warp_lanes;
        Warp &w = warps[rank * block_warps + i];
        w.alive = lanes < warp_lanes ? (1u << lanes) - 1 : ~0u;
        w.ready = w.open = asleep[rank * block_warps + i] = 0;
        make_ready(rank * block_warps + i, w.alive);
    }
}

void Worker::run_cluster(Index first, std::uint64_t seed) {
    const Index &dims = launch->block;
    size = dims.x * dims.y * dims.z, block_warps = (size + warp_lanes - 1) / warp_lanes, blocks = launch->kernel->cluster;
    left = 0, warp = 0, ready_warps = 0, yields = 0, live = 0, met = lands = false;
    random = seed * 0x9e3779b97f4a7c15 | 1;
    std::memset(&together, 0, sizeof together);
    statics = static_shared(*launch->module);
    std::memset(statics.start, 0xff, statics.bytes);
    for (unsigned rank = 0; rank < blocks; rank++) prepare(rank, {first.x + rank, first.y, first.z});
    inside = true;
    switch_to(next(), &scheduler);
    inside = false;
    if (fault) failure.sentence += describe_address(fault), fault = nullptr;
}

} // namespace emulated_cuda
