// Epilogues of the tiled GEMMs (gemm/tile.cuh, sm90/gemm.cuh): from F32 accumulators to BF16 or FP8
// outputs.
#pragma once

#include "common/fp8.cuh"
#include "common/math.cuh"
#include "common/ptx/convert.cuh"
#include "common/reduce.cuh"
#include "common/types.cuh"

constexpr unsigned NO_ROW = 0xffffffffu;

// The hooks and their defaults. An epilogue derives from it, must define
//   unsigned pair(row, column, a, b): the output of columns `column` and `column` + 1 of a row, two
//   BF16 or one; called only for rows and columns that exist,
// unless OUT_FP8 is true, and hides a default that does not suit it.
struct Epilogue {
    // Output columns per two columns of the product: 2, or 1.
    static constexpr unsigned OUT_PER_PAIR = 2;
    // The output is an FP8 activation with a scale for each SCALE_BLOCK columns, one output column
    // per two columns of the product: `transform` leaves the output of a pair in its first element.
    // In each 32 columns of the product, the pair at 8·j + 2·q is output column 4·q + j of 16, so
    // that a lane has four neighbouring ones. The epilogue defines
    //   Fp8Scale block_scale(row, amax): the scale of a block;
    //   void store_scale(row, block, scale).
    static constexpr bool OUT_FP8 = false;
    // A has a scale for each SCALE_BLOCK columns; neighbouring ones are mostly equal (Fp8Scale).
    // Where they differ, the gemm multiplies its sums by the quotient of the old one and the new
    // one. It leaves the last one in Inputs::x. The epilogue defines
    //   float x_scale(row, block): the scale, 0 for NO_ROW.
    static constexpr bool HAS_BLOCK_SCALES = false;

    // The output of Hopper's gemm is a fused projection in FP8 (common/fp8.cuh): `transform` leaves
    // its values over their scales. Columns from `first_value` on are transposed. The epilogue
    // defines
    //   unsigned first_value, a multiple of 64, and
    //   const TensorMap &values: the map of the transposed columns.
    static constexpr bool OUT_PROJECTION = false;

    // Called by every thread that has accumulators before its first tile, when the op's inputs are
    // there.
    __device__ __forceinline__ void begin() {}

    // load_inputs loads scales or a residual for all accumulators that a thread holds of two rows:
    // before the k loop, if registers allow it, so that they arrive meanwhile. `apply` multiplies
    // by the scales or adds the residual.
    // acc[4·j + 2·half + i] is column `column` + 8·j + lane % 4 · 2 + i of rows[half], which may be
    // NO_ROW.
    template <unsigned Count> struct Inputs {};
    template <unsigned Count>
    __device__ __forceinline__ Inputs<Count> load_inputs(const unsigned (&)[2], unsigned) const {
        return {};
    }
    template <unsigned Count> __device__ __forceinline__ void apply(float (&)[Count], const Inputs<Count> &) const {}

    // Changes all these accumulators, before any pair is made.
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

// x·Wᵀ + residual + bias, in F32; residual `[m, n]`. AlignedOut: n is a multiple of 8. Early:
// load_inputs loads all of a thread's residual.
template <bool HasBias, bool HasResidual, bool AlignedOut, bool Early>
struct ResidualEpilogue : BiasEpilogue<HasBias> {
    using BiasEpilogue<HasBias>::n;

    const bf16 *residual;

    // Two values of the residual a word.
    template <unsigned Count> struct Inputs {
        unsigned residual[HasResidual && Early ? Count / 2 : 1];
    };

    template <unsigned Count>
    __device__ __forceinline__ Inputs<Count> load_inputs(const unsigned (&rows)[2], unsigned column) const {
        Inputs<Count> loaded;
        if constexpr (HasResidual && Early) {
#pragma unroll
            for (unsigned i = 0; i < Count / 2; i++) {
                const unsigned row = rows[i % 2], at = column + i / 2 * 8 + threadIdx.x % 4 * 2;
                loaded.residual[i] = row != NO_ROW && at < n ? residual_pair(row, at) : 0;
            }
        }
        return loaded;
    }

    template <unsigned Count>
    __device__ __forceinline__ void apply(float (&acc)[Count], const Inputs<Count> &loaded) const {
        if constexpr (HasResidual && Early) {
#pragma unroll
            for (unsigned i = 0; i < Count / 2; i++) add(acc[2 * i], acc[2 * i + 1], loaded.residual[i]);
        }
    }

    __device__ __forceinline__ unsigned pair(unsigned row, unsigned column, float a, float b) const {
        if (HasResidual && !Early) add(a, b, residual_pair(row, column));
        return BiasEpilogue<HasBias>::pair(row, column, a, b);
    }

  private:
    // The residual of columns `column` and `column` + 1, zero for one that does not exist.
    __device__ __forceinline__ unsigned residual_pair(unsigned row, unsigned column) const {
        const bf16 *from = residual + static_cast<u64>(row) * n + column;
        if (AlignedOut) return *reinterpret_cast<const unsigned *>(from);
        return from[0].bits | (column + 1 < n ? static_cast<unsigned>(from[1].bits) << 16 : 0);
    }

