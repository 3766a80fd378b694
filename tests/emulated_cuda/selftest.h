// The selftest's calls to the emulated driver and compiler, and its assertions.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

using Device = unsigned long long;

extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(void **, int);
int cuCtxSetCurrent(void *);
int cuCtxSynchronize();
int cuTensorMapEncodeTiled(void *, unsigned, unsigned, void *, const unsigned long long *, const unsigned long long *,
                           const unsigned *, const unsigned *, unsigned, unsigned, unsigned, unsigned);
int cuModuleLoadData(void **, const void *);
int cuModuleGetFunction(void **, void *, const char *);
int cuFuncGetAttribute(int *, int, void *);
int cuFuncSetAttribute(void *, int, int);
int cuMemAlloc_v2(Device *, std::size_t);
int cuMemFree_v2(Device);
int cuMemcpyHtoD_v2(Device, const void *, std::size_t);
int cuMemcpyDtoH_v2(void *, Device, std::size_t);
int cuMemcpyDtoHAsync_v2(void *, Device, std::size_t, void *);
int cuMemHostAlloc(void **, std::size_t, unsigned);
int cuMemGetInfo_v2(std::size_t *, std::size_t *);
int cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
int cuStreamCreate(void **, unsigned);
int cuStreamSynchronize(void *);
int cuStreamWaitEvent(void *, void *, unsigned);
int cuStreamBeginCapture_v2(void *, int);
int cuStreamEndCapture(void *, void **);
int cuEventCreate(void **, unsigned);
int cuEventRecord(void *, void *);
int cuEventQuery(void *);
int cuEventSynchronize(void *);
int cuGraphInstantiateWithFlags(void **, void *, unsigned long long);
int cuGraphLaunch(void *, void *);
int nvrtcCreateProgram(void **, const char *, const char *, int, const char *const *, const char *const *);
int nvrtcAddNameExpression(void *, const char *);
int nvrtcCompileProgram(void *, int, const char *const *);
int nvrtcGetProgramLogSize(void *, std::size_t *);
int nvrtcGetProgramLog(void *, char *);
int nvrtcGetCUBINSize(void *, std::size_t *);
int nvrtcGetCUBIN(void *, char *);
int nvrtcGetLoweredName(void *, const char *, const char **);
}

namespace {

constexpr int invalid_value = 1, illegal_address = 700, assertion = 710, launch_failed = 719, not_supported = 801,
              capture_unsupported = 900, invalid_cluster_size = 912;

std::string image, scaled_by_3;

[[noreturn]] void give_up(const std::string &why) {
    std::fprintf(stderr, "%s\n", why.c_str());
    std::exit(1);
}
void expect(bool holds, const std::string &what) {
    if (!holds) give_up(what + " does not hold");
}
void expect_code(int found, int wanted, const std::string &what) {
    if (found != wanted) give_up(what + " returned " + std::to_string(found) + ", not " + std::to_string(wanted));
}
void ok(int code) { expect_code(code, 0, "a call"); }

// ---- a small program against the API ------------------------------------------------------------

void *module_;

void open() {
    void *context;
    ok(cuInit(0));
    ok(cuDevicePrimaryCtxRetain(&context, 0));
    ok(cuCtxSetCurrent(context));
    ok(cuModuleLoadData(&module_, image.data()));
}

void *kernel(const char *name) {
    void *function;
    ok(cuModuleGetFunction(&function, module_, name));
    return function;
}

Device alloc(std::size_t bytes) {
    Device device;
    ok(cuMemAlloc_v2(&device, bytes));
    return device;
}
template <class T> Device upload(const std::vector<T> &values) {
    Device device = alloc(values.size() * sizeof(T));
    ok(cuMemcpyHtoD_v2(device, values.data(), values.size() * sizeof(T)));
    return device;
}
template <class T> std::vector<T> download(Device device, std::size_t count) {
    std::vector<T> values(count);
    ok(cuMemcpyDtoH_v2(values.data(), device, count * sizeof(T)));
    return values;
}

struct Shape {
    unsigned grid, block_x, block_y = 1, dynamic = 0;
    void *stream = nullptr;
};
template <class... A> int launch(const char *name, Shape s, A... arguments) {
    void *parameters[] = {&arguments..., nullptr};
    return cuLaunchKernel(kernel(name), s.grid, 1, 1, s.block_x, s.block_y, 1, s.dynamic, s.stream, parameters, nullptr);
}
/// Launches and waits; returns the code of the wait.
template <class... A> int run(const char *name, Shape s, A... arguments) {
    int code = launch(name, s, arguments...);
    return code ? code : cuCtxSynchronize();
}

/// Values between -1 and 1 that bf16 represents exactly.
std::vector<float> values(std::size_t count, unsigned seed) {
    std::vector<float> out(count);
    for (float &v : out) seed = seed * 1664525 + 1013904223, v = float(int(seed >> 24) - 128) / 128;
    return out;
}
std::vector<unsigned short> bf16(const std::vector<float> &from) {
    std::vector<unsigned short> out;
    for (float v : from) {
        unsigned bits;
        std::memcpy(&bits, &v, 4);
        out.push_back((unsigned short)(bits >> 16));
    }
    return out;
}

/// The value of an E4M3 code, by its definition.
float e4m3_value(unsigned code) {
    const int exponent = code >> 3 & 15, digits = code & 7;
    if ((code & 127) == 127) return NAN;
    return std::ldexp(exponent ? 8.f + digits : float(digits), (exponent ? exponent : 1) - 10) * (code & 128 ? -1.f : 1.f);
}
/// Codes of any sign and size, without NaN.
std::vector<unsigned char> codes(std::size_t count, unsigned seed) {
    std::vector<unsigned char> out(count);
    for (unsigned char &code : out) {
        seed = seed * 1664525 + 1013904223, code = (unsigned char)(seed >> 24);
        if ((code & 127) == 127) code--;
    }
    return out;
}

/// Compares d[rows][columns] with the product of codes a[rows][k] and b[columns][k].
void expect_e4m3_product(const std::vector<float> &d, const std::vector<unsigned char> &a, const std::vector<unsigned char> &b,
                         unsigned k) {
    const unsigned columns = unsigned(b.size()) / k;
    for (unsigned i = 0; i < d.size(); i++) {
        double sum = 0, size = 0;
        for (unsigned j = 0; j < k; j++) {
            const double product = double(e4m3_value(a[i / columns * k + j])) * e4m3_value(b[i % columns * k + j]);
            sum += product, size += std::fabs(product);
        }
        expect(std::fabs(d[i] - sum) <= 1e-6 * size, "the product at " + std::to_string(i));
    }
}

struct Map {
    alignas(64) unsigned long long opaque[16];
};
/// The map of a tensor of BF16, or of bytes.
Map map(Device tensor, std::vector<unsigned long long> sizes, std::vector<unsigned> box, unsigned element = 2) {
    std::vector<unsigned long long> strides;
    for (unsigned long long bytes = element; unsigned long long size : sizes) strides.push_back(bytes *= size);
    const std::vector<unsigned> steps(sizes.size(), 1);
    Map out;
    ok(cuTensorMapEncodeTiled(&out, element == 1 ? 0 : 9, unsigned(sizes.size()), reinterpret_cast<void *>(tensor), sizes.data(), strides.data(),
                              box.data(), steps.data(), 0, box[0] * element == 128 ? 3 : 2, 0, 0));
    return out;
}

} // namespace
