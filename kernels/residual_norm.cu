// residual_norm: x += tanh(gate) ⊙ RMS(y)·norm, and h = RMS(x)·weight·(1 + scale) of the new x, in one pass: a block takes a
// token and keeps it in registers. rms_norm is the second half alone, residual the first. x is normed before it is
// rounded to BF16.
//
// What a thread reads of x, y and the gate is on its way before it uses any, and kept as it is stored: so it takes few
// registers, and a multiprocessor 24 warps. No pointer is declared restrict: the compiler might read ahead of
// wait_for_previous what it points to, and each of these may be what the kernel before is writing, a weight that it widens too.
// Constants: THREADS, VECTOR (8, or 1 where width is no multiple of 8), PARTS (vectors of a thread), HAS_BRANCH, HAS_NORM,
// HAS_GATE, HAS_OUT, HAS_SCALE.

extern "C" __global__ void __launch_bounds__(THREADS, THREADS < 768 ? 768 / THREADS : 1)
    residual_norm(bf16 *x, const bf16 *y, const float *norm, const bf16 *gate, const float *weight, const bf16 *scale, bf16 *out,
                  unsigned tokens, unsigned width, unsigned gate_stride, unsigned gate_offset, unsigned scale_stride,
                  unsigned scale_offset, float branch_eps, float eps) {
    __shared__ float scratch[2][THREADS / 32];
    let_next_start();
    wait_for_previous();
    // The last first: a product of the library that made y wrote them last, and the L2 still has them.
    const unsigned token = gridDim.x - 1 - blockIdx.x, item = token / tokens;
    bf16 *row = x + static_cast<u64>(token) * width;
    const bf16 *branch = y + static_cast<u64>(token) * width;
    const bf16 *gates = gate + static_cast<u64>(item) * gate_stride + gate_offset;
    Stored<VECTOR> old[PARTS], added[PARTS], by[PARTS];
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        const unsigned at = (i * THREADS + threadIdx.x) * VECTOR;
        if (at >= width) continue;
        read_stored(old[i], row + at);
        if (HAS_BRANCH) read_stored(added[i], branch + at);
        if (HAS_GATE) read_stored(by[i], gates + at);
    }
    Values<VECTOR> values[PARTS];
    if (!HAS_BRANCH) {
#pragma unroll
        for (int i = 0; i < PARTS; i++) values[i] = unpacked(old[i]);
    } else {
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const unsigned at = (i * THREADS + threadIdx.x) * VECTOR;
            if (at >= width) continue;
            const Values<VECTOR> branched = unpacked(added[i]);
#pragma unroll
            for (int j = 0; j < VECTOR; j++) squares += branched.value[j] * branched.value[j];
        }
        const float factor = HAS_NORM ? rsqrtf(block_sum<THREADS>(squares, scratch[0]) / width + branch_eps) : 1.0f;
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const unsigned at = (i * THREADS + threadIdx.x) * VECTOR;
            if (at >= width) continue;
            Values<VECTOR> norms, branched = unpacked(added[i]), opened = unpacked(by[i]);
            values[i] = unpacked(old[i]);
            if (HAS_NORM) read_values(norms, norm + at);
#pragma unroll
            for (int j = 0; j < VECTOR; j++) {
                float value = branched.value[j];
                if (HAS_NORM) value *= factor * norms.value[j];
                if (HAS_GATE) value *= tanhf(opened.value[j]);
                values[i].value[j] += value;
            }
            write_values(row + at, values[i]);
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
            Values<VECTOR> weights, scales;
            read_values(weights, weight + at);
            if (HAS_SCALE) read_values(scales, scale + static_cast<u64>(item) * scale_stride + scale_offset + at);
#pragma unroll
            for (int j = 0; j < VECTOR; j++) {
                values[i].value[j] *= factor * weights.value[j];
                if (HAS_SCALE) values[i].value[j] *= 1.0f + scales.value[j];
            }
            write_values(out + static_cast<u64>(token) * width + at, values[i]);
        }
    }
}
