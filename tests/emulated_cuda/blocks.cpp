// A block is a set of fibers on one host thread, and so is a cluster of blocks. A thread runs until it has to wait for others;
// whoever makes a wait end marks its threads ready. When nobody is ready and somebody waits, the kernel is wrong, and the launch
// says so.

#include "blocks.h"
#include "fibers.h"
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <ucontext.h>
#include <utility>

__thread emulated_cuda::Thread *emulated_cuda_current __attribute__((tls_model("initial-exec")));

// The six registers that a function must preserve, then the stack.
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
namespace {

// The driver's codes for what a kernel can do wrong.
constexpr int illegal_address = 700, assertion = 710, misaligned_address = 716, launch_failed = 719;

constexpr unsigned max_threads = cluster_threads, warp_lanes = 32, max_warps = max_threads / warp_lanes, barriers = 16;
constexpr std::size_t shared_arena = 256 << 10;

/// A collective that some lanes of a warp have come to.
struct Meeting {
    Collective collective;
    unsigned mask, arrived;
    void *arguments[warp_lanes];
};

struct Warp {
    unsigned alive, ready;
    /// Which of `meetings` are under way.
    unsigned open;
    Meeting meetings[warp_lanes];
};

struct Barrier {
    unsigned expected, arrived, predicates, result;
    unsigned waiting[max_warps];
};

/// What a block of a cluster has for itself.
struct Block {
    /// Dynamic shared memory, which ends with the arena, behind which a page is closed.
    std::uint8_t *arena, *dynamic;
    /// Static shared memory, while that of another block is where the kernel has it.
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

/// One host thread's share of a launch: the cluster that it runs now, of one block where the kernel knows of none. The warps of
/// its blocks stand behind each other.
struct Worker {
    Stacks stacks{max_threads};
    std::unique_ptr<Thread[]> threads{new Thread[max_threads]()};
    Warp warps[max_warps];
    Block block[cluster_blocks];
    std::unique_ptr<Arrivals[]> arrivals{new Arrivals[cluster_blocks]};
    /// The barrier of the whole cluster, and whether all have once come to it.
    Barrier together;
    bool met;
    /// Threads that wait at an mbarrier, and which one; and whether the next one to run is to land what it waits for.
    unsigned asleep[max_warps];
    const void *waits_at[max_threads];
    bool lands;
    unsigned ready_warps, warp, left, yields;
    /// The threads and the warps of a block, and the blocks; and the block whose static shared memory is in its place.
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

    /// A set bit of `set`: the lowest, or any where the order is shuffled.
    unsigned pick(unsigned set) {
        if (!shuffled) return unsigned(__builtin_ctz(set));
        unsigned turn = draw() % 32, turned = set >> turn | set << (-turn & 31);
        return (unsigned(__builtin_ctz(turned)) + turn) % 32;
    }

