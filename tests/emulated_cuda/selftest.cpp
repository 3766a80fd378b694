// Tests the emulated CUDA against known results, and tests that it detects the faults listed in the
// README. Every case runs in a process of its own, since a kernel's error invalidates a context
// permanently. Usage: selftest FILE_OF_KERNELS

#include "selftest.h"
#include <cmath>
#include <fstream>
#include <functional>
#include <iterator>
#include <sys/wait.h>
#include <unistd.h>

namespace {

/// Compares `d[16][8]` with a plain gemm of `a[16][16]` and `b[8][16]`; both sums are exact.
void expect_product(const std::vector<float> &d, const std::vector<float> &a, const std::vector<float> &b) {
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 8; column++) {
            float sum = 0;
            for (int i = 0; i < 16; i++) sum += a[row * 16 + i] * b[column * 16 + i];
            expect(std::fabs(d[row * 8 + column] - sum) < 1e-5f, "the product at " + std::to_string(row) + ", " + std::to_string(column));
        }
}

// ---- the cases ----------------------------------------------------------------------------------

struct Case {
    const char *name;
    std::function<void()> body;
    /// The message that a faulty kernel must print.
    const char *said = "";
    /// The value of EMULATED_CUDA_SEED, if any.
    const char *seed = nullptr;
};

void transposes() {
    auto x = values(1024, 1);
    Device in = upload(x), out = alloc(4096);
    ok(run("transpose", {1, 32, 8}, in, out, 1));
    auto found = download<float>(out, 1024);
    for (int i = 0; i < 1024; i++) expect(found[i] == x[i % 32 * 32 + i / 32], "the transpose");
}

/// True if `shift` gives the correct result without its barrier.
bool shifts_by_luck() {
    auto x = values(256, 1);
    Device in = upload(x), out = alloc(1024);
    ok(run("shift", {1, 256}, in, out, 1));
    auto right = download<float>(out, 256);
    for (int i = 1; i < 256; i++) expect(right[i] == x[i - 1], "the shift");
    ok(run("shift", {1, 256}, in, out, 0));
    return download<float>(out, 256) == right;
}

void sums() {
    auto x = values(256 * 5, 3);
    Device in = upload(x), out = alloc(20);
    ok(run("block_sum", {5, 256}, in, out));
    auto found = download<float>(out, 5);
    for (int b = 0; b < 5; b++) {
        float sum = 0;
        for (int i = 0; i < 256; i++) sum += x[b * 256 + i];
        expect(std::fabs(found[b] - sum) < 1e-4f, "the sum of block " + std::to_string(b));
    }
}

void copies(const char *name, bool right) {
    auto x = values(128 * 7, 4);
    Device in = upload(x), out = alloc(512);
    ok(run(name, {1, 32}, in, out, 7));
    auto found = download<float>(out, 128);
    for (int i = 0; i < 128; i++) {
        float sum = 0;
        for (int t = 0; t < 7; t++) sum += x[t * 128 + i];
        expect(right ? std::fabs(found[i] - sum) < 1e-5f : std::isnan(found[i]), "the pipeline's sum");
    }
}

/// Copies a box of 16 × 4 pixels from (-1, 2) of a picture of 10 × 5 to one of 12 × 3.
template <class T> void through_shared(const std::vector<T> &wanted, unsigned channels, int waits) {
    constexpr unsigned element = sizeof(T);
    Device in = upload(wanted), out = alloc(12 * 3 * channels * element);
    int code = run("through_shared", {1, 32, 1, 8 << 10}, map(in, {channels, 10, 5, 1}, {channels, 16, 4, 1}, element),
                   map(out, {channels, 12, 3, 1}, {channels, 16, 4, 1}, element), 64 * channels * element, -1, 2, waits);
    if (waits == 0) return expect_code(code, launch_failed, "the launch");
    ok(code);
    auto found = download<T>(out, 12 * 3 * channels);
    for (unsigned i = 0; i < found.size(); i++) {
        unsigned row = i / channels / 12 + 2, column = i / channels % 12 - 1;
        bool inside = waits == 2 && row < 5 && column < 10;
        expect(found[i] == (inside ? wanted[(row * 10 + column) * channels + i % channels] : 0), "element " + std::to_string(i));
    }
}

