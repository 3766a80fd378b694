// residual_norm: x += tanh(gate) ⊙ RMS(y)·norm, then out = RMS(x)·weight·(1 + scale) of the new x
// before it is rounded to BF16. rms_norm is the second half alone, residual the first.
//
// Grid: a CTA of THREADS per token, which stays in registers between the two halves.
//
// A thread issues its loads of x, y and the gate before it uses any, and keeps them packed: it
// needs so few registers that an SM has 24 warps. No pointer is `restrict`: the compiler could move
// its loads ahead of griddepcontrol_wait, and the previous kernel may be writing to any of them,
// even to a weight that it converts.
//
// With OUT_FP8, out is an FP8 activation with one scale a token, from the values before rounding.
// Constants: THREADS, VECTOR (8, or 1 if width is not a multiple of 8), PARTS (vectors per thread),
// HAS_BRANCH, HAS_NORM, HAS_GATE, HAS_OUT, HAS_SCALE, OUT_FP8 (width is a multiple of 16).

#include "common/fp8.cuh"
#include "common/reduce.cuh"
#include "common/vec.cuh"
#include "sm90/ptx/pdl.cuh"

#ifndef THREADS
#define THREADS 128
#define VECTOR 8
#define PARTS 4
#define HAS_BRANCH 1
#define HAS_NORM 1
#define HAS_GATE 1
#define HAS_OUT 1
#define HAS_SCALE 1
#endif
#ifndef OUT_FP8
#define OUT_FP8 0
#endif

static_assert(!OUT_FP8 || VECTOR == 8, "codes are stored eight at a time");

extern "C" __global__ void __launch_bounds__(THREADS, THREADS < 768 ? 768 / THREADS : 1)
    residual_norm(bf16 *x, const bf16 *y, const float *norm, const bf16 *gate, const float *weight, const bf16 *scale,
                  void *out, float *scales, unsigned tokens, unsigned width, unsigned gate_stride, unsigned gate_offset,
                  unsigned scale_stride, unsigned scale_offset, float branch_eps, float eps) {
    __shared__ float scratch[2][THREADS / 32];
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    // Last tokens first: the GEMM that made y may have written them last, and the L2 still has
    // them.
    const unsigned token = gridDim.x - 1 - blockIdx.x, item = token / tokens;
    bf16 *row = x + static_cast<u64>(token) * width;
    const bf16 *y_row = y + static_cast<u64>(token) * width;
    const bf16 *gate_row = gate + static_cast<u64>(item) * gate_stride + gate_offset;
    PackedVec<VECTOR> packed_x[PARTS], packed_y[PARTS], packed_gate[PARTS];
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        const unsigned at = (i * THREADS + threadIdx.x) * VECTOR;
        if (at >= width) continue;
        load_packed(packed_x[i], row + at);
        if (HAS_BRANCH) load_packed(packed_y[i], y_row + at);
        if (HAS_GATE) load_packed(packed_gate[i], gate_row + at);
    }
    Vec<VECTOR> values[PARTS];
    if (!HAS_BRANCH) {
#pragma unroll
        for (int i = 0; i < PARTS; i++) values[i] = unpack(packed_x[i]);
    } else {
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const unsigned at = (i * THREADS + threadIdx.x) * VECTOR;
            if (at >= width) continue;
            const Vec<VECTOR> branch = unpack(packed_y[i]);
#pragma unroll
            for (int j = 0; j < VECTOR; j++) squares += branch.value[j] * branch.value[j];
        }
        const float factor = HAS_NORM ? rsqrtf(block_sum<THREADS>(squares, scratch[0]) / width + branch_eps) : 1.0f;
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const unsigned at = (i * THREADS + threadIdx.x) * VECTOR;
            if (at >= width) continue;
            Vec<VECTOR> norms, branch = unpack(packed_y[i]), gates = unpack(packed_gate[i]);
            values[i] = unpack(packed_x[i]);
            if (HAS_NORM) load_vec(norms, norm + at);
#pragma unroll
            for (int j = 0; j < VECTOR; j++) {
                float value = branch.value[j];
                if (HAS_NORM) value *= factor * norms.value[j];
                if (HAS_GATE) value *= tanhf(gates.value[j]);
                values[i].value[j] += value;
            }
            store_vec(row + at, values[i]);
        }
    }
    if (HAS_OUT) {
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const unsigned at = (i * THREADS + threadIdx.x) * VECTOR;
            if (at >= width) continue;
#pragma unroll
            for (int j = 0; j < VECTOR; j++) squares += values[i].value[j] * values[i].value[j];
        }
        const float factor = rsqrtf(block_sum<THREADS>(squares, scratch[1]) / width + eps);
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const unsigned at = (i * THREADS + threadIdx.x) * VECTOR;
            if (at >= width) continue;
            Vec<VECTOR> weights, added;
            load_vec(weights, weight + at);
            if (HAS_SCALE) load_vec(added, scale + static_cast<u64>(item) * scale_stride + scale_offset + at);
#pragma unroll
            for (int j = 0; j < VECTOR; j++) {
                values[i].value[j] *= factor * weights.value[j];
                if (HAS_SCALE) values[i].value[j] *= 1.0f + added.value[j];
            }
            if (!OUT_FP8) store_vec(static_cast<bf16 *>(out) + static_cast<u64>(token) * width + at, values[i]);
        }
        if constexpr (OUT_FP8) {
            float amax = 0.0f;
#pragma unroll
            for (int i = 0; i < PARTS; i++) {
                if ((i * THREADS + threadIdx.x) * VECTOR >= width) continue;
#pragma unroll
                for (int j = 0; j < VECTOR; j++) amax = fmaxf(amax, fabsf(values[i].value[j]));
            }
            // All threads have read the first row of `scratch` before the barrier of the second.
            const Fp8Scale quantized = Fp8Scale::of_row(block_max<THREADS>(amax, scratch[0]));
            if (threadIdx.x == 0) scales[token] = quantized.scale;
#pragma unroll
            for (int i = 0; i < PARTS; i++) {
                const unsigned at = (i * THREADS + threadIdx.x) * VECTOR;
                if (at >= width) continue;
                store_codes(static_cast<fp8 *>(out) + static_cast<u64>(token) * width + at, values[i], quantized);
            }
        }
    }
}
