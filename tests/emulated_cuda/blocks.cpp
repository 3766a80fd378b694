// A block is a set of fibers on one host thread. A thread runs until it has to wait for others; whoever makes a wait
// end marks its threads ready. When nobody is ready and somebody waits, the kernel is wrong, and the launch says so.

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

constexpr unsigned max_threads = 1024, warp_lanes = 32, max_warps = max_threads / warp_lanes, barriers = 16;
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

/// One host thread's share of a launch: the block that it runs now.
struct Worker {
    Stacks stacks{max_threads};
    std::unique_ptr<Thread[]> threads{new Thread[max_threads]()};
    std::uint8_t *shared;
    Warp warps[max_warps];
    Barrier barrier[barriers];
    unsigned ready_warps, warp, size, left;
    const Launch *launch;
    void *scheduler;
    bool shuffled, inside = false;
    std::uint64_t random;
    Failure failure;
    const void *fault = nullptr;

    Worker() {
        void *mapped = mmap(nullptr, shared_arena + page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) std::abort();
        shared = static_cast<std::uint8_t *>(mapped);
        mprotect(shared + shared_arena, page_bytes, PROT_NONE);
    }

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

    /// The next thread to run, no longer marked ready; none where all wait.
    Thread *next() {
        if (!ready_warps) return nullptr;
        if (shuffled || !(ready_warps >> warp & 1)) warp = pick(ready_warps);
        unsigned lane = pick(warps[warp].ready);
        warps[warp].ready &= ~(1u << lane);
        if (!warps[warp].ready) ready_warps &= ~(1u << warp);
        return &threads[warp * warp_lanes + lane];
    }

    /// Runs others until somebody makes the current thread ready.
    void wait() {
        Thread *me = emulated_cuda_current, *to = next();
        if (!to) deadlock();
        if (to == me) return;
        emulated_cuda_current = to;
        emulated_cuda_switch(&me->stack, to->stack);
    }

    /// The current thread may go on; where the order is shuffled, others may come first.
    void go_on() {
        if (!shuffled) return;
        make_ready(emulated_cuda_current->warp, 1u << emulated_cuda_current->lane);
        wait();
    }

    /// Runs the next thread in order that can, so that one which asks again and again for something lets all others run.
    void yield() {
        unsigned total = (size + warp_lanes - 1) / warp_lanes * warp_lanes, mine = unsigned(emulated_cuda_current - &threads[0]);
        for (unsigned i = 1; i < total; i++) {
            unsigned other = (mine + i) % total, lane = 1u << other % warp_lanes;
            Warp &w = warps[other / warp_lanes];
            if (!(w.ready & lane)) continue;
            if (!(w.ready &= ~lane)) ready_warps &= ~(1u << other / warp_lanes);
            Thread *me = emulated_cuda_current;
            make_ready(me->warp, 1u << me->lane);
            emulated_cuda_current = &threads[other];
            emulated_cuda_switch(&me->stack, threads[other].stack);
            return;
        }
    }

    [[noreturn]] void deadlock() {
        unsigned at_barriers = 0, at_collectives = 0;
        for (const Barrier &b : barrier) at_barriers += b.arrived;
        for (const Warp &w : warps)
            for (unsigned open = w.open; open; open &= open - 1)
                at_collectives += unsigned(__builtin_popcount(w.meetings[__builtin_ctz(open)].arrived));
        emulated_cuda_fail("deadlock: %u threads wait at barriers and %u at collectives of their warps, %u have left",
                           at_barriers, at_collectives, left);
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
        w.alive &= ~(1u << t.lane);
        left++;
        if (barrier[0].arrived)
            emulated_cuda_fail("leaves while %u threads of the block wait at a barrier", barrier[0].arrived);
        if (t.stores) emulated_cuda_fail("leaves while %u boxes leave shared memory", t.stores);
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
        if (!to && left < size) deadlock();
        if (!to) abandon();
        emulated_cuda_current = to;
        void *nowhere;
        emulated_cuda_switch(&nowhere, to->stack);
        __builtin_unreachable();
    }

    void run_block(Index block, std::uint64_t seed);
};

thread_local Worker *worker;

