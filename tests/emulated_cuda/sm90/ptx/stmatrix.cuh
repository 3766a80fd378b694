// Emulates kernels/sm90/ptx/stmatrix.cuh, according to the PTX ISA, 9.7.14 ("stmatrix").
#pragma once

#include "common/ptx/mma.cuh"

namespace emulated_cuda {

struct MatrixStore {
    void *column;
    const unsigned *registers;
};

/// Lanes 8i to 8i+7 pass the columns of 8×8 matrix i. Register i of a lane is a pair of its
/// elements.
EMULATED_CUDA_UNCHECKED inline void store_transposed(void **arguments, unsigned present) {
    require_warp(present, "stmatrix");
    auto lanes = reinterpret_cast<MatrixStore **>(arguments);
    for (int i = 0; i < 4; i++) {
        unsigned short columns[8][8];
        for (int lane = 0; lane < 32; lane++) {
            const unsigned pair = lanes[lane]->registers[i];
            columns[lane % 4 * 2][lane / 4] = (unsigned short)pair;
            columns[lane % 4 * 2 + 1][lane / 4] = (unsigned short)(pair >> 16);
        }
        for (int column = 0; column < 8; column++) {
            void *to = lanes[i * 8 + column]->column;
            if (reinterpret_cast<Size>(to) % 16)
                emulated_cuda_fail("stmatrix: the column that lane %d passes is not aligned to 16 bytes", i * 8 + column);
            __builtin_memcpy(to, columns[column], 16);
        }
    }
}

} // namespace emulated_cuda

inline void stmatrix_x4_trans(void *column, const unsigned (&from)[4]) {
    emulated_cuda::MatrixStore mine{column, from};
    emulated_cuda_collective(0xffffffff, emulated_cuda::store_transposed, &mine);
}
