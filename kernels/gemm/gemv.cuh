// The product for few rows, C[m, n] = Σ A[m, k]·W[n, k], which takes as long as reading W: a warp makes two neighbouring
// columns of ROWS rows, its lanes side by side along k.
//
// A verb gives Left: `void eight(Values<8> &to, m, k)`, eight values of a row from k on, zeros past its end; and Out:
// `void store_pair(m, n, a, b)`, which writes columns n and n + 1 as far as they exist.
// Constants: ROWS.

constexpr unsigned WARPS = 4;

template <class Left, class Out>
__device__ __forceinline__ void rows_product(const Left &left, const bf16 *weights, unsigned stride, unsigned m,
                                             unsigned n, unsigned k, const Out &out) {
    const unsigned lane = threadIdx.x % 32, column = 2 * (blockIdx.x * WARPS + threadIdx.x / 32);
    const unsigned first = blockIdx.y * ROWS;
    if (column >= n) return;
    const bf16 *low = weights + static_cast<u64>(column) * stride, *high = column + 1 < n ? low + stride : low;
    float sums[ROWS][2] = {};
    for (unsigned at = 8 * lane; at < k; at += 8 * 32) {
        Values<8> w[2];
        read_values(w[0], low + at);
        read_values(w[1], high + at);
#pragma unroll
        for (unsigned row = 0; row < ROWS; row++) {
            Values<8> x;
            left.eight(x, first + row < m ? first + row : 0, at);
#pragma unroll
            for (unsigned i = 0; i < 8; i++) {
                sums[row][0] += x.value[i] * w[0].value[i];
                sums[row][1] += x.value[i] * w[1].value[i];
            }
        }
    }
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) {
        const float a = lanes_sum<32>(sums[row][0]), b = lanes_sum<32>(sums[row][1]);
        if (lane == 0 && first + row < m) out.store_pair(first + row, column, a, b);
    }
}

// Rows of activations `[m, k]`.
template <bool CHUNKED> struct FewRows {
    const bf16 *x;
    unsigned k;

    __device__ __forceinline__ void eight(Values<8> &to, unsigned row, unsigned at) const {
        const bf16 *from = x + static_cast<u64>(row) * k + at;
        if (CHUNKED) {
            read_values(to, from);
        } else {
#pragma unroll
            for (unsigned i = 0; i < 8; i++) to.value[i] = at + i < k ? widen(from[i]) : 0.0f;
        }
    }
};
