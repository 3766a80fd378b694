// final_layer: velocity = unpatchify(W·(LN(x)·(1 + scale)) + b), x `[items, tokens, k]`, W `[n, stride]` with n = PATCH²·channels,
// out F32 `[items, channels, height, width]`. A row of A is the normed token, rounded to BF16; moments.cu finds
// what LN needs first.
// Constants: PATCH, HAS_BIAS, SHARED (one scale for all items).

struct NormedTokens {
    const bf16 *x;
    const float *moments;
    const bf16 *scale;
    unsigned m, k, tokens, patches, table_stride;

    struct Row {
        const bf16 *values, *scale;
        float mean, factor;
        unsigned k;
    };

    __device__ __forceinline__ Row row(unsigned at) const {
        const unsigned item = at < m ? at / patches : 0, token = item * tokens + (at < m ? at % patches : 0);
        return Row{x + static_cast<u64>(token) * k, scale + (SHARED ? 0 : static_cast<u64>(item) * table_stride),
                   moments[2 * token], moments[2 * token + 1], at < m ? k : 0};
    }

    __device__ __forceinline__ void load(bf16 *to, const Row &row, unsigned at) const {
#pragma unroll
        for (unsigned i = 0; i < 8; i++) {
            bf16 normed{0};
            if (at + i < row.k) {
                const float value = (widen(row.values[at + i]) - row.mean) * row.factor;
                normed = narrow(value * (1.0f + widen(row.scale[at + i])));
            }
            to[i] = normed;
        }
    }
};

struct Velocity {
    static constexpr unsigned WIDTH = 0;
    float *out;
    const float *bias;
    unsigned n, patches, channels, height, width;

    __device__ __forceinline__ void value(unsigned row, unsigned column, float a) const {
        if (HAS_BIAS) a += bias[column];
        const unsigned item = row / patches, patch = row % patches, across = width / PATCH;
        const unsigned channel = column % channels, inner = column / channels;
        const unsigned y = patch / across * PATCH + inner / PATCH, x = patch % across * PATCH + inner % PATCH;
        out[((static_cast<u64>(item) * channels + channel) * height + y) * width + x] = a;
    }

    __device__ __forceinline__ unsigned pair(unsigned row, unsigned column, float a, float b) const {
        value(row, column, a);
        if (column + 1 < n) value(row, column + 1, b);
        return 0;
    }

    __device__ __forceinline__ void store(unsigned, unsigned, const bf16 *) const {}
};

extern "C" __global__ void __launch_bounds__(THREADS)
    final_layer(const bf16 *x, const float *moments, const bf16 *scale, const bf16 *weights, const float *bias, float *out,
                unsigned m, unsigned n, unsigned k, unsigned stride, unsigned tokens, unsigned patches,
                unsigned table_stride, unsigned table_offset, unsigned channels, unsigned height, unsigned width) {
    const NormedTokens left{x, moments, scale + table_offset, m, k, tokens, patches, table_stride};
    product(left, weights, stride, m, n, k, Velocity{out, bias, n, patches, channels, height, width});
}
