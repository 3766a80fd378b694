// embed_patches: latents F32 `[items, channels, height, width]` to tokens `[copies·items, tokens, n]`. A row of A is a patch,
// its values by (row, column, channel), rounded to BF16; rows behind the last patch become the pad token.
// Constants: PATCH, HAS_BIAS, ALIGNED_OUT (n is a multiple of 8).

struct Patches {
    const float *latents;
    unsigned m, k, tokens, patches, channels, height, width;

    // The patch's first value of the first channel.
    struct Row {
        const float *start;
        unsigned k;
    };

    __device__ __forceinline__ Row row(unsigned at) const {
        const unsigned item = at / tokens, patch = at % tokens;
        const bool inside = at < m && patch < patches;
        const unsigned across = width / PATCH;
        const u64 start = static_cast<u64>(item) * channels * height * width +
                          static_cast<u64>(patch / across) * PATCH * width + patch % across * PATCH;
        return Row{latents + (inside ? start : 0), inside ? k : 0};
    }

    __device__ __forceinline__ void load(bf16 *to, const Row &row, unsigned at) const {
#pragma unroll
        for (unsigned i = 0; i < 8; i++) {
            const unsigned value = at + i, channel = value % channels, inner = value / channels;
            const u64 offset = (static_cast<u64>(channel) * height + inner / PATCH) * width + inner % PATCH;
            to[i] = value < row.k ? narrow(row.start[offset]) : bf16{0};
        }
    }
};

struct Tokens {
    static constexpr unsigned WIDTH = 2;
    bf16 *out;
    const float *bias, *pad;
    unsigned m, n, tokens, patches, copies;

    __device__ __forceinline__ unsigned pair(unsigned row, unsigned column, float a, float b) const {
        const bool both = column + 1 < n;
        if (row % tokens >= patches) return bf16x2_from_floats(pad[column], both ? pad[column + 1] : 0.0f);
        if (HAS_BIAS) {
            a += bias[column];
            b += both ? bias[column + 1] : 0.0f;
        }
        return bf16x2_from_floats(a, b);
    }

    __device__ __forceinline__ void store(unsigned row, unsigned column, const bf16 *eight) const {
        for (unsigned copy = 0; copy < copies; copy++) {
            store_eight<ALIGNED_OUT>(out + (static_cast<u64>(copy) * m + row) * n, column, n, eight);
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    embed_patches(const float *latents, const bf16 *weights, const float *bias, const float *pad, bf16 *out, unsigned m,
                  unsigned n, unsigned k, unsigned stride, unsigned tokens, unsigned patches, unsigned channels,
                  unsigned height, unsigned width, unsigned copies) {
    const Patches left{latents, m, k, tokens, patches, channels, height, width};
    product(left, weights, stride, m, n, k, Tokens{out, bias, pad, m, n, tokens, patches, copies});
}
