// Emulates kernels/common/ptx/mma.cuh, according to the PTX ISA, 9.7, "Warp-level matrix
// instructions".
#pragma once

#include "common/ptx/convert.cuh"

// Turns the sanitizer off. It checks kernels, and would only cost time here.
#define EMULATED_CUDA_UNCHECKED __attribute__((no_sanitize("undefined")))

namespace emulated_cuda {

inline void require_warp(unsigned lanes, const char *instruction) {
    if (lanes != 0xffffffff) emulated_cuda_fail("%s without all lanes of the warp (%08x are there)", instruction, lanes);
}

struct Mma {
    float *d;
    const unsigned *a, *b;
};

/// Pairs of BF16 along K: the values at even k, and those at odd k.
template <int Rows> struct Pairs {
    float even[Rows][8], odd[Rows][8];
};
template <int Rows>
EMULATED_CUDA_UNCHECKED inline void widen_pairs(const unsigned (&pairs)[Rows][8], Pairs<Rows> &out) {
    for (int row = 0; row < Rows; row++)
        for (int i = 0; i < 8; i++) {
            out.even[row][i] = float_from_bf16((unsigned short)pairs[row][i]);
            out.odd[row][i] = float_from_bf16((unsigned short)(pairs[row][i] >> 16));
        }
}

/// D += A·B for all 32 lanes, with the fragments of m16n8k16. A lane's registers hold pairs along
/// K. The registers of A cover the two halves of the rows and then of K, those of B the halves of
/// K.
EMULATED_CUDA_UNCHECKED inline void multiply(void **arguments, unsigned present) {
    require_warp(present, "mma");
    auto lanes = reinterpret_cast<Mma **>(arguments);
    // Pairs of A by row, and pairs of B by position along K.
    unsigned a_pairs[16][8], b_pairs[8][8];
    for (int lane = 0; lane < 32; lane++) {
        int group = lane / 4, in_group = lane % 4;
        const unsigned *a = lanes[lane]->a, *b = lanes[lane]->b;
        a_pairs[group][in_group] = a[0], a_pairs[group + 8][in_group] = a[1];
        a_pairs[group][in_group + 4] = a[2], a_pairs[group + 8][in_group + 4] = a[3];
        b_pairs[in_group][group] = b[0], b_pairs[in_group + 4][group] = b[1];
    }
    Pairs<16> a;
    Pairs<8> b;
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
    emulated_cuda::Mma mine{d, a, b};
    emulated_cuda_collective(0xffffffff, emulated_cuda::multiply, &mine);
}

namespace emulated_cuda {

/// D += A·B for all 32 lanes, with the fragments of m16n8k32: as above, with four E4M3 codes in a
/// register.
EMULATED_CUDA_UNCHECKED inline void multiply_e4m3(void **arguments, unsigned present) {
    require_warp(present, "mma");
    auto lanes = reinterpret_cast<Mma **>(arguments);
    float a[16][32], b[8][32];
    auto widen = [](unsigned codes, float *to) {
        for (int i = 0; i < 4; i++) to[i] = float_from_e4m3((unsigned char)(codes >> 8 * i));
    };
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) widen(lanes[lane]->a[i], a[lane / 4 + i % 2 * 8] + i / 2 * 16 + lane % 4 * 4);
        for (int i = 0; i < 2; i++) widen(lanes[lane]->b[i], b[lane / 4] + i * 16 + lane % 4 * 4);
    }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            float sum = 0;
            for (int k = 0; k < 32; k++) sum += a[lane / 4 + i / 2 * 8][k] * b[lane % 4 * 2 + i % 2][k];
            lanes[lane]->d[i] += sum;
        }
}

} // namespace emulated_cuda

inline void mma_m16n8k32_e4m3(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    emulated_cuda::Mma mine{d, a, b};
    emulated_cuda_collective(0xffffffff, emulated_cuda::multiply_e4m3, &mine);
}

namespace emulated_cuda {

struct MatrixLoad {
    unsigned *registers;
    const void *row;
};

/// Lanes 8i to 8i+7 pass the rows of 8×8 matrix i. Register i of a lane is a pair of its elements.
template <bool Transposed> EMULATED_CUDA_UNCHECKED inline void load_matrices(void **arguments, unsigned present) {
    require_warp(present, "ldmatrix");
    auto lanes = reinterpret_cast<MatrixLoad **>(arguments);
    for (int i = 0; i < 4; i++) {
        unsigned short matrix[8][8];
        for (int row = 0; row < 8; row++) {
            const void *from = lanes[i * 8 + row]->row;
            if (reinterpret_cast<Size>(from) % 16)
                emulated_cuda_fail("ldmatrix: the row that lane %d passes is not aligned to 16 bytes", i * 8 + row);
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
