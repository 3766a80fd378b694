// The CUDA language for a host compiler: NVRTC's built-in declarations, on the driver's fibers.

#define __global__ __attribute__((visibility("default"), noinline))
#define __device__
#define __host__
#define __constant__ const
#define __managed__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))
// A CTA runs on one host thread, and a host thread runs one CTA or cluster at a time. The variables
// here therefore belong to the CTA of the running thread.
#define __shared__ thread_local

#define threadIdx (emulated_cuda_current->thread)
#define blockIdx (emulated_cuda_current->block)
#define blockDim (emulated_cuda_current->block_size)
#define gridDim (emulated_cuda_current->grid_size)
constexpr int warpSize = 32;

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef decltype(sizeof 0) size_t;
extern "C" int printf(const char *, ...);
#define assert(condition) ((condition) ? (void)0 : emulated_cuda_fail("the assertion %s does not hold", #condition))

// ---- vectors ------------------------------------------------------------------------------------

// Vectors are aligned as on the device: to their size if it is a power of two, at most to 16 bytes.
#define EMULATED_CUDA_VECTORS(T, name)                                                                                \
    struct name##1 { T x; };                                                                                          \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                                                \
    struct name##3 { T x, y, z; };                                                                                    \
    struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; };                                \
    inline name##1 make_##name##1(T x) { return {x}; }                                                                \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                        \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                                                \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATED_CUDA_VECTORS(signed char, char)
EMULATED_CUDA_VECTORS(unsigned char, uchar)
EMULATED_CUDA_VECTORS(short, short)
EMULATED_CUDA_VECTORS(unsigned short, ushort)
EMULATED_CUDA_VECTORS(int, int)
EMULATED_CUDA_VECTORS(unsigned, uint)
EMULATED_CUDA_VECTORS(long long, longlong)
EMULATED_CUDA_VECTORS(unsigned long long, ulonglong)
EMULATED_CUDA_VECTORS(float, float)
EMULATED_CUDA_VECTORS(double, double)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// ---- bits ---------------------------------------------------------------------------------------

namespace emulated_cuda {
template <class To, class From> inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
/// All bits set: the value of unwritten memory.
template <class T> inline T poison() {
    T value;
    __builtin_memset(&value, 0xff, sizeof value);
    return value;
}
} // namespace emulated_cuda

inline unsigned __float_as_uint(float x) { return emulated_cuda::bits<unsigned>(x); }
inline int __float_as_int(float x) { return emulated_cuda::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return emulated_cuda::bits<float>(x); }
inline float __int_as_float(int x) { return emulated_cuda::bits<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; i++) reversed |= (x >> i & 1) << (31 - i);
    return reversed;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    unsigned long long pair = (unsigned long long)y << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned chosen = selector >> 4 * i & 15, byte = pair >> 8 * (chosen & 7) & 255;
        // The fourth bit of a selector replicates the byte's sign.
        out |= (chosen & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * i;
    }
    return out;
}
inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned long long)x * y >> 32; }
inline int __mulhi(int x, int y) { return (long long)x * y >> 32; }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return ((unsigned long long)high << 32 | low) << (shift & 31) >> 32;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return ((unsigned long long)high << 32 | low) >> (shift & 31);
}

// ---- mathematics --------------------------------------------------------------------------------

// The C library's functions under CUDA's names. CUDA's fast and rounded variants map to the exact
// function.
#define EMULATED_CUDA_UNARY(name, builtin)                                                                            \
    inline float name(float x) { return builtin(x); }
#define EMULATED_CUDA_BINARY(name, builtin)                                                                           \
    inline float name(float x, float y) { return builtin(x, y); }
