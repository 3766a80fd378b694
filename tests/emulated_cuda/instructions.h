// What the kernels' `instructions.cuh` wraps in PTX on a device, as the PTX ISA defines it (9.7, "Warp-level matrix
// instructions" and "Data movement"): conversions, matrix products, ldmatrix, cp.async, named barriers.

// ---- 16-bit floats ---------------------------------------------------------------------------------------------

inline float float_from_bf16(unsigned short bits) { return __uint_as_float(unsigned(bits) << 16); }
inline unsigned short bf16_from_float(float x) {
    unsigned bits = __float_as_uint(x);
    if (x != x) return 0x7fff;
    return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline unsigned bf16x2_from_floats(float low, float high) {
    return unsigned(bf16_from_float(high)) << 16 | bf16_from_float(low);
}

inline float float_from_f16(unsigned short bits) {
    unsigned sign = unsigned(bits & 0x8000) << 16, magnitude = unsigned(bits & 0x7fff) << 13;
    if (magnitude >= 0x7c00u << 13) return __uint_as_float(sign | magnitude | 0x7f800000);
    // The exponents' biases differ by 112; the product also makes subnormals normal.
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude) * 0x1p112f));
}

inline float exp2_approx(float x) { return exp2f(x); }

// One grid runs after the other.
inline void wait_for_previous() {}
inline void let_next_start() {}

inline void barrier_sync(int id, int threads) { emulated_cuda_barrier(unsigned(id), unsigned(threads), false); }

// ---- matrix products -------------------------------------------------------------------------------------------

// The compiler's checks are for kernels; here they would only cost time.
#define EMULATED_CUDA_UNCHECKED __attribute__((no_sanitize("undefined")))

namespace emulated_cuda {

inline void require_warp(unsigned lanes, const char *instruction) {
    if (lanes != 0xffffffff) emulated_cuda_fail("%s without all lanes of the warp (%08x are there)", instruction, lanes);
}

struct Product {
    float *d;
    const unsigned *a, *b;
};

/// Pairs of BF16 along K, apart: those at even k, and those at odd k.
template <int Rows> struct Halves {
    float even[Rows][8], odd[Rows][8];
};
template <int Rows>
EMULATED_CUDA_UNCHECKED inline void widen_pairs(const unsigned (&pairs)[Rows][8], Halves<Rows> &out) {
    for (int row = 0; row < Rows; row++)
        for (int i = 0; i < 8; i++) {
            out.even[row][i] = float_from_bf16((unsigned short)pairs[row][i]);
            out.odd[row][i] = float_from_bf16((unsigned short)(pairs[row][i] >> 16));
        }
}

/// D += A·B once for all 32 lanes, with the fragments of m16n8k16: a lane's registers hold pairs along K; A's go over the
/// two halves of its rows, then of K, B's over the halves of K.
EMULATED_CUDA_UNCHECKED inline void multiply(void **arguments, unsigned present) {
    require_warp(present, "mma");
    auto lanes = reinterpret_cast<Product **>(arguments);
    // The pairs of A by row, those of B by pair along K.
    unsigned a_pairs[16][8], b_pairs[8][8];
    for (int lane = 0; lane < 32; lane++) {
        int group = lane / 4, in_group = lane % 4;
        const unsigned *a = lanes[lane]->a, *b = lanes[lane]->b;
        a_pairs[group][in_group] = a[0], a_pairs[group + 8][in_group] = a[1];
        a_pairs[group][in_group + 4] = a[2], a_pairs[group + 8][in_group + 4] = a[3];
        b_pairs[in_group][group] = b[0], b_pairs[in_group + 4][group] = b[1];
    }
    Halves<16> a;
    Halves<8> b;
    widen_pairs(a_pairs, a);
    widen_pairs(b_pairs, b);
    typedef float Row __attribute__((vector_size(32), aligned(4)));
    for (int half = 0; half < 16; half += 8) {
        Row sums[8] = {};
        for (int k = 0; k < 8; k++) {
            Row even = *reinterpret_cast<Row *>(b.even[k]), odd = *reinterpret_cast<Row *>(b.odd[k]);
#pragma GCC unroll 8
            for (int row = 0; row < 8; row++)
                sums[row] += a.even[half + row][k] * even + a.odd[half + row][k] * odd;
        }
        for (int lane = 0; lane < 32; lane++) {
            float *d = lanes[lane]->d + half / 4;
            d[0] += sums[lane / 4][lane % 4 * 2], d[1] += sums[lane / 4][lane % 4 * 2 + 1];
        }
    }
}

} // namespace emulated_cuda

