// Kernels with known answers, right ones and wrong ones, for selftest.cpp.

extern "C" __global__ void __launch_bounds__(256) add(const float *a, const float *b, float *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a[i] + b[i];
}

// Reads and writes one too many.
extern "C" __global__ void add_past_the_end(const float *a, float *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) out[i % n] = a[i];
}
extern "C" __global__ void write_past_the_end(float *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) out[i] = 1;
}

// out[block] = the sum of a block's 256 values, by shuffles, a ballot and shared memory.
extern "C" __global__ void block_sum(const float *x, float *out) {
    __shared__ float partial[8];
    float sum = x[blockIdx.x * 256 + threadIdx.x];
    for (int turned = 16; turned > 0; turned /= 2) sum += __shfl_xor_sync(0xffffffff, sum, turned);
    if (__ballot_sync(0xffffffff, threadIdx.x & 1) != 0xaaaaaaaa) sum = -1;
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        // Not a constant, so that the index of a lane that is past the end cannot be read before it is known.
        sum = threadIdx.x < 8 ? partial[threadIdx.x] : 0;
        for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(0xffffffff, sum, delta);
        if (threadIdx.x == 0) out[blockIdx.x] = sum;
    }
}

// out[x][y] = in[y][x], 32×32 a block; without its barrier when `barrier` is 0.
extern "C" __global__ void transpose(const float *in, float *out, int barrier) {
    __shared__ float tile[32][33];
    for (int row = threadIdx.y; row < 32; row += 8) tile[row][threadIdx.x] = in[row * 32 + threadIdx.x];
    if (barrier) __syncthreads();
    for (int row = threadIdx.y; row < 32; row += 8) out[row * 32 + threadIdx.x] = tile[threadIdx.x][row];
}

// out[i] = in[i - 1]: right by luck without a barrier when the threads run in their order.
extern "C" __global__ void shift(const float *in, float *out, int barrier) {
    __shared__ float row[256];
    row[threadIdx.x] = in[threadIdx.x];
    if (barrier) __syncthreads();
    out[threadIdx.x] = threadIdx.x ? row[threadIdx.x - 1] : 0;
}