EMULATED_CUDA_UNARY(expf, __builtin_expf)
EMULATED_CUDA_UNARY(__expf, __builtin_expf)
EMULATED_CUDA_UNARY(exp2f, __builtin_exp2f)
EMULATED_CUDA_UNARY(exp10f, __builtin_exp10f)
EMULATED_CUDA_UNARY(expm1f, __builtin_expm1f)
EMULATED_CUDA_UNARY(logf, __builtin_logf)
EMULATED_CUDA_UNARY(__logf, __builtin_logf)
EMULATED_CUDA_UNARY(log2f, __builtin_log2f)
EMULATED_CUDA_UNARY(__log2f, __builtin_log2f)
EMULATED_CUDA_UNARY(log10f, __builtin_log10f)
EMULATED_CUDA_UNARY(log1pf, __builtin_log1pf)
EMULATED_CUDA_UNARY(sqrtf, __builtin_sqrtf)
EMULATED_CUDA_UNARY(__fsqrt_rn, __builtin_sqrtf)
EMULATED_CUDA_UNARY(rsqrtf, 1.f / __builtin_sqrtf)
EMULATED_CUDA_UNARY(__frsqrt_rn, 1.f / __builtin_sqrtf)
EMULATED_CUDA_UNARY(__frcp_rn, 1.f /)
EMULATED_CUDA_UNARY(sinf, __builtin_sinf)
EMULATED_CUDA_UNARY(__sinf, __builtin_sinf)
EMULATED_CUDA_UNARY(cosf, __builtin_cosf)
EMULATED_CUDA_UNARY(__cosf, __builtin_cosf)
EMULATED_CUDA_UNARY(tanhf, __builtin_tanhf)
EMULATED_CUDA_UNARY(erff, __builtin_erff)
EMULATED_CUDA_UNARY(fabsf, __builtin_fabsf)
EMULATED_CUDA_UNARY(floorf, __builtin_floorf)
EMULATED_CUDA_UNARY(ceilf, __builtin_ceilf)
EMULATED_CUDA_UNARY(roundf, __builtin_roundf)
EMULATED_CUDA_UNARY(rintf, __builtin_rintf)
EMULATED_CUDA_UNARY(truncf, __builtin_truncf)
EMULATED_CUDA_BINARY(powf, __builtin_powf)
EMULATED_CUDA_BINARY(__powf, __builtin_powf)
EMULATED_CUDA_BINARY(fmodf, __builtin_fmodf)
EMULATED_CUDA_BINARY(copysignf, __builtin_copysignf)
EMULATED_CUDA_BINARY(atan2f, __builtin_atan2f)
EMULATED_CUDA_BINARY(fminf, __builtin_fminf)
EMULATED_CUDA_BINARY(fmaxf, __builtin_fmaxf)
inline float fmaf(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline float __fmaf_rn(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
// The purpose of these is that they are never contracted with an addition.
inline float __fmul_rn(float x, float y) {
    float product = x * y;
    asm("" : "+x"(product));
    return product;
}
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
inline void sincosf(float x, float *s, float *c) { *s = __builtin_sinf(x), *c = __builtin_cosf(x); }
inline void __sincosf(float x, float *s, float *c) { sincosf(x, s, c); }
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline double exp(double x) { return __builtin_exp(x); }
inline double log(double x) { return __builtin_log(x); }
inline double pow(double x, double y) { return __builtin_pow(x, y); }
inline double sin(double x) { return __builtin_sin(x); }
inline double cos(double x) { return __builtin_cos(x); }
inline double sqrt(double x) { return __builtin_sqrt(x); }
inline double floor(double x) { return __builtin_floor(x); }
// On the device a conversion saturates, and converts a NaN to 0.
inline int __float2int_rz(float x) {
    return x != x ? 0 : x >= 0x1p31f ? 0x7fffffff : x <= -0x1p31f ? -0x7fffffff - 1 : int(x);
}
inline int __float2int_rn(float x) { return __float2int_rz(__builtin_rintf(x)); }
inline unsigned __float2uint_rz(float x) { return !(x > 0) ? 0 : x >= 0x1p32f ? 0xffffffff : unsigned(x); }
inline unsigned __float2uint_rn(float x) { return __float2uint_rz(__builtin_rintf(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }

#define EMULATED_CUDA_ORDER(T)                                                                                        \
    inline T min(T x, T y) { return y < x ? y : x; }                                                                  \
    inline T max(T x, T y) { return x < y ? y : x; }
EMULATED_CUDA_ORDER(int)
EMULATED_CUDA_ORDER(unsigned)
EMULATED_CUDA_ORDER(long)
EMULATED_CUDA_ORDER(unsigned long)
EMULATED_CUDA_ORDER(long long)
EMULATED_CUDA_ORDER(unsigned long long)
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
inline int abs(int x) { return x < 0 ? -x : x; }
inline float abs(float x) { return fabsf(x); }

// ---- memory -------------------------------------------------------------------------------------

template <class T> inline T __ldg(const T *p) { return *p; }
template <class T> inline T __ldca(const T *p) { return *p; }
template <class T> inline T __ldcg(const T *p) { return *p; }
template <class T> inline T __ldcs(const T *p) { return *p; }
template <class T> inline void __stcg(T *p, T value) { *p = value; }
template <class T> inline void __stcs(T *p, T value) { *p = value; }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __threadfence(); }

namespace emulated_cuda {
template <Size> struct BitsOf;
template <> struct BitsOf<4> { using type = unsigned; };
template <> struct BitsOf<8> { using type = Word; };

/// Atomically sets `*p = change(*p)`, also across CTAs; returns the old value.
template <class T, class F> inline T atomically(T *p, F change) {
    using Bits = typename BitsOf<sizeof(T)>::type;
    Bits *at = reinterpret_cast<Bits *>(p), old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(at, &old, bits<Bits>(T(change(bits<T>(old)))), false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED)) {}
    return bits<T>(old);
}
template <class T> struct Same { using type = T; };
template <class T> using Given = typename Same<T>::type;
} // namespace emulated_cuda

#define EMULATED_CUDA_ATOMIC(name, expression)                                                                        \
    template <class T> inline T name(T *p, emulated_cuda::Given<T> value) {                                           \
        return emulated_cuda::atomically(p, [value](T old) -> T { return expression; });                              \
    }
EMULATED_CUDA_ATOMIC(atomicAdd, old + value)
EMULATED_CUDA_ATOMIC(atomicSub, old - value)
EMULATED_CUDA_ATOMIC(atomicMin, value < old ? value : old)
EMULATED_CUDA_ATOMIC(atomicMax, old < value ? value : old)
EMULATED_CUDA_ATOMIC(atomicExch, value)
EMULATED_CUDA_ATOMIC(atomicOr, old | value)
EMULATED_CUDA_ATOMIC(atomicAnd, old & value)
EMULATED_CUDA_ATOMIC(atomicXor, old ^ value)
EMULATED_CUDA_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
template <class T> inline T atomicCAS(T *p, emulated_cuda::Given<T> compare, emulated_cuda::Given<T> value) {
    return emulated_cuda::atomically(p, [=](T old) { return old == compare ? value : old; });
}

// ---- barriers and collectives -------------------------------------------------------------------

inline void __syncthreads() { emulated_cuda_barrier(0, 0, false); }
inline int __syncthreads_count(int predicate) { return int(emulated_cuda_barrier(0, 0, predicate)); }
inline int __syncthreads_or(int predicate) { return emulated_cuda_barrier(0, 0, predicate) != 0; }
inline int __syncthreads_and(int predicate) { return emulated_cuda_barrier(0, 0, !predicate) == 0; }
inline void __nanosleep(unsigned) { emulated_cuda_yield(); }
inline void __trap() { emulated_cuda_fail("the kernel called __trap"); }
inline long long clock64() { return (long long)__builtin_ia32_rdtsc(); }

namespace emulated_cuda {
template <class F> inline void each_lane(unsigned lanes, F visit) {
    for (; lanes; lanes &= lanes - 1) visit(unsigned(__builtin_ctz(lanes)));
}
template <class T> struct Exchange {
    T given, taken;
    unsigned from;
};
template <class T> inline void exchange(void **arguments, unsigned lanes) {
    auto all = reinterpret_cast<Exchange<T> **>(arguments);
    each_lane(lanes, [=](unsigned lane) {
        unsigned from = all[lane]->from;
        // The value of a non-participating lane is undefined.
        all[lane]->taken = lanes >> from & 1 ? all[from]->given : poison<T>();
    });
}
template <class T> inline T take(unsigned mask, T value, unsigned from) {
    Exchange<T> mine{value, value, from & 31};
    emulated_cuda_collective(mask, exchange<T>, &mine);
    return mine.taken;
}
/// `fold` over the values of the lanes in `mask`.
template <class T, class F> inline T reduce(unsigned mask, T value, F) {
    struct { T value; } mine{value};
    using Mine = decltype(mine);
    emulated_cuda_collective(mask, [](void **arguments, unsigned lanes) {
        auto all = reinterpret_cast<Mine **>(arguments);
        T sum = all[__builtin_ctz(lanes)]->value;
        each_lane(lanes & (lanes - 1), [&](unsigned lane) { sum = F()(sum, all[lane]->value); });
        each_lane(lanes, [&](unsigned lane) { all[lane]->value = sum; });
    }, &mine);
    return mine.value;
}
#define EMULATED_CUDA_FOLD(name, expression)                                                                          \
    struct name {                                                                                                     \
        template <class T> T operator()(T x, T y) const { return expression; }                                        \
    };
EMULATED_CUDA_FOLD(Sum, T(x + y))
EMULATED_CUDA_FOLD(Least, y < x ? y : x)
EMULATED_CUDA_FOLD(Most, x < y ? y : x)
EMULATED_CUDA_FOLD(Either, x | y)
EMULATED_CUDA_FOLD(Both, x & y)
} // namespace emulated_cuda

template <class T> inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    unsigned lane = emulated_cuda_current->lane;
    return emulated_cuda::take(mask, value, (lane & ~(width - 1u)) | (source & (width - 1u)));
}
template <class T> inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned lane = emulated_cuda_current->lane;
    return emulated_cuda::take(mask, value, (lane & (width - 1u)) < delta ? lane : lane - delta);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned lane = emulated_cuda_current->lane;
    return emulated_cuda::take(mask, value, (lane & (width - 1u)) + delta >= unsigned(width) ? lane : lane + delta);
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int turned, int width = 32) {
    unsigned lane = emulated_cuda_current->lane, from = lane ^ unsigned(turned);
    return emulated_cuda::take(mask, value, from > (lane | (width - 1u)) ? lane : from);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return emulated_cuda::reduce(mask, predicate ? 1u << emulated_cuda_current->lane : 0u, emulated_cuda::Either());
}
inline int __any_sync(unsigned mask, int predicate) {
    return emulated_cuda::reduce(mask, unsigned(predicate != 0), emulated_cuda::Either());
}
inline int __all_sync(unsigned mask, int predicate) {
    return emulated_cuda::reduce(mask, unsigned(predicate != 0), emulated_cuda::Both());
}
inline unsigned __activemask() { return emulated_cuda_lanes(); }
inline void __syncwarp(unsigned mask = 0xffffffff) {
    emulated_cuda_collective(mask, [](void **, unsigned) {}, nullptr);
}
#define EMULATED_CUDA_REDUCE(T)                                                                                       \
    inline T __reduce_add_sync(unsigned mask, T x) { return emulated_cuda::reduce(mask, x, emulated_cuda::Sum()); }   \
    inline T __reduce_min_sync(unsigned mask, T x) { return emulated_cuda::reduce(mask, x, emulated_cuda::Least()); } \
    inline T __reduce_max_sync(unsigned mask, T x) { return emulated_cuda::reduce(mask, x, emulated_cuda::Most()); }