    void make_ready(unsigned warp, unsigned lanes) {
        if (!lanes) return;
        warps[warp].ready |= lanes;
        ready_warps |= 1u << warp;
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

    /// A thread that waits for what is on its way, no longer asleep: it is to land the oldest of that.
    Thread *next_to_land() {
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

    /// The next thread to run, no longer marked ready; none where all wait.
    Thread *next() {
        if (!ready_warps) return next_to_land();
        // As late as it may, but in a shuffled order sometimes early.
        if (shuffled && draw() % 64 == 0)
            if (Thread *early = next_to_land()) return early;
        if (shuffled || !(ready_warps >> warp & 1)) warp = pick(ready_warps);
        unsigned lane = pick(warps[warp].ready);
        warps[warp].ready &= ~(1u << lane);
        if (!warps[warp].ready) ready_warps &= ~(1u << warp);
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

    /// Runs others until somebody makes the current thread ready.
    void wait() {
        Thread *me = emulated_cuda_current, *to = next();
        if (!to) deadlock();
        if (to != me) switch_to(to, &me->stack);
    }

    /// Waits at an mbarrier until somebody wakes those who do; true where the current thread is to land what it waits for.
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

    /// The current thread may go on; where the order is shuffled, others may come first.
    void go_on() {
        if (!shuffled) return;
        make_ready(emulated_cuda_current->warp, 1u << emulated_cuda_current->lane);
        wait();
    }

    /// Runs the next thread in order that can, so that one which asks again and again for something lets all others run.
    void yield() {
        Thread *me = emulated_cuda_current, *to = nullptr;
        // What all those ask for may come from a thread that waits for what is on its way.
        if (!ready_warps || ++yields % (4 * max_threads) == 0) to = next_to_land();
        if (!to && !ready_warps) return;
        if (!to) {
            unsigned next = me->warp, lanes = warps[next].ready & ~1u << me->lane, later = ready_warps & ~1u << next;
            if (!lanes) next = unsigned(__builtin_ctz(later ? later : ready_warps)), lanes = warps[next].ready;
            to = &threads[next * warp_lanes + unsigned(__builtin_ctz(lanes))];
            warps[next].ready &= ~(1u << to->lane);
            if (!warps[next].ready) ready_warps &= ~(1u << next);
        }
        make_ready(me->warp, 1u << me->lane);
        switch_to(to, &me->stack);
    }

    /// Waits at `b` until `expected` threads have come, all of `count` warps from `first` on; returns how many brought `predicate`.
    unsigned meet(Barrier &b, unsigned expected, unsigned first, unsigned count, bool predicate) {
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

    [[noreturn]] void deadlock() {
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

    [[noreturn]] void abandon() {
        void *nowhere;
        emulated_cuda_switch(&nowhere, scheduler);
        __builtin_unreachable();
    }

    /// Where the current thread stands, for a sentence.
    std::string place() const {
        const Thread &t = *emulated_cuda_current;
        char text[160];
        std::snprintf(text, sizeof text, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u): ", launch->name.c_str(), t.block.x,
                      t.block.y, t.block.z, t.thread.x, t.thread.y, t.thread.z);
        return text;
    }

    void finish(Warp &w, unsigned slot) {
        Meeting &meeting = w.meetings[slot];
        w.open &= ~(1u << slot);
        meeting.collective(meeting.arguments, meeting.arrived);
    }

    /// The end of the current thread.
    [[noreturn]] void leave() {
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
        // A collective does not wait for lanes that have left.
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

    void prepare(unsigned rank, Index at);
    void run_cluster(Index first, std::uint64_t seed);
};

thread_local Worker *worker;

void thread_main() {
    const Launch &launch = *worker->launch;
    launch.kernel->invoke(const_cast<void **>(launch.arguments.data()));
    worker->leave();
}

/// Has all threads of block `rank`, which is at `at` in the grid, ready to begin.
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

/// Runs the cluster whose first block is at `first` in the grid.
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

// ---- what the processor refuses --------------------------------------------------------------------------------

struct sigaction previous[65];

/// A fault inside a kernel ends its launch; any other goes to whoever handled it before.
void on_fault(int signal, siginfo_t *info, void *context) {
    if (!worker || !worker->inside) {
        sigaction(signal, &previous[signal], nullptr);
        return;
    }
    auto &registers = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
    // The processor gives no address where one is not canonical or not aligned for a vector.
    bool general = signal == SIGSEGV && info->si_code == SI_KERNEL;
    const char *verb = registers[REG_ERR] & 2 ? "writes to " : "reads from ";
    if (general) worker->failure = {misaligned_address, worker->place() + "a misaligned or impossible address"};
    else if (signal == SIGSEGV || signal == SIGBUS) {
        worker->failure = {illegal_address, worker->place() + verb};
        worker->fault = info->si_addr ? info->si_addr : reinterpret_cast<void *>(1);
    } else worker->failure = {launch_failed, worker->place() + strsignal(signal)};
    registers[REG_RSP] = reinterpret_cast<greg_t>(worker->scheduler);
    registers[REG_RIP] = reinterpret_cast<greg_t>(emulated_cuda_resume);
}

void handle_faults() {
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigaction(signal, &action, &previous[signal]);
}

// ---- the cores -------------------------------------------------------------------------------------------------

/// The host threads that run clusters of blocks, for as long as the process lives.
class Cores {
    std::mutex mutex;
    std::condition_variable wake, done;
    const Launch *launch = nullptr;
    std::uint64_t launches = 0, clusters = 0, first = 0, step = 1, seed = 0;
    std::atomic<std::uint64_t> taken{0};
    unsigned count, wanted = 0, running = 0;
    bool shuffled = false;
    Failure failure;

    void serve() {
        stack_t alternative{std::malloc(64 << 10), 0, 64 << 10};
        sigaltstack(&alternative, nullptr);
        worker = new Worker;
        std::unique_lock lock(mutex);
        for (;;) {
            wake.wait(lock, [this] { return wanted != 0; });
            wanted--;
            worker->launch = launch, worker->shuffled = shuffled;
            lock.unlock();
            for (std::uint64_t i; (i = taken++) < clusters;) {
                std::uint64_t at = (first + i * step) % clusters;
                const unsigned wide = launch->kernel->cluster, x = launch->grid.x / wide, y = launch->grid.y;
                worker->run_cluster({unsigned(at % x) * wide, unsigned(at / x % y), unsigned(at / x / y)},
                                    seed + launches * 0x10001 + at);
                if (worker->failure.code) taken = clusters;
            }
            lock.lock();
            if (worker->failure.code && !failure.code) failure = worker->failure;
            worker->failure = {};
            if (--running == 0) done.notify_one();
        }
    }

  public:
    Cores() : count(std::max(1u, std::thread::hardware_concurrency())) {
        handle_faults();
        if (const char *text = std::getenv("EMULATED_CUDA_SEED")) shuffled = true, seed = std::strtoull(text, nullptr, 10);
        for (unsigned i = 0; i < count; i++) std::thread(&Cores::serve, this).detach();
    }

    Failure run(const Launch &next) {
        std::unique_lock lock(mutex);
        launch = &next, launches++, taken = 0;
        clusters = std::uint64_t(next.grid.x / next.kernel->cluster) * next.grid.y * next.grid.z;
        if (shuffled) {
            first = (seed + launches) * 0x9e3779b97f4a7c15 % clusters;
            step = first % clusters | 1;
            while (std::gcd(step, clusters) != 1) step += 2;
        }
        wanted = running = unsigned(std::min<std::uint64_t>(clusters, count));
        wake.notify_all();
        done.wait(lock, [this] { return running == 0; });
        return std::exchange(failure, {});
    }
};

} // namespace

Failure run(const Launch &launch) {
    // Never destroyed: its threads may outlive everything else in the process.
    static Cores &cores = *new Cores;
    return cores.run(launch);
}

} // namespace emulated_cuda

// ---- what kernels call -----------------------------------------------------------------------------------------

using namespace emulated_cuda;

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
    // A block may not have begun before that, and its memory goes with it.
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

// The compiler's checks for undefined behaviour (-fsanitize) call these; all they are given starts with the place.
#define EMULATED_CUDA_CHECK(name, words)                                                                              \
    extern "C" __attribute__((visibility("default"))) void __ubsan_handle_##name##_abort(const SourcePlace *at) {                                            \
        emulated_cuda_fail("%s:%u:%u: %s", at->file, at->line, at->column, words);                                    \
    }
namespace {
struct SourcePlace {
    const char *file;
    unsigned line, column;
};
} // namespace
EMULATED_CUDA_CHECK(type_mismatch_v1, "a misaligned access, or one through a null pointer")
EMULATED_CUDA_CHECK(out_of_bounds, "an index past the end of its array")
EMULATED_CUDA_CHECK(shift_out_of_bounds, "a shift by more bits than there are")
EMULATED_CUDA_CHECK(divrem_overflow, "a division by zero")
EMULATED_CUDA_CHECK(add_overflow, "signed overflow in an addition")
EMULATED_CUDA_CHECK(sub_overflow, "signed overflow in a subtraction")
EMULATED_CUDA_CHECK(mul_overflow, "signed overflow in a product")
EMULATED_CUDA_CHECK(negate_overflow, "signed overflow in a negation")
