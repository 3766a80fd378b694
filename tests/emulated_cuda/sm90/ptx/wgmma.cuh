// Emulates kernels/sm90/ptx/wgmma.cuh, with the matrix layouts of the PTX ISA, 9.7.15 ("wgmma"),
// and the 128-byte swizzle. A wgmma executes at the wait that covers it.
#pragma once

#include "sm90/ptx/box.cuh"

inline unsigned warp_uniform(unsigned x) { return x; }
template <unsigned Count> inline void warpgroup_reg_dealloc() { static_assert(Count >= 24 && Count <= 256 && Count % 8 == 0); }
template <unsigned Count> inline void warpgroup_reg_alloc() { static_assert(Count >= 24 && Count <= 256 && Count % 8 == 0); }

// A descriptor is an address. Its upper 16 bits are the stride of 64 columns in units of 16 bytes.
inline unsigned long long smem_desc(const void *in_shared, unsigned leading = 16) {
    return reinterpret_cast<unsigned long long>(in_shared) | (unsigned long long)(leading / 16) << 48;
}
inline unsigned long long advance(unsigned long long desc, unsigned bytes) { return desc + bytes; }

namespace emulated_cuda {

/// Widens a chunk of 16 bytes in a row of a matrix: 16 codes of E4M3, or eight BF16.
inline void widen_chunk(unsigned long long matrix, unsigned offset, float (&to)[16]) {
    const char *start = swizzled(reinterpret_cast<char *>(matrix & 0xffffffffffff) + offset);
    for (unsigned i = 0; i < 16; i++) to[i] = float_from_e4m3((unsigned char)start[i]);
}
inline void widen_chunk(unsigned long long matrix, unsigned offset, float (&to)[8]) {
    char *start = reinterpret_cast<char *>(matrix & 0xffffffffffff);
    unsigned short bits[8];
    __builtin_memcpy(bits, swizzled(start + offset), 16);
    for (unsigned i = 0; i < 8; i++) to[i] = float_from_bf16(bits[i]);
}

/// One warp's part of a wgmma over K elements, 32 bytes, for all its lanes: sixteen rows. A lane
/// holds two rows and two of every eight columns. A register has as many elements along K as fit
/// it. Only BF16 may be MN-major.
template <unsigned K> EMULATED_CUDA_UNCHECKED inline void multiply(Wgmma *const (&lanes)[32]) {
    const Wgmma &w = *lanes[0];
    const unsigned warp = emulated_cuda_current->thread.x / 32 % 4, across = unsigned(w.right >> 48) * 16;
    constexpr unsigned step = K / 2;
    float a[16][K], b[K][256], chunk[step];
    for (unsigned lane = 0; w.left_in_registers && lane < 32; lane++)
        for (unsigned i = 0; i < 4; i++) {
            const unsigned bits = lanes[lane]->registers[i];
            float *to = a[lane / 4 + i % 2 * 8] + i / 2 * step + lane % 4 * (step / 4);
            for (unsigned j = 0; j < step / 4; j++)
                to[j] = K == 32 ? float_from_e4m3((unsigned char)(bits >> 8 * j)) : float_from_bf16((unsigned short)(bits >> 16 * j % 32));
        }
    for (unsigned row = 0; !w.left_in_registers && row < 16; row++)
        for (unsigned k = 0; k < K; k += step) {
            widen_chunk(w.left, (16 * warp + row) * 128 + k / step * 16, chunk);
            __builtin_memcpy(a[row] + k, chunk, sizeof chunk);
        }
    for (unsigned n = 0; w.right_in_rows && n < w.columns; n += step)
        for (unsigned k = 0; k < K; k++) {
            widen_chunk(w.right, n / 64 * across + k * 128 + n % 64 * 2, chunk);
            __builtin_memcpy(b[k] + n, chunk, sizeof chunk);
        }
    for (unsigned n = 0; !w.right_in_rows && n < w.columns; n++)
        for (unsigned k = 0; k < K; k += step) {
            widen_chunk(w.right, n * 128 + k / step * 16, chunk);
            for (unsigned i = 0; i < step; i++) b[k + i][n] = chunk[i];
        }
    typedef float Row __attribute__((vector_size(32), aligned(4)));
    for (unsigned n = 0; n < w.columns; n += 8)
        for (unsigned half = 0; half < 2; half++) {
            Row sums[8] = {};
            for (unsigned k = 0; k < K; k++) {
                const Row right = *reinterpret_cast<Row *>(b[k] + n);
#pragma GCC unroll 8
                for (unsigned row = 0; row < 8; row++) sums[row] += a[8 * half + row][k] * right;
            }
            for (unsigned lane = 0; lane < 32; lane++)
                for (unsigned i = 0; i < 2; i++) {
                    float &d = lanes[lane]->sums[n / 2 + 2 * half + i], sum = sums[lane / 4][lane % 4 * 2 + i];
                    d = w.add ? d + sum : sum;
                }
        }
}

struct Landing {
    Wgmma *first;
    unsigned count;
};
inline void land_products(void **arguments, unsigned present) {
    require_warp(present, "wgmma");
    auto all = reinterpret_cast<Landing **>(arguments);
    for (unsigned i = 0; i < all[0]->count; i++) {
        Wgmma *lanes[32];
        for (unsigned lane = 0; lane < 32; lane++) {
            lanes[lane] = all[lane]->first + i;
            if (all[lane]->count != all[0]->count || lanes[lane]->left != lanes[0]->left || lanes[lane]->right != lanes[0]->right)
                emulated_cuda_fail("the lanes of a warp disagree on a wgmma");
        }
        if (lanes[0]->e4m3) multiply<32>(lanes);
        else multiply<16>(lanes);
    }
}

/// How a wgmma differs from one of BF16 with a K-major right operand.
struct Form {
    bool right_in_rows, e4m3;
};
constexpr Form MN_MAJOR{true, false}, E4M3{false, true};
inline void issue(float *d, unsigned columns, const unsigned *registers, unsigned long long a, unsigned long long b, bool add,
                  Form form = {}) {
    Thread &mine = *emulated_cuda_current;
    if (mine.wgmmas == sizeof mine.wgmma / sizeof *mine.wgmma) emulated_cuda_fail("more than %u wgmma", mine.wgmmas);
    Wgmma &w = mine.wgmma[mine.wgmmas++];
    w = {d, a, b, {}, columns, mine.wgmma_committed, add, registers != nullptr, form.right_in_rows, form.e4m3};
    if (registers) __builtin_memcpy(w.registers, registers, sizeof w.registers);
}

} // namespace emulated_cuda

