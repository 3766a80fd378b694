// What the kernels share: eight values at once, sums over a warp and over a block.

// Elements from the start of a tensor, which may be past 32 bits.
typedef unsigned long long u64;

// The upper half of a float: how activations and matrices are stored.
struct bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float widen(bf16 x) {
    return float_from_bf16(x.bits);
}

__device__ __forceinline__ bf16 narrow(float x) {
    return bf16{bf16_from_float(x)};
}

// The two BF16 of a word.
__device__ __forceinline__ float low_half(unsigned word) {
    return __uint_as_float(word << 16);
}

__device__ __forceinline__ float high_half(unsigned word) {
    return __uint_as_float(word & 0xffff0000u);
}

// N values, 8 at an address of 16 bytes or 1 anywhere.
template <int N> struct Values {
    float value[N];
};

// N values as they are stored.
template <int N> struct Stored;

template <> struct Stored<8> {
    uint4 words;
};

template <> struct Stored<1> {
    bf16 value;
};

__device__ __forceinline__ void read_stored(Stored<8> &to, const bf16 *from) {
    to.words = *reinterpret_cast<const uint4 *>(from);
}

__device__ __forceinline__ void read_stored(Stored<1> &to, const bf16 *from) {
    to.value = *from;
}

__device__ __forceinline__ Values<8> unpacked(const Stored<8> &from) {
    const unsigned word[4] = {from.words.x, from.words.y, from.words.z, from.words.w};
    Values<8> to;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to.value[2 * i] = low_half(word[i]);
        to.value[2 * i + 1] = high_half(word[i]);
    }
    return to;
}

__device__ __forceinline__ Values<1> unpacked(const Stored<1> &from) {
    return Values<1>{widen(from.value)};
}

__device__ __forceinline__ void read_values(Values<8> &to, const bf16 *from) {
    Stored<8> stored;
    read_stored(stored, from);
    to = unpacked(stored);
}

__device__ __forceinline__ void read_values(Values<1> &to, const bf16 *from) {
    to.value[0] = widen(*from);
}

__device__ __forceinline__ void read_values(Values<8> &to, const float *from) {
    const float4 low = reinterpret_cast<const float4 *>(from)[0], high = reinterpret_cast<const float4 *>(from)[1];
    to.value[0] = low.x, to.value[1] = low.y, to.value[2] = low.z, to.value[3] = low.w;
    to.value[4] = high.x, to.value[5] = high.y, to.value[6] = high.z, to.value[7] = high.w;
}

__device__ __forceinline__ void read_values(Values<1> &to, const float *from) {
    to.value[0] = *from;
}

__device__ __forceinline__ uint4 packed(const Values<8> &x) {
    const float *v = x.value;
    return make_uint4(bf16x2_from_floats(v[0], v[1]), bf16x2_from_floats(v[2], v[3]), bf16x2_from_floats(v[4], v[5]),
                      bf16x2_from_floats(v[6], v[7]));
}

__device__ __forceinline__ void write_values(bf16 *to, const Values<8> &from) {
    *reinterpret_cast<uint4 *>(to) = packed(from);
}

__device__ __forceinline__ void write_values(bf16 *to, const Values<1> &from) {
    *to = narrow(from.value[0]);
}

__device__ __forceinline__ void write_values(float *to, const Values<8> &from) {
    const float *v = from.value;
    reinterpret_cast<float4 *>(to)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4 *>(to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

__device__ __forceinline__ void write_values(float *to, const Values<1> &from) {
    *to = from.value[0];
}

// Eight values of a row `width` wide from `column` on, as far as it goes.
template <bool CHUNKED>
__device__ __forceinline__ void store_eight(bf16 *row, unsigned column, unsigned width, const bf16 *eight) {
    if (CHUNKED) {
        *reinterpret_cast<uint4 *>(row + column) = *reinterpret_cast<const uint4 *>(eight);
    } else {
        for (unsigned i = 0; i < 8 && column + i < width; i++) row[column + i] = eight[i];
    }
}

__device__ __forceinline__ float silu(float x) {
    return __fdividef(x, 1.0f + __expf(-x));
}

// The sum over groups of LANES neighbours, in each of them.
template <int LANES> __device__ __forceinline__ float lanes_sum(float x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// The sum over a block of BLOCK, in each of them. `scratch` holds a float a warp and one more, and is the caller's
// again after the next barrier.
template <int BLOCK> __device__ __forceinline__ float block_sum(float x, float *scratch) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    x = lanes_sum<32>(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < BLOCK / 32; i++) total += scratch[i];
    return total;
}