void through_shared(unsigned channels, int waits) { through_shared(bf16(values(10 * 5 * channels, 1)), channels, waits); }

void clusters() {
    Device out = alloc(8 * 64 * 4);
    ok(run("cluster_of_four", {8, 64, 1, 256}, out));
    auto found = download<unsigned>(out, 8 * 64);
    for (unsigned i = 0; i < found.size(); i++)
        expect(found[i] == i / 64 % 4 * 100 + 5 * (i / 64) + 2, "what thread " + std::to_string(i) + " saw");
}

/// True if CTAs see the writes of the other CTAs in their cluster.
bool pass_through_memory(int barrier) {
    Device between = alloc(6 * 96 * 4), out = alloc(6 * 96 * 4);
    ok(run("pass_through_memory", {6, 96}, between, out, barrier));
    auto found = download<float>(out, 6 * 96);
    for (unsigned i = 0; i < found.size(); i++)
        if (found[i] != float((i / 96 ^ 1) * 96 + i % 96)) return false;
    return true;
}

int send_over(int in_dynamic, int naps, int fault) {
    auto x = values(4 * 32, 1);
    Device in = upload(x), out = alloc(4 * 32 * 4);
    int code = run("send_over", {4, 32, 1, 128}, in, out, in_dynamic, naps, fault);
    if (code) return code;
    auto found = download<float>(out, 4 * 32);
    for (unsigned i = 0; i < found.size(); i++) expect(found[i] == x[i ^ 32], "value " + std::to_string(i));
    return 0;
}
void sends_over() {
    for (int in_dynamic : {0, 1})
        for (int naps : {0, 100}) ok(send_over(in_dynamic, naps, 0));
}

/// True if both CTAs of a cluster receive all boxes, with chunks of 16 bytes swizzled within rows.
bool share_boxes(int waits) {
    constexpr unsigned rounds = 3, count = rounds * 128 * 64;
    auto x = bf16(values(count, 1));
    Device in = upload(x), out = alloc(4 * count * 2);
    if (run("share_boxes", {4, 64, 1, 16 << 10}, map(in, {64, rounds * 128}, {64, 64}), out, rounds, waits)) return false;
    auto found = download<unsigned short>(out, 4 * count);
    for (unsigned i = 0; i < found.size(); i++) {
        unsigned row = i % count / 64, column = i % 64;
        if (found[i] != x[row * 64 + (column / 8 ^ row % 8) * 8 + column % 8]) return false;
    }
    return true;
}