void thread_main() {
    const Launch &launch = *worker->launch;
    launch.kernel->invoke(const_cast<void **>(launch.arguments.data()));
    worker->leave();
}

void Worker::run_block(Index block, std::uint64_t seed) {
    const Index &dims = launch->block;
    size = dims.x * dims.y * dims.z, left = 0, warp = 0, ready_warps = 0;
    random = seed * 0x9e3779b97f4a7c15 | 1;
    std::memset(barrier, 0, sizeof barrier);
    StaticShared statics = static_shared(*launch->module);
    std::memset(statics.start, 0xff, statics.bytes);
    void *dynamic = shared + shared_arena - ((launch->dynamic_shared + 15) & ~15u);
    std::memset(dynamic, 0xff, launch->dynamic_shared);
    for (unsigned i = 0; i < size; i++) {
        Thread &t = threads[i];
        t.stack = stacks.start(i, thread_main);
        t.thread = {i % dims.x, i / dims.x % dims.y, i / dims.x / dims.y};
        t.block = block, t.block_size = dims, t.grid_size = launch->grid;
        t.warp = i / warp_lanes, t.lane = i % warp_lanes;
        t.dynamic_shared = dynamic;
        t.committed = t.copies = t.stores_committed = t.stores = t.wgmma_committed = t.wgmmas = 0;
    }
    for (unsigned i = 0; i * warp_lanes < size; i++) {
        unsigned lanes = size - i * warp_lanes;
        warps[i].alive = lanes < warp_lanes ? (1u << lanes) - 1 : ~0u;
        warps[i].ready = warps[i].open = 0;
        make_ready(i, warps[i].alive);
    }
    emulated_cuda_current = next();
    inside = true;
    emulated_cuda_switch(&scheduler, emulated_cuda_current->stack);
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

/// The host threads that run blocks, for as long as the process lives.
class Cores {
    std::mutex mutex;
    std::condition_variable wake, done;
    const Launch *launch = nullptr;
    std::uint64_t launches = 0, blocks = 0, first = 0, step = 1, seed = 0;
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
            for (std::uint64_t i; (i = taken++) < blocks;) {
                std::uint64_t at = (first + i * step) % blocks;
                const Index &grid = launch->grid;
                worker->run_block({unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y)},
                                  seed + launches * 0x10001 + at);
                if (worker->failure.code) taken = blocks;
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
        blocks = std::uint64_t(next.grid.x) * next.grid.y * next.grid.z;
        if (shuffled) {
            first = (seed + launches) * 0x9e3779b97f4a7c15 % blocks;
            step = first % blocks | 1;
            while (std::gcd(step, blocks) != 1) step += 2;
        }
        wanted = running = unsigned(std::min<std::uint64_t>(blocks, count));
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
    const Thread &me = *emulated_cuda_current;
    if (id >= barriers || threads % warp_lanes || threads > w.size)
        emulated_cuda_fail("there is no barrier %u for %u threads", id, threads);
    if (!threads && w.left) emulated_cuda_fail("waits at a barrier that %u threads of the block left without", w.left);
    unsigned expected = threads ? threads : w.size;
    Barrier &b = w.barrier[id];
    if (b.arrived && b.expected != expected)
        emulated_cuda_fail("waits at barrier %u for %u threads, others for %u", id, expected, b.expected);
    b.expected = expected;
    b.predicates += predicate;
    b.waiting[me.warp] |= 1u << me.lane;
    if (++b.arrived < expected) {
        w.wait();
        return b.result;
    }
    b.result = b.predicates;
    b.arrived = b.predicates = 0;
    b.waiting[me.warp] &= ~(1u << me.lane);
    for (unsigned i = 0; i * warp_lanes < w.size; i++) w.make_ready(i, std::exchange(b.waiting[i], 0));
    w.go_on();
    return b.result;
}

void emulated_cuda_collective(unsigned mask, Collective collective, void *argument) {
    Worker &block = *worker;
    const Thread &me = *emulated_cuda_current;
    Warp &w = block.warps[me.warp];
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
    if (meeting.arrived != (mask & w.alive)) return block.wait();
    block.finish(w, slot);
    block.make_ready(me.warp, meeting.arrived & ~(1u << me.lane));
    block.go_on();
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
