// Epilogues of the tiled GEMMs (gemm/tile.cuh, sm90/gemm.cuh): from F32 accumulators to BF16
// outputs.
#pragma once

#include "common/math.cuh"
#include "common/types.cuh"

// The hooks and their defaults. An epilogue derives from it, must define
//   unsigned pair(row, column, a, b): the output of columns `column` and `column` + 1 of a row, two
//   BF16 or one; called only for rows and columns that exist,
// and hides a default that does not suit it.
struct Epilogue {
    // Output columns per two columns of the product: 2, or 1.
    static constexpr unsigned OUT_PER_PAIR = 2;

    // Changes all accumulators that a thread holds of a tile, before any pair is made; sm90 only.
    // acc[4·j + 2·half + i] is column `column` + 8·j + lane % 4 · 2 + i of rows[half].
    template <class Acc, class Rows>
    __device__ __forceinline__ void transform(Acc &, const Rows &, unsigned) {}
};

// x·Wᵀ + bias.
template <bool HasBias> struct BiasEpilogue : Epilogue {
    const float *bias;
    unsigned n;

    __device__ __forceinline__ unsigned pair(unsigned, unsigned column, float a, float b) const {
        if (HasBias) {
            a += bias[column];
            b += column + 1 < n ? bias[column + 1] : 0.0f;
        }
        return bf16x2_from_floats(a, b);
    }
};

// x·Wᵀ + bias + residual, in F32; residual `[m, n]`. AlignedOut: n is a multiple of 8.
template <bool HasBias, bool HasResidual, bool AlignedOut> struct ResidualEpilogue : Epilogue {
    const float *bias;
    const bf16 *residual;
    unsigned n;

    __device__ __forceinline__ unsigned pair(unsigned row, unsigned column, float a, float b) const {
        const bool both = column + 1 < n;
        if (HasBias) {
            a += bias[column];
            b += both ? bias[column + 1] : 0.0f;
        }
        if (HasResidual) {
            const bf16 *from = residual + static_cast<u64>(row) * n + column;
            if (AlignedOut) {
                const unsigned word = *reinterpret_cast<const unsigned *>(from);
                a += low_bf16(word);
                b += high_bf16(word);
            } else {
                a += to_float(from[0]);
                b += both ? to_float(from[1]) : 0.0f;
            }
        }
        return bf16x2_from_floats(a, b);
    }
};

// SiLU(gate)·up, where rows of the two matrices alternate in W.
struct SwiGluEpilogue : Epilogue {
    static constexpr unsigned OUT_PER_PAIR = 1;

    __device__ __forceinline__ unsigned pair(unsigned, unsigned, float gate, float up) const {
        return bf16_from_float(silu(gate) * up);
    }
};