const Case cases[] = {
    {"adds ragged vectors", [] {
         auto a = values(1003, 1), b = values(1003, 2);
         Device da = upload(a), db = upload(b), out = alloc(1003 * 4);
         ok(run("add", {4, 256}, da, db, out, 1003u));
         auto found = download<float>(out, 1003);
         for (int i = 0; i < 1003; i++) expect(found[i] == a[i] + b[i], "the sum");
     }},
    {"sums by shuffles", sums},
    {"sums by shuffles in any order", sums, "", "5"},
    {"transposes through shared memory", transposes},
    {"transposes in any order", transposes, "", "5"},
    {"multiplies bf16 fragments", [] {
         auto a = values(256, 1), b = values(128, 2);
         Device da = upload(bf16(a)), db = upload(bf16(b)), d = alloc(512);
         ok(run("product16", {1, 32}, da, db, d));
         expect_product(download<float>(d, 128), a, b);
     }},
    {"multiplies e4m3 fragments", [] {
         auto a = codes(16 * 32, 1), b = codes(8 * 32, 2);
         Device da = upload(a), db = upload(b), d = alloc(512);
         ok(run("product32", {1, 32}, da, db, d));
         expect_e4m3_product(download<float>(d, 128), a, b, 32);
     }},
    {"loads matrices, transposed or not, in any order", [] {
         auto a = values(256, 1), b = values(128, 2), turned = b;
         for (int k = 0; k < 16; k++)
             for (int n = 0; n < 8; n++) turned[k * 8 + n] = b[n * 16 + k];
         for (int transposed = 0; transposed < 2; transposed++) {
             Device da = upload(bf16(a)), db = upload(bf16(transposed ? turned : b)), d = alloc(512);
             ok(run("product_ldmatrix", {1, 32, 1, 768}, da, db, d, transposed));
             expect_product(download<float>(d, 128), a, b);
         }
     }, "", "9"},
    {"lands copies at their wait", [] { copies("copied_sum", true); }},
    {"lands copies no earlier", [] { copies("copied_sum_too_early", false); }},
    {"fills ragged copies with zeros", [] {
         std::vector<unsigned char> x(31 * 16 + 7, 0xab);
         Device in = upload(x), out = alloc(512);
         ok(run("copy_ragged", {1, 32}, in, out, 7));
         auto found = download<unsigned>(out, 128);
         expect(found[124] == 0xabababab && found[125] == 0x00ababab && found[126] == 0, "the zeros");
     }},
    {"rounds bf16 to nearest even", [] {
         Device out = alloc(65536 * 4);
         ok(run("conversions", {256, 256}, out));
         auto found = download<unsigned>(out, 65536);
         for (unsigned h = 0; h < 65536; h++)
             if ((h & 0x7fff) < 0x7f80) expect(found[h] == 3, "rounding at " + std::to_string(h));
     }},
    {"rounds e4m3 to nearest even and saturates", [] {
         std::vector<float> low, high;
         std::vector<unsigned> wanted;
         auto add = [&](float x, unsigned code) { low.push_back(x), high.push_back(-x), wanted.push_back((code ^ 0x80) << 8 | code); };
         for (unsigned code = 0; code < 126; code++) {
             const float middle = (e4m3_value(code) + e4m3_value(code + 1)) / 2;
             add(e4m3_value(code), code);
             add(middle, code + code % 2);
             add(std::nextafter(middle, 0.f), code), add(std::nextafter(middle, 1e3f), code + 1);
         }
         for (float x : {448.f, 460.f, 1e9f, INFINITY}) add(x, 0x7e);
         low.push_back(NAN), high.push_back(-NAN), wanted.push_back(0x7f7f);
         Device x = upload(low), y = upload(high), out = alloc(low.size() * 2);
         ok(run("narrow_e4m3", {1, unsigned(low.size())}, x, y, out));
         auto found = download<unsigned short>(out, low.size());
         for (unsigned i = 0; i < found.size(); i++) expect(found[i] == wanted[i], "the code of " + std::to_string(low[i]));
     }},
    {"widens f16", [] {
         Device out = alloc(65536 * 4);
         ok(run("widen_f16", {256, 256}, out));
         auto found = download<float>(out, 65536);
         for (unsigned h = 0; h < 65536; h++) {
             int exponent = h >> 10 & 31, digits = h & 1023;
             float size = exponent ? std::ldexp(1024.f + digits, exponent - 25) : std::ldexp(float(digits), -24);
             if (exponent == 31) size = digits ? NAN : INFINITY;
             float x = std::copysign(size, h >> 15 ? -1.f : 1.f);
             expect(found[h] == x || (x != x && found[h] != found[h]), "the value of " + std::to_string(h));
         }
     }},
    {"loads and stores boxes, clipped", [] {
         for (unsigned channels : {64u, 32u}) through_shared(channels, 2);
     }},
    {"loads and stores boxes of bytes, clipped", [] {
         for (unsigned channels : {128u, 64u}) through_shared(codes(10 * 5 * channels, 1), channels, 2);
     }},
    {"stores boxes no earlier than their wait", [] { through_shared(64, 1); }},
    {"catches a store without a wait", [] { through_shared(64, 0); }, "leaves while 1 boxes leave shared memory"},
    {"multiplies in a warpgroup", [] {
         auto a = values(64 * 64, 1), b = values(64 * 64, 2);
         Device da = upload(bf16(a)), db = upload(bf16(b)), d = alloc(64 * 64 * 4);
         ok(run("warpgroup_product", {1, 128, 1, 16 << 10}, map(da, {64, 64}, {64, 64}), map(db, {64, 64}, {64, 64}), d));
         auto found = download<float>(d, 64 * 64);
         for (int i = 0; i < 64 * 64; i++) {
             float sum = 0;
             for (int k = 0; k < 64; k++) sum += a[i / 64 * 64 + k] * b[i % 64 * 64 + k];
             expect(std::fabs(found[i] - sum) < 1e-4f, "the product at " + std::to_string(i));
         }
     }, "", "4"},
    {"multiplies e4m3 in a warpgroup", [] {
         auto a = codes(64 * 128, 1), b = codes(64 * 128, 2);
         Device da = upload(a), db = upload(b), d = alloc(64 * 64 * 4);
         ok(run("warpgroup_product_e4m3", {1, 128, 1, 16 << 10}, map(da, {128, 64}, {128, 64}, 1), map(db, {128, 64}, {128, 64}, 1), d));
         expect_e4m3_product(download<float>(d, 64 * 64), a, b, 128);
     }, "", "4"},
    {"multiplies e4m3 registers in a warpgroup", [] {
         auto a = codes(64 * 128, 1), b = codes(128 * 128, 2);
         Device da = upload(a), db = upload(b), d = alloc(64 * 128 * 4);
         ok(run("warpgroup_product_e4m3_registers", {1, 128, 1, 16 << 10}, da, map(db, {128, 128}, {128, 128}, 1), d));
         expect_e4m3_product(download<float>(d, 64 * 128), a, b, 128);
     }, "", "4"},
    {"stores matrices, transposed", [] {
         std::vector<unsigned short> in(8 * 32);
         for (unsigned i = 0; i < 8 * 32; i++) in[i] = (unsigned short)(i * 257);
         Device from = upload(in), out = alloc(512);
         ok(run("stmatrix_transpose", {1, 32, 1, 512}, from, out));
         auto found = download<unsigned short>(out, 8 * 32);
         for (unsigned i = 0; i < 8 * 32; i++) expect(found[i] == in[i % 8 * 32 + i / 8], "element " + std::to_string(i));
     }, "", "9"},
    {"counts atomically across CTAs", [] {
         Device counter = upload(std::vector<unsigned>{0, 0}), sum = upload(std::vector<float>{0});
         ok(run("count", {64, 96}, counter, sum));
         auto found = download<unsigned>(counter, 2);
         expect(found[0] == 64 * 96 && found[1] == 64 * 96 - 1 && download<float>(sum, 1)[0] == 32 * 96, "the count");
     }},
    {"keeps named barriers apart", [] {
         Device out = alloc(512);
         ok(run("halves", {1, 128}, out));
         auto found = download<unsigned>(out, 128);
         for (unsigned i = 0; i < 128; i++) expect(found[i] == i / 64 * 10 + 2, "the half's value");
     }, "", "3"},
    {"instantiates templates by name", [] {
         Device x = upload(std::vector<float>{1, 2, 3});
         ok(run(scaled_by_3.c_str(), {1, 3}, x));
         expect(download<float>(x, 3)[2] == 9, "the product");
     }},
    {"replays graphs in order", [] {
         Device x = upload(std::vector<float>{0, 1});
         void *stream, *graph, *executable;
         ok(cuStreamCreate(&stream, 1));
         ok(cuStreamBeginCapture_v2(stream, 1));
         for (int i = 0; i < 3; i++) ok(launch("double_and_increment", {1, 2, 1, 0, stream}, x));
         Device refused;
         ok(cuStreamEndCapture(stream, &graph));
         ok(cuGraphInstantiateWithFlags(&executable, graph, 0));
         expect(download<float>(x, 2)[1] == 1, "that capturing runs nothing");
         for (int i = 0; i < 2; i++) ok(cuGraphLaunch(executable, stream));
         ok(cuStreamSynchronize(stream));
         expect((download<float>(x, 2) == std::vector<float>{63, 127}), "six steps");
         ok(cuStreamBeginCapture_v2(stream, 1));
         expect_code(cuMemAlloc_v2(&refused, 4), capture_unsupported, "an allocation in a capture");
         expect(cuStreamEndCapture(stream, &graph) != 0, "that the capture is broken");
     }},
    {"runs streams as late as possible", [] {
         Device x = upload(std::vector<float>{1});
         void *first, *second, *event, *host;
         ok(cuStreamCreate(&first, 1));
         ok(cuStreamCreate(&second, 1));
         ok(cuEventCreate(&event, 0));
         ok(cuMemHostAlloc(&host, 4, 0));
         auto &seen = *static_cast<float *>(host);
         ok(launch("double_and_increment", {1, 1, 1, 0, first}, x));
         ok(cuEventRecord(event, first));
         ok(cuMemcpyDtoHAsync_v2(host, x, 4, second));
         ok(cuStreamSynchronize(second));
         expect(seen == 1, "that a stream waits for no other by itself");
         ok(cuStreamWaitEvent(second, event, 0));
         ok(cuMemcpyDtoHAsync_v2(host, x, 4, second));
         expect(seen == 1, "that a copy to pinned memory is asynchronous");
         ok(cuStreamSynchronize(second));
         expect(seen == 3, "that an event orders streams");
         ok(launch("double_and_increment", {1, 1, 1, 0, first}, x));
         ok(cuEventRecord(event, first));
         for (int tries = 0; cuEventQuery(event); tries++) expect(tries < 10, "that polling ends");
     }},
    {"accounts for memory", [] {
         std::size_t before, after, total;
         ok(cuMemGetInfo_v2(&before, &total));
         Device x = alloc(1 << 20);
         ok(cuMemGetInfo_v2(&after, &total));
         expect(after + (1 << 20) == before, "the free memory");
         ok(cuMemFree_v2(x));
         expect_code(cuMemFree_v2(x), invalid_value, "freeing twice");
         expect_code(cuMemAlloc_v2(&x, total + 1), 2, "asking for too much");
     }},
    {"refuses impossible launches", [] {
         Device x = alloc(64 << 10);
         int bytes;
         ok(cuFuncGetAttribute(&bytes, 1, kernel("transpose")));
         expect(bytes == 32 * 33 * 4, "the static shared memory");
         expect_code(launch("add", {1, 512}, x, x, x, 1u), invalid_value, "more threads than the launch bounds");
         expect_code(launch("read_fresh", {1, 32, 1, 60 << 10}, x), invalid_value, "too much shared memory");
         ok(cuFuncSetAttribute(kernel("read_fresh"), 8, 60 << 10));
         ok(run("read_fresh", {1, 32, 1, 60 << 10}, x));
     }, "61440 bytes of dynamic shared memory"},
    {"poisons fresh memory", [] {
         Device out = alloc(128);
         expect(download<unsigned>(out, 32)[5] == 0xffffffff, "poison in device memory");
         for (int again = 0; again < 2; again++) {
             ok(run("read_fresh", {1, 32, 1, 128}, out));
             for (unsigned word : download<unsigned>(out, 32)) expect(word == 0xffffffff, "poison in shared memory");
         }
     }},
    {"catches a read past the end", [] {
         Device a = alloc(1024), out = alloc(1024);
         expect_code(run("add_past_the_end", {2, 256}, a, out, 256u), illegal_address, "the launch");
         expect_code(cuCtxSynchronize(), illegal_address, "a later call");
     }, "kernel add_past_the_end, block (1, 0, 0), thread (0, 0, 0): reads from byte 1024 of an allocation of 1024 bytes"},
    {"catches a write past the end", [] {
         expect_code(run("write_past_the_end", {2, 256}, alloc(1024), 256u), illegal_address, "the launch");
     }, "writes to byte 1024"},
    {"catches a use after free", [] {
         Device a = alloc(1024), out = alloc(1024);
         ok(cuMemFree_v2(a));
         expect_code(run("add", {1, 256}, a, a, out, 256u), illegal_address, "the launch");
     }, "an allocation of 1024 bytes that was freed"},
    {"catches a read past dynamic shared memory", [] {
         expect_code(run("read_past_dynamic_shared", {1, 32, 1, 128}, alloc(128)), illegal_address, "the launch");
     }, "reads from"},
    {"catches a read past fixed shared memory", [] {
         expect_code(run("read_past_fixed_shared", {1, 32}, alloc(128), 1), launch_failed, "the launch");
     }, "an index past the end of its array"},
    {"misses a missing barrier in order", [] { expect(shifts_by_luck(), "luck"); }},
    {"catches a missing barrier out of order", [] { expect(!shifts_by_luck(), "no luck"); }, "", "1"},
    {"catches a thread that exits before a barrier", [] {
         expect_code(run("leave_early", {1, 64}, alloc(256)), launch_failed, "the launch");
     }, "leave"},
    {"catches a divergent collective", [] {
         expect_code(run("disagree", {1, 32}, alloc(256)), launch_failed, "the launch");
     }, "another one of lanes ffffffff"},
    {"catches a deadlock", [] {
         expect_code(run("wait_for_nobody", {1, 64}, alloc(256)), launch_failed, "the launch");
     }, "deadlock: 64 threads wait at barriers"},
    {"catches a misaligned vector", [] {
         expect_code(run("misaligned", {1, 1}, alloc(64), alloc(64)), launch_failed, "the launch");
     }, "selftest.cu:"},
    {"catches signed overflow", [] {
         Device x = upload(std::vector<int>{1 << 20});
         expect_code(run("overflow", {1, 1}, x, x), launch_failed, "the launch");
     }, "signed overflow in a product"},
    {"runs the CTAs of a cluster together", clusters},
    {"runs the CTAs of a cluster together in any order", clusters, "", "5"},
    {"synchronizes a cluster", [] { expect(pass_through_memory(1), "what the other block wrote"); }},
    {"synchronizes a cluster in any order", [] { expect(pass_through_memory(1), "what the other block wrote"); }, "", "5"},
    {"catches a missing barrier of a cluster", [] { expect(!pass_through_memory(0), "no luck"); }},
    {"stores values to the peer CTA", sends_over},
    {"stores values to the peer CTA in any order", sends_over, "", "5"},
    {"lands values no earlier than their wait", [] {
         Device out = alloc(16);
         ok(run("read_before_it_comes", {2, 1}, out));
         auto found = download<float>(out, 4);
         expect(std::isnan(found[0]) && found[1] == 2 && std::isnan(found[2]) && found[3] == 2, "what was read");
     }},
    {"multicasts boxes to both CTAs", [] { expect(share_boxes(1), "what came"); }},
    {"multicasts boxes to both CTAs in any order", [] { expect(share_boxes(1), "what came"); }, "", "5"},
    {"catches a box that overwrites one in flight", [] { expect(!share_boxes(0), "no luck"); },
     "loads a box to where another one is in flight"},
    {"catches a box that overwrites one in flight in any order", [] { expect(!share_boxes(0), "no luck"); }, "", "5"},
    {"catches a remote value without a wait", [] { expect_code(send_over(0, 0, 1), launch_failed, "the launch"); },
     "ends its block while 0 boxes and 32 values are on their way to it"},
    {"catches an early access to a peer CTA", [] { expect_code(send_over(0, 0, 2), launch_failed, "the launch"); },
     "reaches into block 1 before a barrier of the cluster"},
    {"catches an mbarrier that is not initialised", [] { expect_code(send_over(0, 0, 3), launch_failed, "the launch"); },
     "an mbarrier that nobody has initialised"},
    {"catches an mbarrier with too many bytes", [] { expect_code(send_over(0, 0, 6), launch_failed, "the launch"); },
     "deadlock: 0 threads wait at barriers, 64 at mbarriers"},
    {"catches an address outside shared memory", [] { expect_code(send_over(0, 0, 4), launch_failed, "the launch"); },
     "which are not in shared memory"},
    {"catches a CTA rank out of range", [] { expect_code(send_over(0, 0, 5), launch_failed, "the launch"); },
     "reaches into block 2 of a cluster of 2"},
    {"catches a CTA that exits early", [] {
         expect_code(run("leave_the_cluster", {2, 32}, 1), launch_failed, "the launch");
     }, "waits at a barrier that 32 threads of the cluster left without"},
    {"catches an access to an exited CTA", [] {
         expect_code(run("leave_the_cluster", {2, 32}, 0), launch_failed, "the launch");
     }, "block (0, 0, 0), thread (0, 0, 0): reaches into block 1 of the cluster, which has ended"},
    {"catches a deadlock of a cluster", [] {
         expect_code(run("wait_apart", {2, 32}), launch_failed, "the launch");
     }, "deadlock: 64 threads wait at barriers"},
    {"refuses impossible clusters", [] {
         expect_code(launch("pass_through_memory", {3, 32}, alloc(4), alloc(4), 1), invalid_cluster_size, "half a cluster");
         expect_code(launch("pass_through_memory", {2, 800}, alloc(4), alloc(4), 1), not_supported, "too many threads");
     }, "kernel pass_through_memory: a grid that is 3 blocks wide, in clusters of 2"},
    {"fails on an assertion", [] {
         expect_code(run("asserted", {1, 1}, upload(std::vector<int>{2})), assertion, "the launch");
     }, "x[threadIdx.x] == 1"},
};