inline void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    emulated_cuda::Product mine{d, a, b};
    emulated_cuda_collective(0xffffffff, emulated_cuda::multiply, &mine);
}

// ---- ldmatrix --------------------------------------------------------------------------------------------------

namespace emulated_cuda {

struct MatrixLoad {
    unsigned *registers;
    const void *row;
};

/// Lanes 8i to 8i+7 name the rows of 8×8 matrix i; register i of a lane is a pair of its elements.
template <bool Transposed> EMULATED_CUDA_UNCHECKED inline void load_matrices(void **arguments, unsigned present) {
    require_warp(present, "ldmatrix");
    auto lanes = reinterpret_cast<MatrixLoad **>(arguments);
    for (int i = 0; i < 4; i++) {
        unsigned short matrix[8][8];
        for (int row = 0; row < 8; row++) {
            const void *from = lanes[i * 8 + row]->row;
            if (reinterpret_cast<Size>(from) % 16)
                emulated_cuda_fail("ldmatrix: the row that lane %d names is not aligned to 16 bytes", i * 8 + row);
            __builtin_memcpy(matrix[row], from, 16);
        }
        for (int lane = 0; lane < 32; lane++) {
            int major = lane / 4, minor = lane % 4 * 2;
            unsigned low = Transposed ? matrix[minor][major] : matrix[major][minor];
            unsigned high = Transposed ? matrix[minor + 1][major] : matrix[major][minor + 1];
            lanes[lane]->registers[i] = high << 16 | low;
        }
    }
}

template <bool Transposed> inline void ldmatrix(unsigned (&r)[4], const void *row) {
    MatrixLoad mine{r, row};
    emulated_cuda_collective(0xffffffff, load_matrices<Transposed>, &mine);
}

} // namespace emulated_cuda

inline void ldmatrix_x4(unsigned (&r)[4], const void *row) { emulated_cuda::ldmatrix<false>(r, row); }
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void *row) { emulated_cuda::ldmatrix<true>(r, row); }

// ---- cp.async --------------------------------------------------------------------------------------------------

namespace emulated_cuda {

/// Lands the copies of all groups before `group`.
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

/// A copy lands at the last moment that the instruction set allows: at the wait that covers it. Until then its
/// destination is poison.
inline void cp_async_16(void *to, const void *from, int bytes = 16) {
    emulated_cuda::Thread &thread = *emulated_cuda_current;
    if (bytes < 0 || bytes > 16) emulated_cuda_fail("cp.async of %d of 16 bytes", bytes);
    if (reinterpret_cast<emulated_cuda::Size>(to) % 16 || (bytes && reinterpret_cast<emulated_cuda::Size>(from) % 16))
        emulated_cuda_fail("cp.async from %p to %p, which are not aligned to 16 bytes", from, to);
    if (thread.copies == sizeof thread.copy / sizeof *thread.copy)
        emulated_cuda_fail("cp.async: more than %u copies of a thread on their way", thread.copies);
    __builtin_memset(to, 0xff, 16);
    thread.copy[thread.copies++] = {to, from, unsigned(bytes), thread.committed};
}
inline void cp_async_commit() { emulated_cuda_current->committed++; }
template <int N> inline void cp_async_wait() {
    unsigned committed = emulated_cuda_current->committed;
    emulated_cuda::land_copies(committed < N ? 0 : committed - N);
}
