// Correct kernels with known results, and faulty kernels, for selftest.cpp.

#include "common/ptx/convert.cuh"
#include "common/ptx/cp_async.cuh"
#include "common/ptx/mma.cuh"
#include "sm90/ptx/barrier.cuh"
#include "sm90/ptx/cluster.cuh"
#include "sm90/ptx/stmatrix.cuh"
#include "sm90/ptx/tma.cuh"
#include "sm90/ptx/wgmma.cuh"

extern "C" __global__ void __launch_bounds__(256) add(const float *a, const float *b, float *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a[i] + b[i];
}

// Reads and writes one element past the end.
extern "C" __global__ void add_past_the_end(const float *a, float *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) out[i % n] = a[i];
}
extern "C" __global__ void write_past_the_end(float *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) out[i] = 1;
}

// out[block] = the sum of a CTA's 256 values, by shuffles, a ballot and shared memory.
extern "C" __global__ void block_sum(const float *x, float *out) {
    __shared__ float partial[8];
    float sum = x[blockIdx.x * 256 + threadIdx.x];
    for (int turned = 16; turned > 0; turned /= 2) sum += __shfl_xor_sync(0xffffffff, sum, turned);
    if (__ballot_sync(0xffffffff, threadIdx.x & 1) != 0xaaaaaaaa) sum = -1;
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        // The count is not a constant, so that the index of a lane past the end cannot be read
        // before it is known.
        sum = threadIdx.x < 8 ? partial[threadIdx.x] : 0;
        for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(0xffffffff, sum, delta);
        if (threadIdx.x == 0) out[blockIdx.x] = sum;
    }
}

// out[x][y] = in[y][x], 32×32 per CTA; without its barrier if `barrier` is 0.
extern "C" __global__ void transpose(const float *in, float *out, int barrier) {
    __shared__ float tile[32][33];
    for (int row = threadIdx.y; row < 32; row += 8) tile[row][threadIdx.x] = in[row * 32 + threadIdx.x];
    if (barrier) __syncthreads();
    for (int row = threadIdx.y; row < 32; row += 8) out[row * 32 + threadIdx.x] = tile[threadIdx.x][row];
}

// out[i] = in[i - 1]: correct without a barrier only if the threads happen to run in order.
extern "C" __global__ void shift(const float *in, float *out, int barrier) {
    __shared__ float row[256];
    row[threadIdx.x] = in[threadIdx.x];
    if (barrier) __syncthreads();
    out[threadIdx.x] = threadIdx.x ? row[threadIdx.x - 1] : 0;
}

// Reads memory that was never written.
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

// D[16][8] = A[16][16]·B[8][16]ᵀ with fragments in the layout of the PTX ISA.
extern "C" __global__ void product16(const unsigned short *a, const unsigned short *b, float *d) {
    int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4 * 2;
    auto load = [](const unsigned short *p) { return *reinterpret_cast<const unsigned *>(p); };
    unsigned fa[4] = {load(a + group * 16 + pair), load(a + (group + 8) * 16 + pair), load(a + group * 16 + pair + 8),
                      load(a + (group + 8) * 16 + pair + 8)};
    unsigned fb[2] = {load(b + group * 16 + pair), load(b + group * 16 + pair + 8)};
    float sum[4] = {};
    mma_m16n8k16_bf16(sum, fa, fb);
    for (int i = 0; i < 4; i++) d[(group + i / 2 * 8) * 8 + pair + i % 2] = sum[i];
}