EMULATED_CUDA_REDUCE(int)
EMULATED_CUDA_REDUCE(unsigned)

// ---- what a module exports ----------------------------------------------------------------------

namespace emulated_cuda {
template <class T> struct Plain { using type = T; };
template <class T> struct Plain<const T> { using type = T; };
template <unsigned...> struct Sequence {};
template <auto F, class Type = decltype(F)> struct Entry;
template <auto F, class... A> struct Entry<F, void (*)(A...)> {
    static constexpr unsigned sizes[sizeof...(A) + 1] = {sizeof(A)..., 0};
    template <unsigned... I> static void call(void **parameters, Sequence<I...>) {
        F(*static_cast<typename Plain<A>::type *>(parameters[I])...);
    }
    static void invoke(void **parameters) { call(parameters, Sequence<__integer_pack(sizeof...(A))...>()); }
};
thread_local char shared_memory;

/// The threads in `__launch_bounds__(threads, blocks)`.
template <class... Rest> constexpr unsigned first(unsigned threads, Rest...) { return threads; }
/// The number of CTAs in `__cluster_dims__(x, y, z)`, or 0 if they are not all along x, which is
/// not emulated.
constexpr unsigned blocks_of(unsigned x, unsigned y = 1, unsigned z = 1) { return y == 1 && z == 1 ? x : 0; }
template <auto F> Kernel entry(unsigned max_threads, unsigned cluster) {
    using E = Entry<F>;
    return {reinterpret_cast<void (*)()>(F), E::invoke, E::sizes, sizeof(E::sizes) / sizeof *E::sizes - 1, max_threads, cluster};
}
} // namespace emulated_cuda

/// Creates the calling host thread's copy of the module's shared memory, and returns its address.
extern "C" __attribute__((visibility("default"))) void *emulated_cuda_touch_shared() {
    return &emulated_cuda::shared_memory;
}