/// Compiles with the options; returns NVRTC's code.
int compile(const std::string &source, std::vector<const char *> options, std::string &log, void *&program) {
    ok(nvrtcCreateProgram(&program, source.c_str(), "selftest.cu", 0, nullptr, nullptr));
    if (source.find("scaled") != std::string::npos) ok(nvrtcAddNameExpression(program, "scaled<3>"));
    int code = nvrtcCompileProgram(program, int(options.size()), options.data());
    std::size_t bytes;
    ok(nvrtcGetProgramLogSize(program, &bytes));
    log.resize(bytes);
    ok(nvrtcGetProgramLog(program, log.data()));
    return code;
}

/// Runs a case in a child process; stores its output in `printed` and returns true on success.
bool run_case(const Case &test, std::string &printed) {
    int pipes[2];
    if (pipe(pipes)) give_up("no pipe can be made");
    pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], 2);
        close(pipes[0]);
        close(pipes[1]);
        if (test.seed) setenv("EMULATED_CUDA_SEED", test.seed, 1);
        else unsetenv("EMULATED_CUDA_SEED");
        alarm(60);
        open();
        test.body();
        std::exit(0);
    }
    close(pipes[1]);
    char buffer[4096];
    for (ssize_t n; (n = read(pipes[0], buffer, sizeof buffer)) > 0;) printed.append(buffer, std::size_t(n));
    close(pipes[0]);
    int status;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) printed += std::string("ended by ") + strsignal(WTERMSIG(status)) + "\n";
    return status == 0 && printed.find(test.said) != std::string::npos;
}

} // namespace