inline void wgmma_fence() { emulated_cuda_barrier(8 + emulated_cuda_current->thread.x / 128, 128, false); }
inline void wgmma_commit() { emulated_cuda_current->wgmma_committed++; }
template <int Pending> inline void wgmma_wait() {
    using namespace emulated_cuda;
    Thread &mine = *emulated_cuda_current;
    unsigned landed = 0;
    while (landed < mine.wgmmas && mine.wgmma[landed].group + Pending < mine.wgmma_committed) landed++;
    Landing landing{mine.wgmma, landed};
    emulated_cuda_collective(0xffffffff, land_products, &landing);
    mine.wgmmas -= landed;
    __builtin_memmove(mine.wgmma, mine.wgmma + landed, mine.wgmmas * sizeof(Wgmma));
    // One thread of a warpgroup may arrive for the whole warpgroup afterwards.
    emulated_cuda_barrier(8 + emulated_cuda_current->thread.x / 128, 128, false);
}
template <int Count> inline void warpgroup_fence_operand(float (&acc)[Count]) { asm volatile("" : : "r"(acc) : "memory"); }

template <int Sums> inline void wgmma_ss(float (&d)[Sums], unsigned long long a, unsigned long long b, bool add) {
    static_assert(Sums == 32 || Sums == 64 || Sums == 96 || Sums == 128, "the widths of the kernels");
    emulated_cuda::issue(d, Sums * 2, nullptr, a, b, add);
}
template <int Sums> inline void wgmma_ss_e4m3(float (&d)[Sums], unsigned long long a, unsigned long long b, bool add) {
    static_assert(Sums == 32 || Sums == 64 || Sums == 96 || Sums == 128, "the widths of the kernels");
    emulated_cuda::issue(d, Sums * 2, nullptr, a, b, add, emulated_cuda::E4M3);
}
inline void wgmma_ss_mn(float (&d)[128], unsigned long long a, unsigned long long b, bool add) {
    emulated_cuda::issue(d, 256, nullptr, a, b, add, emulated_cuda::MN_MAJOR);
}
inline void wgmma_rs(float (&d)[64], const unsigned (&a)[4], unsigned long long b, bool add) {
    emulated_cuda::issue(d, 128, a, 0, b, add, emulated_cuda::MN_MAJOR);
}
inline void wgmma_rs_e4m3(float (&d)[64], const unsigned (&a)[4], unsigned long long b, bool add) {
    emulated_cuda::issue(d, 128, a, 0, b, add, emulated_cuda::E4M3);
}