    static __device__ __forceinline__ void add(float &a, float &b, unsigned pair) {
        a += low_bf16(pair);
        b += high_bf16(pair);
    }
};

// SiLU(gate)·up, where rows of the two matrices alternate in W.
struct SwiGluEpilogue : Epilogue {
    static constexpr unsigned OUT_PER_PAIR = 1;

    __device__ __forceinline__ unsigned pair(unsigned, unsigned, float gate, float up) const {
        return bf16_from_float(silu(gate) * up);
    }
};

// E behind the scales of FP8 operands `[m, k]` and `[n, k]`: one a row of W, and one a row of A or,
// with BlockScales, one for each SCALE_BLOCK columns of a row.
template <class E, bool BlockScales> struct ScaledEpilogue : E {
    static constexpr bool HAS_BLOCK_SCALES = BlockScales;

    const float *x_scales, *w_scales;
    unsigned m, n;

    __device__ __forceinline__ float x_scale(unsigned row, unsigned block) const {
        return row == NO_ROW ? 0.0f : x_scales[static_cast<u64>(block) * m + row];
    }

    // A lane loads a scale of each 32 columns, and the lanes that need it get it by a shuffle.
    template <unsigned Count> struct Inputs {
        float w[(Count + 15) / 16], x[2];
    };

    template <unsigned Count>
    __device__ __forceinline__ Inputs<Count> load_inputs(const unsigned (&rows)[2], unsigned column) const {
        Inputs<Count> scales;
#pragma unroll
        for (unsigned i = 0; i < (Count + 15) / 16; i++) {
            // Sums past column n are zeros, or NaN, whichever scale they get.
            scales.w[i] = w_scales[min(column + 32 * i + threadIdx.x % 32, n - 1)];
        }
#pragma unroll
        for (unsigned half = 0; half < 2; half++) scales.x[half] = x_scale(rows[half], 0);
        return scales;
    }

    template <unsigned Count>
    __device__ __forceinline__ void apply(float (&acc)[Count], const Inputs<Count> &scales) const {
#pragma unroll
        for (unsigned i = 0; i < Count; i += 4) {
#pragma unroll
            for (unsigned odd = 0; odd < 2; odd++) {
                const unsigned from = i % 16 * 2 + threadIdx.x % 4 * 2 + odd;
                const float own = __shfl_sync(0xffffffffu, scales.w[i / 16], from);
#pragma unroll
                for (unsigned half = 0; half < 2; half++) {
                    float &sum = acc[i + 2 * half + odd];
                    sum = sum * scales.x[half] * own;
                }
            }
        }
    }
};

// SiLU(gate)·up with FP8 operands `[m, k]` and `[n, k]`, to an FP8 activation. With
// SiLU(x) = x/2·(1 + tanh(x/2)), one operation of the special function units suffices. Its error
// is at most |x|·2^-12: a hundredth of what rounding to E4M3 adds for positive x, up to 1.3 % of
// SiLU for x from -4 on, and all of it where that is below 10^-3.
struct Fp8SwiGluEpilogue : ScaledEpilogue<Epilogue, false> {
    static constexpr bool OUT_FP8 = true;

    float *out_scales;
    unsigned k;
    // The unit of a row's scales in terms of its x_scale squared, which begin() finds.
    float unit = 0.0f;

    // Estimates the magnitude of the output from scales. The maxima of most blocks should lie amid
    // those of one scale, 1.75 to 448 times a row's unit. The maximum of a row of normal numbers is
    // near 3.9 deviations. So a gate has the deviation √k·(448 / 3.9)²·x_scale·w_scale. A block's
    // maximum is near 3.5 times the product of the deviations of gate and up. That is 28 units.
    __device__ __forceinline__ void begin() {
        constexpr float DEVIATION = 448.0f / 3.9f;
        const unsigned pair = threadIdx.x % 32 * (n / 2) / 32;
        const float gate = lane_sum<32>(w_scales[2 * pair]) / 32, up = lane_sum<32>(w_scales[2 * pair + 1]) / 32;
        unit = k * (DEVIATION * DEVIATION * gate) * (DEVIATION * DEVIATION * up) / 8;
    }

    template <unsigned Count>
    __device__ __forceinline__ void transform(float (&acc)[Count], const unsigned (&)[2], unsigned) const {
#pragma unroll
        for (unsigned i = 0; i < Count; i += 2) {
            const float half = 0.5f * acc[i];
            acc[i] = fmaf(half, tanh_approx(half), half) * acc[i + 1];
        }
    }

    __device__ __forceinline__ Fp8Scale block_scale(unsigned row, float amax) const {
        const float x = x_scale(row, 0);
        return Fp8Scale::of_block(amax, unit * x * x);
    }

    __device__ __forceinline__ void store_scale(unsigned row, unsigned block, float scale) const {
        out_scales[static_cast<u64>(block) * m + row] = scale;
    }
};
