// PTX stmatrix: stores of fragments. The PTX ISA defines how a warp holds them.
#pragma once

#include "common/ptx/shared.cuh"

// Stores four 8×8 matrices of 16-bit elements, transposed: lane i passes the address of column i%8
// of matrix i/8, and elements (i/4, 2·(i%4)) and (i/4, 2·(i%4) + 1) of each matrix. From sm_90 on.
__device__ __forceinline__ void stmatrix_x4_trans(void *column, const unsigned (&from)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(column)),
                 "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
                 : "memory");
}
