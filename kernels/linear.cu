// linear: out = x·Wᵀ + b, x `[m, k]`, W `[n, stride]` with zeros behind k, out `[m, n]`. modulation: the same for few rows,
// where x may go through SiLU first.
// Constants: ALIGNED (k is a multiple of 8), HAS_BIAS; of the tiled products ALIGNED_OUT (n is), of the one for few rows
// SILU.

#ifdef ROWS

struct Input {
    FewRows<ALIGNED> rows;

    __device__ __forceinline__ void eight(Values<8> &to, unsigned row, unsigned at) const {
        rows.eight(to, row, at);
        if (SILU) {
#pragma unroll
            for (int i = 0; i < 8; i++) to.value[i] = silu(to.value[i]);
        }
    }
};

struct Linear {
    bf16 *out;
    const float *bias;
    unsigned n;

    __device__ __forceinline__ void store_pair(unsigned row, unsigned column, float a, float b) const {
        bf16 *to = out + static_cast<u64>(row) * n + column;
        to[0] = narrow(HAS_BIAS ? a + bias[column] : a);
        if (column + 1 < n) to[1] = narrow(HAS_BIAS ? b + bias[column + 1] : b);
    }
};

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    linear(const bf16 *x, const bf16 *weights, const float *bias, bf16 *out, unsigned m, unsigned n, unsigned k,
           unsigned stride) {
    rows_product(Input{{x, k}}, weights, stride, m, n, k, Linear{out, bias, n});
}

#else

struct Linear {
    static constexpr unsigned WIDTH = 2;
    static constexpr bool PREPARES = false;
    bf16 *out;
    const float *bias;
    unsigned n;

    __device__ __forceinline__ unsigned pair(unsigned, unsigned column, float a, float b) const {
        if (HAS_BIAS) {
            a += bias[column];
            b += column + 1 < n ? bias[column + 1] : 0.0f;
        }
        return bf16x2_from_floats(a, b);
    }

    __device__ __forceinline__ void store(unsigned row, unsigned column, const bf16 *eight) const {
        store_eight<ALIGNED_OUT>(out + static_cast<u64>(row) * n, column, n, eight);
    }
};

#ifdef SM90

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    hopper(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights, const float *bias,
           const __grid_constant__ TensorMap out, unsigned m, unsigned n, unsigned k) {
    product(MappedRows{x, m}, weights, m, n, (k + STEP - 1) / STEP, out, Linear{nullptr, bias, n});
}

#else

extern "C" __global__ void __launch_bounds__(THREADS)
    linear(const bf16 *x, const bf16 *weights, const float *bias, bf16 *out, unsigned m, unsigned n, unsigned k,
           unsigned stride) {
    product(MatrixRows<ALIGNED>{x, m, k}, weights, stride, m, n, k, Linear{out, bias, n});
}

#endif

#endif