// What nobody wrote.
extern "C" __global__ void read_fresh(unsigned *out) {
    extern __shared__ __align__(16) unsigned dynamic[];
    __shared__ unsigned fixed[32];
    out[threadIdx.x] = dynamic[threadIdx.x] & fixed[threadIdx.x];
    __syncthreads();
    dynamic[threadIdx.x] = fixed[threadIdx.x] = 7;
}
extern "C" __global__ void read_past_dynamic_shared(unsigned *out) {
    extern __shared__ unsigned dynamic[];
    dynamic[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = dynamic[threadIdx.x + 4];
}
extern "C" __global__ void read_past_fixed_shared(unsigned *out, int by) {
    __shared__ unsigned fixed[32];
    fixed[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = fixed[threadIdx.x + by];
}

// D[16][8] = A[16][16]·B[8][16]ᵀ with fragments loaded as the PTX ISA lays them out; `how`: 0 bf16, 1 f16.
extern "C" __global__ void product16(const unsigned short *a, const unsigned short *b, float *d, int how) {
    int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4 * 2;
    auto load = [](const unsigned short *p) { return *reinterpret_cast<const unsigned *>(p); };
    unsigned fa[4] = {load(a + group * 16 + pair), load(a + (group + 8) * 16 + pair), load(a + group * 16 + pair + 8),
                      load(a + (group + 8) * 16 + pair + 8)};
    unsigned fb[2] = {load(b + group * 16 + pair), load(b + group * 16 + pair + 8)};
    float sum[4] = {};
    if (how == 0) mma_m16n8k16_bf16(sum, fa, fb);
    else mma_m16n8k16_f16(sum, fa, fb);
    for (int i = 0; i < 4; i++) d[(group + i / 2 * 8) * 8 + pair + i % 2] = sum[i];
}

// The same product through shared memory and ldmatrix; B lies as [16][8] when `transposed`.
extern "C" __global__ void product_ldmatrix(const unsigned short *a, const unsigned short *b, float *d, int transposed) {
    extern __shared__ __align__(16) unsigned short shared[];
    unsigned short *sa = shared, *sb = shared + 256;
    for (int i = threadIdx.x; i < 256; i += 32) sa[i] = a[i];
    for (int i = threadIdx.x; i < 128; i += 32) sb[i] = b[i];
    __syncwarp();
    int lane = threadIdx.x;
    unsigned fa[4], fb[2];
    ldmatrix_x4(fa, sa + lane % 16 * 16 + lane / 16 * 8);
    if (transposed) ldmatrix_x2_trans(fb, sb + lane % 16 * 8);
    else ldmatrix_x2(fb, sb + lane % 8 * 16 + lane / 8 % 2 * 8);
    float sum[4] = {};
    mma_m16n8k16_bf16(sum, fa, fb);
    for (int i = 0; i < 4; i++) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

// out[i] = Σ over the tiles of x[tile][i], three tiles in flight; `keep` groups may be on their way when one is read.
template <int Keep> __device__ void pipeline(const float *x, float *out, int tiles) {
    __shared__ __align__(16) float stage[3][128];
    int at = threadIdx.x * 4;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int t = 0; t < 2; t++) {
        if (t < tiles) cp_async_16(&stage[t][at], x + t * 128 + at);
        cp_async_commit();
    }
    for (int t = 0; t < tiles; t++) {
        if (t + 2 < tiles) cp_async_16(&stage[(t + 2) % 3][at], x + (t + 2) * 128 + at);
        cp_async_commit();
        cp_async_wait<Keep>();
        __syncthreads();
        float4 v = *reinterpret_cast<const float4 *>(&stage[t % 3][at]);
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        __syncthreads();
    }
    *reinterpret_cast<float4 *>(out + at) = sum;
}
extern "C" __global__ void copied_sum(const float *x, float *out, int tiles) { pipeline<2>(x, out, tiles); }
extern "C" __global__ void copied_sum_too_early(const float *x, float *out, int tiles) { pipeline<3>(x, out, tiles); }

// Copies 4·n bytes by fours, the last of which brings `last` bytes and zeros.
extern "C" __global__ void copy_ragged(const unsigned char *x, unsigned *out, int last) {
    __shared__ unsigned word[32];
    cp_async_4(&word[threadIdx.x], x + threadIdx.x * 4, threadIdx.x == 31 ? last : 4);
    cp_async_wait_all();
    out[threadIdx.x] = word[threadIdx.x];
}

// out[h] has bit 0 where widening and narrowing the 16-bit float h gives it back, and bit 1 where the midpoint between h
// and its successor goes to the even one of them.
extern "C" __global__ void conversions(unsigned *out, int how) {
    unsigned h = blockIdx.x * 256 + threadIdx.x, exponent = how ? 0x7c00 : 0x7f80;
    if ((h & 0x7fff) >= exponent) return;
    auto widen = [=](unsigned bits) { return how ? float_from_f16(bits) : float_from_bf16(bits); };
    auto narrow = [=](float x) { return unsigned(how ? f16_from_float(x) : bf16_from_float(x)); };
    unsigned good = narrow(widen(h)) == h;
    float next = (h & 0x7fff) + 1 == exponent ? 2 * widen(h) - widen(h - 1) : widen(h + 1);
    if (__uint_as_float(0x7f800000) == fabsf(next)) next = copysignf(0, next), good |= 2; // past the largest float
    else good |= (narrow(float((double(widen(h)) + next) / 2)) == (h & 1 ? h + 1 : h)) << 1;
    out[h] = good;
}

extern "C" __global__ void count(unsigned *counter, float *sum) {
    atomicAdd(counter, 1u);
    atomicAdd(sum, 0.5f);
    atomicMax(counter + 1, blockIdx.x * blockDim.x + threadIdx.x);
}
extern "C" __global__ void double_and_increment(float *x) { x[threadIdx.x] = 2 * x[threadIdx.x] + 1; }

// Two halves of the block, each with a barrier of its own.
extern "C" __global__ void halves(unsigned *out) {
    __shared__ unsigned value[2];
    unsigned half = threadIdx.x / 64;
    for (int i = 0; i < 3; i++) {
        if (threadIdx.x % 64 == 63) value[half] = half * 10 + i;
        barrier_sync(1 + half, 64);
        out[threadIdx.x] = value[half];
        barrier_sync(1 + half, 64);
    }
}

extern "C" __global__ void leave_early(float *out) {
    if (threadIdx.x == 40) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
extern "C" __global__ void disagree(int *out) {
    if (threadIdx.x % 2) out[threadIdx.x] = __shfl_sync(0xffffffff, int(threadIdx.x), 0);
    else out[threadIdx.x] = __any_sync(0xffffffff, 1);
}
extern "C" __global__ void wait_for_nobody(int *out) {
    if (threadIdx.x < 32) __syncthreads();
    else barrier_sync(1, 64);
    out[threadIdx.x] = 1;
}
extern "C" __global__ void misaligned(const float *x, float *out) {
    out[threadIdx.x] = reinterpret_cast<const float4 *>(x + 1)->y;
}
extern "C" __global__ void overflow(const int *x, int *out) { out[threadIdx.x] = x[threadIdx.x] * 65536 * 2; }
extern "C" __global__ void asserted(const int *x) { assert(x[threadIdx.x] == 1); }

template <int N> __global__ void scaled(float *x) { x[threadIdx.x] *= N; }
