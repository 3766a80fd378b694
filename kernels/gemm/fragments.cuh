// Products of tensor cores whose operands come straight from memory into the fragments, without shared memory: for
// matrices that are read once, or that the L1 keeps.
//
// A fragment's lane wants pairs of values along k that lie apart. The sum does not ask for their order, so a lane takes
// eight neighbouring values of a row instead, 16 bytes, for both operands alike: lane i those from 8·(i%4) on of row i/4.
// Four lanes read 64 bytes of a row, and a step is 32 along k, two instructions.

constexpr unsigned STEP = 32;

// Eight values of a row `k` wide from `at` on, zeros past its end.
template <bool ALIGNED_ROW> __device__ __forceinline__ uint4 eight_of(const bf16 *row, unsigned at, unsigned k) {
    if (ALIGNED_ROW) return at < k ? *reinterpret_cast<const uint4 *>(row + at) : make_uint4(0, 0, 0, 0);
    Values<8> values;
#pragma unroll
    for (unsigned i = 0; i < 8; i++) values.value[i] = at + i < k ? widen(row[at + i]) : 0.0f;
    return packed(values);
}

// sums += A·Wᵀ for 16 rows of A, those of the lanes and eight below, and eight rows of W.
__device__ __forceinline__ void multiply(float (&sums)[4], uint4 a, uint4 below, uint4 w) {
    const unsigned first[4] = {a.x, below.x, a.y, below.y}, second[4] = {a.z, below.z, a.w, below.w};
    const unsigned first_w[2] = {w.x, w.y}, second_w[2] = {w.z, w.w};
    mma_m16n8k16_bf16(sums, first, first_w);
    mma_m16n8k16_bf16(sums, second, second_w);
}
