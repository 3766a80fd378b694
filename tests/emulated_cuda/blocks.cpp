// Runs the clusters of a launch on all cores, and turns a CPU fault in a kernel into the failure of
// its launch.

#include "worker.h"
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <mutex>
#include <numeric>
#include <thread>
#include <ucontext.h>

namespace emulated_cuda {
namespace {

// ---- CPU faults -----------------------------------------------------------------------------------

struct sigaction previous[65];

/// A fault inside a kernel ends its launch; any other fault goes to the previous handler.
void on_fault(int signal, siginfo_t *info, void *context) {
    if (!worker || !worker->inside) {
        sigaction(signal, &previous[signal], nullptr);
        return;
    }
    auto &registers = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
    // The CPU gives no address for one that is non-canonical, or misaligned for a vector.
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

// ---- the cores ----------------------------------------------------------------------------------

/// The host threads that run clusters, for the lifetime of the process.
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
    // The pool is never destroyed: its threads may outlive everything else in the process.
    static Cores &cores = *new Cores;
    return cores.run(launch);
}

} // namespace emulated_cuda