int main(int count, char **arguments) {
    if (count != 2) give_up("usage: selftest FILE_OF_KERNELS");
    std::ifstream file(arguments[1]);
    std::string source{std::istreambuf_iterator<char>(file), {}}, log;
    void *program;
    if (compile(source, {"--gpu-architecture=sm_80", "--std=c++17"}, log, program)) give_up(log);
    std::size_t bytes;
    ok(nvrtcGetCUBINSize(program, &bytes));
    image.resize(bytes);
    ok(nvrtcGetCUBIN(program, image.data()));
    const char *lowered;
    ok(nvrtcGetLoweredName(program, "scaled<3>", &lowered));
    scaled_by_3 = lowered;

    int failed = 0;
    auto report = [&](const std::string &name, bool passed, const std::string &printed) {
        std::printf("%s: %s\n", passed ? "ok" : "FAILED", name.c_str());
        if (!passed) std::printf("%s", printed.c_str()), failed++;
        // Flushes before the next fork, which would inherit the buffer.
        std::fflush(stdout);
    };
    int code = compile("__global__ void f() {\n  int x = y;\n}\n", {"-arch=sm_80"}, log, program);
    report("reports errors with their line", code == 6 && log.find("selftest.cu:2:") != std::string::npos, log);
    code = compile("", {"--no-such-option"}, log, program);
    report("refuses unknown options", code == 5 && log.find("--no-such-option") != std::string::npos, log);
    code = compile("extern __shared__ float x[];\n", {}, log, program);
    report("refuses dynamic shared memory outside a function", code == 6, log);
    for (const Case &test : cases) {
        std::string printed;
        bool passed = run_case(test, printed);
        report(test.name, passed, printed);
    }
    std::printf("%d failed\n", failed);
    return failed != 0;
}
