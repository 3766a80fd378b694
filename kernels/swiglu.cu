// swiglu: out = SiLU(x·Gᵀ) ⊙ (x·Uᵀ). Rows of G and U alternate in W `[2f, stride]`, so that a thread holds both factors of
// a value; out `[m, f]`.
// Constants: ALIGNED (k is a multiple of 8); of the tiled products ALIGNED_OUT (f is).

#ifdef ROWS

struct SwiGlu {
    bf16 *out;
    unsigned f;

    __device__ __forceinline__ void store_pair(unsigned row, unsigned column, float gate, float up) const {
        out[static_cast<u64>(row) * f + column / 2] = narrow(silu(gate) * up);
    }
};

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    swiglu(const bf16 *x, const bf16 *weights, bf16 *out, unsigned m, unsigned n, unsigned k, unsigned stride) {
    rows_product(FewRows<ALIGNED>{x, k}, weights, stride, m, n, k, SwiGlu{out, n / 2});
}

#else

struct SwiGlu {
    static constexpr unsigned WIDTH = 1;
    static constexpr bool PREPARES = false;
    bf16 *out;
    unsigned f;

    __device__ __forceinline__ unsigned pair(unsigned, unsigned, float gate, float up) const {
        return bf16_from_float(silu(gate) * up);
    }

    __device__ __forceinline__ void store(unsigned row, unsigned column, const bf16 *eight) const {
        store_eight<ALIGNED_OUT>(out + static_cast<u64>(row) * f, column, f, eight);
    }
};

#ifdef SM90

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    hopper(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights,
           const __grid_constant__ TensorMap out, unsigned m, unsigned n, unsigned k) {
    product(MappedRows{x, m}, weights, m, n, (k + STEP - 1) / STEP, out, SwiGlu{nullptr, n / 2});
}

#else

extern "C" __global__ void __launch_bounds__(THREADS)
    swiglu(const bf16 *x, const bf16 *weights, bf16 *out, unsigned m, unsigned n, unsigned k, unsigned stride) {
    product(MatrixRows<ALIGNED>{x, m, k}, weights, stride, m, n, k, SwiGlu{out, n / 2});
}

#endif

#endif