// The same gemm through shared memory and ldmatrix; B is [16][8] if `transposed`.
extern "C" __global__ void product_ldmatrix(const unsigned short *a, const unsigned short *b, float *d, int transposed) {
    extern __shared__ __align__(16) unsigned short shared[];
    unsigned short *sa = shared, *sb = shared + 256;
    for (int i = threadIdx.x; i < 256; i += 32) sa[i] = a[i];
    for (int i = threadIdx.x; i < 128; i += 32) sb[i] = b[i];
    __syncwarp();
    int lane = threadIdx.x;
    unsigned fa[4], both[4];
    ldmatrix_x4(fa, sa + lane % 16 * 16 + lane / 16 * 8);
    // B consists of two matrices; the other two are the same.
    if (transposed) ldmatrix_x4_trans(both, sb + lane % 16 * 8);
    else ldmatrix_x4(both, sb + lane % 8 * 16 + lane / 8 % 2 * 8);
    const unsigned fb[2] = {both[0], both[1]};
    float sum[4] = {};
    mma_m16n8k16_bf16(sum, fa, fb);
    for (int i = 0; i < 4; i++) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

// The same with E4M3 codes, D[16][8] = A[16][32]·B[8][32]ᵀ.
extern "C" __global__ void product32(const unsigned char *a, const unsigned char *b, float *d) {
    int lane = threadIdx.x % 32, group = lane / 4, four = lane % 4 * 4;
    auto load = [](const unsigned char *p) { return *reinterpret_cast<const unsigned *>(p); };
    unsigned fa[4] = {load(a + group * 32 + four), load(a + (group + 8) * 32 + four), load(a + group * 32 + four + 16),
                      load(a + (group + 8) * 32 + four + 16)};
    unsigned fb[2] = {load(b + group * 32 + four), load(b + group * 32 + four + 16)};
    float sum[4] = {};
    mma_m16n8k32_e4m3(sum, fa, fb);
    for (int i = 0; i < 4; i++) d[(group + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

// out[i] = Σ over the tiles of x[tile][i], with three tiles in flight; `keep` groups may be in
// flight when one is read.
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

// Each thread copies 16 bytes; the last one copies `last` bytes and zeros.
extern "C" __global__ void copy_ragged(const unsigned char *x, unsigned *out, int last) {
    __shared__ __align__(16) unsigned words[32][4];
    cp_async_16(words[threadIdx.x], x + threadIdx.x * 16, threadIdx.x == 31 ? last : 16);
    cp_async_commit();
    cp_async_wait<0>();
    for (unsigned i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = words[threadIdx.x][i];
}

// out[h] has bit 0 if widening and narrowing the BF16 h returns it, and bit 1 if the midpoint
// between h and its successor rounds to the even one of them.
extern "C" __global__ void conversions(unsigned *out) {
    unsigned h = blockIdx.x * 256 + threadIdx.x;
    if ((h & 0x7fff) >= 0x7f80) return;
    unsigned good = bf16_from_float(float_from_bf16(h)) == h;
    float x = float_from_bf16(h), next = float_from_bf16(h + 1);
    if (__uint_as_float(0x7f800000) == fabsf(next)) good |= 2; // past the largest float
    else good |= (bf16_from_float(float((double(x) + next) / 2)) == (h & 1 ? h + 1 : h)) << 1;
    out[h] = good;
}

// out[i] = the codes of low[i], in the lower byte, and high[i].
extern "C" __global__ void narrow_e4m3(const float *low, const float *high, unsigned short *out) {
    out[threadIdx.x] = e4m3x2_from_floats(low[threadIdx.x], high[threadIdx.x]);
}

extern "C" __global__ void widen_f16(float *out) {
    unsigned h = blockIdx.x * 256 + threadIdx.x;
    out[h] = float_from_f16(h);
}

extern "C" __global__ void count(unsigned *counter, float *sum) {
    atomicAdd(counter, 1u);
    atomicAdd(sum, 0.5f);
    atomicMax(counter + 1, blockIdx.x * blockDim.x + threadIdx.x);
}
extern "C" __global__ void double_and_increment(float *x) { x[threadIdx.x] = 2 * x[threadIdx.x] + 1; }

// Each half of the CTA has a barrier of its own.
extern "C" __global__ void halves(unsigned *out) {
    __shared__ unsigned value[2];
    unsigned half = threadIdx.x / 64;
    for (int i = 0; i < 3; i++) {
        if (threadIdx.x % 64 == 63) value[half] = half * 10 + i;
        named_barrier_sync(1 + half, 64);
        out[threadIdx.x] = value[half];
        named_barrier_sync(1 + half, 64);
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
    else named_barrier_sync(1, 64);
    out[threadIdx.x] = 1;
}
extern "C" __global__ void misaligned(const float *x, float *out) {
    out[threadIdx.x] = reinterpret_cast<const float4 *>(x + 1)->y;
}
extern "C" __global__ void overflow(const int *x, int *out) { out[threadIdx.x] = x[threadIdx.x] * 65536 * 2; }
extern "C" __global__ void asserted(const int *x) { assert(x[threadIdx.x] == 1); }

template <int N> __global__ void scaled(float *x) { x[threadIdx.x] *= N; }

// Loads a box of in, whose rows are 128 or 64 bytes, from (x, y) on, and stores it to out at
// (0, 0). Waits before it overwrites the box if `waits` is 2, afterwards if 1, and never if 0.
extern "C" __global__ void through_shared(const TensorMap in, const TensorMap out, unsigned bytes, int x, int y, int waits) {
    extern __shared__ __align__(1024) unsigned char box[];
    __shared__ Barrier full;
    if (threadIdx.x == 0) {
        full.init(1);
        fence_barrier_init();
        full.arrive_expect_tx(bytes);
        tma_load(box, in, full, 0u, x, y, 0u);
    }
    __syncthreads();
    full.wait(0);
    __syncthreads();
    if (threadIdx.x == 0) {
        tma_store(out, box, 0u, 0u, 0u, 0u);
        tma_store_commit();
        if (waits == 2) tma_store_wait<0>();
        for (unsigned i = 0; i < bytes; i++) box[i] = 0;
        if (waits == 1) tma_store_wait<0>();
    }
}

// D[64][64] = A[64][64]·B[64][64]ᵀ by a warpgroup.
extern "C" __global__ void warpgroup_product(const TensorMap a, const TensorMap b, float *d) {
    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ Barrier full;
    if (threadIdx.x == 0) {
        full.init(1);
        fence_barrier_init();
        full.arrive_expect_tx(2 * 64 * 64 * 2);
        tma_load(shared, a, full, 0u, 0u);
        tma_load(shared + 64 * 64 * 2, b, full, 0u, 0u);
    }
    __syncthreads();
    full.wait(0);
    float sums[32];
    warpgroup_fence_operand(sums);
    wgmma_fence();
    for (unsigned step = 0; step < 4; step++)
        wgmma_ss(sums, advance(smem_desc(shared), 32 * step), advance(smem_desc(shared + 64 * 64 * 2), 32 * step), step != 0);
    wgmma_commit();
    wgmma_wait<0>();
    warpgroup_fence_operand(sums);
    const unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
    for (unsigned i = 0; i < 32; i++) d[(row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

// The same with E4M3 codes, D[64][64] = A[64][128]·B[64][128]ᵀ.
extern "C" __global__ void warpgroup_product_e4m3(const TensorMap a, const TensorMap b, float *d) {
    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ Barrier full;
    if (threadIdx.x == 0) {
        full.init(1);
        fence_barrier_init();
        full.arrive_expect_tx(2 * 64 * 128);
        tma_load(shared, a, full, 0u, 0u);
        tma_load(shared + 64 * 128, b, full, 0u, 0u);
    }
    __syncthreads();
    full.wait(0);
    float sums[32];
    warpgroup_fence_operand(sums);
    wgmma_fence();
    for (unsigned step = 0; step < 4; step++)
        wgmma_ss_e4m3(sums, advance(smem_desc(shared), 32 * step), advance(smem_desc(shared + 64 * 128), 32 * step), step != 0);
    wgmma_commit();
    wgmma_wait<0>();
    warpgroup_fence_operand(sums);
    const unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
    for (unsigned i = 0; i < 32; i++) d[(row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

// The same with A in registers, D[64][128] = A[64][128]·B[128][128]ᵀ.
extern "C" __global__ void warpgroup_product_e4m3_registers(const unsigned char *a, const TensorMap b, float *d) {
    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ Barrier full;
    if (threadIdx.x == 0) {
        full.init(1);
        fence_barrier_init();
        full.arrive_expect_tx(128 * 128);
        tma_load(shared, b, full, 0u, 0u);
    }
    __syncthreads();
    full.wait(0);
    const unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
    unsigned fa[4][4];
    for (unsigned step = 0; step < 4; step++)
        for (unsigned i = 0; i < 4; i++)
            fa[step][i] = *reinterpret_cast<const unsigned *>(a + (row + i % 2 * 8) * 128 + 32 * step + i / 2 * 16 + lane % 4 * 4);
    float sums[64];
    warpgroup_fence_operand(sums);
    wgmma_fence();
    for (unsigned step = 0; step < 4; step++) wgmma_rs_e4m3(sums, fa[step], advance(smem_desc(shared), 32 * step), step != 0);
    wgmma_commit();
    wgmma_wait<0>();
    warpgroup_fence_operand(sums);
    for (unsigned i = 0; i < 64; i++) d[(row + i / 2 % 2 * 8) * 128 + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

// out[column][row] = in[row][column], 8 rows and 32 columns of 16 bits, by four fragments.
extern "C" __global__ void stmatrix_transpose(const unsigned short *in, unsigned short *out) {
    extern __shared__ __align__(16) unsigned short columns[];
    const unsigned lane = threadIdx.x;
    unsigned words[4];
    for (unsigned i = 0; i < 4; i++) {
        const unsigned short *pair = in + lane / 4 * 32 + 8 * i + lane % 4 * 2;
        words[i] = pair[0] | unsigned(pair[1]) << 16;
    }
    stmatrix_x4_trans(columns + lane * 8, words);
    __syncwarp();
    for (unsigned i = 0; i < 8; i++) out[lane * 8 + i] = columns[lane * 8 + i];
}

// ---- clusters -----------------------------------------------------------------------------------

#define BLOCKS 2
#define CLUSTER_OF(blocks) __cluster_dims__(blocks, 1, 1)

// out[block] = its rank · 100 + the values that it stores in static and in dynamic shared memory
// while the others run.
extern "C" __global__ void __launch_bounds__(64) CLUSTER_OF(BLOCKS + 2) cluster_of_four(unsigned *out) {
    extern __shared__ unsigned dynamic[];
    __shared__ unsigned fixed[64];
    for (unsigned round = 0; round < 3; round++) {
        fixed[threadIdx.x] = 4 * blockIdx.x + round, dynamic[threadIdx.x] = blockIdx.x;
        cluster_sync<4>();
        const unsigned neighbour = (threadIdx.x + 1) % 64;
        out[blockIdx.x * 64 + threadIdx.x] = cluster_rank() * 100 + fixed[neighbour] + dynamic[neighbour];
        cluster_sync<4>();
    }
}

// out[i] = the value that the thread with the same index in the other CTA of the cluster wrote to
// `between`, with or without barriers.
extern "C" __global__ void CLUSTER_OF(BLOCKS) pass_through_memory(float *between, float *out, int barrier) {
    const unsigned mine = blockIdx.x * blockDim.x + threadIdx.x;
    between[mine] = mine;
    if (barrier) cluster_sync<2>();
    out[mine] = between[(blockIdx.x ^ 1) * blockDim.x + threadIdx.x];
}

// out[i] = the other CTA's x[i], sent to static or dynamic shared memory. The barrier expects the
// bytes after `naps`. Values of `fault`: 1, no thread waits for them; 2, they are sent before the
// other CTA may have begun; 3, the barrier is not initialised; 4, they are sent outside shared
// memory; 5, to a CTA that does not exist; 6, more bytes are expected than arrive.
extern "C" __global__ void CLUSTER_OF(BLOCKS) send_over(const float *x, float *out, int in_dynamic, int naps, int fault) {
    extern __shared__ float dynamic[];
    __shared__ float fixed[32];
    __shared__ Barrier told;
    const unsigned mine = blockIdx.x * 32 + threadIdx.x;
    float own = x[mine], *heard = (in_dynamic ? dynamic : fixed) + threadIdx.x;
    if (fault != 3 && threadIdx.x == 0) told.init(1);
    fence_barrier_init();
    if (fault != 2) cluster_sync<2>();
    st_async(fault == 4 ? &own : heard, own, told, fault == 5 ? 2 : 1 - cluster_rank());
    for (int i = 0; i < naps && threadIdx.x == 0; i++) __nanosleep(1);
    if (threadIdx.x == 0) told.arrive_expect_tx((fault == 6 ? 33 : 32) * sizeof(float));
    if (fault != 1) told.wait(0);
    out[mine] = *heard;
    cluster_sync<2>();
}

// Reads shared memory before a value has landed there, and afterwards.
extern "C" __global__ void CLUSTER_OF(BLOCKS) read_before_it_comes(float *out) {
    __shared__ float heard;
    __shared__ Barrier told;
    heard = 1;
    told.init(1);
    fence_barrier_init();
    cluster_sync<2>();
    st_async(&heard, 2, told, 1 - cluster_rank());
    cluster_sync<2>();
    told.arrive_expect_tx(sizeof heard);
    out[2 * blockIdx.x] = heard;
    told.wait(0);
    out[2 * blockIdx.x + 1] = heard;
    cluster_sync<2>();
}

// out[block][round] = two boxes of in, `[rounds * 128, 64]`, in their shared memory layout: CTA 0
// multicasts the upper one, CTA 1 the lower one. Without `waits` they are loaded before both CTAs
// have read those of the previous round.
extern "C" __global__ void CLUSTER_OF(BLOCKS) share_boxes(const TensorMap in, unsigned short *out, unsigned rounds, int waits) {
    extern __shared__ __align__(1024) unsigned short boxes[];
    __shared__ Barrier full, empty;
    const unsigned rank = cluster_rank();
    if (threadIdx.x == 0) {
        full.init(1);
        empty.init(2);
        fence_barrier_init();
    }
    cluster_sync<2>();
    for (unsigned round = 0; round < rounds; round++) {
        if (threadIdx.x == 0) {
            if (waits) empty.wait(1 - round % 2);
            full.arrive_expect_tx(2 * 64 * 64 * 2);
            tma_load_multicast(boxes + rank * 64 * 64, in, full, 0u, round * 128 + rank * 64);
        }
        full.wait(round % 2);
        unsigned short *to = out + (blockIdx.x * rounds + round) * 128 * 64;
        for (unsigned i = threadIdx.x; i < 128 * 64; i += blockDim.x) to[i] = boxes[i];
        __syncthreads();
        if (threadIdx.x < 2) empty.arrive_remote<2>(threadIdx.x);
    }
    cluster_sync<2>();
}

// CTA 1 exits while CTA 0 waits for it or accesses its memory.
extern "C" __global__ void CLUSTER_OF(BLOCKS) leave_the_cluster(int waits) {
    __shared__ Barrier told;
    told.init(32);
    cluster_sync<2>();
    if (cluster_rank() == 1) return;
    for (int i = 0; i < 100; i++) __nanosleep(1);
    if (waits) cluster_sync<2>();
    else told.arrive_remote<2>(1);
}

// One thread waits for a barrier of its CTA, the others for the cluster.
extern "C" __global__ void CLUSTER_OF(BLOCKS) wait_apart() {
    if (threadIdx.x == 0 && cluster_rank() == 1) __syncthreads();
    cluster_sync<2>();
}
