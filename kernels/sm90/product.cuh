// The product of ../product.cuh for Hopper: C[m, n] = Σ A[m, k]·W[n, k] by wgmma from tiles that the copy engine brings.
//
// A block makes tiles of 128 × 256, one after the other. One warpgroup, the producer, does nothing but ask for steps of 64
// along k, which lie in a ring of STAGES stages; two others, the consumers, make 64 rows of the tile each. `full` says
// that a stage has come, `empty` that both consumers are done with it. While the consumers write a tile, the producer
// fills the ring for the next one.
//
// A verb gives Out as for the other product; its WIDTH is 2 or 1.
// Constants: STAGES.

constexpr unsigned TILE_M = 128, TILE_N = 256, STEP = 64;
constexpr unsigned CONSUMERS = 2, THREADS = 128 * (CONSUMERS + 1);
constexpr unsigned LEFT = TILE_M * STEP, RIGHT = TILE_N * STEP, STAGE = LEFT + RIGHT;
// A warp writes 16 rows of 64 columns at a time, through shared memory whose rows are 16 bytes longer.
constexpr unsigned STRIP = 64, STRIP_STRIDE = STRIP + 8;

// As in ../product.cuh.
__device__ __forceinline__ uint2 tile_of(unsigned tile, unsigned m, unsigned n) {
    const unsigned tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1) / TILE_N;
    const unsigned band = tile / (8 * tiles_n);
    const unsigned height = min(8u, tiles_m - 8 * band);
    const unsigned inside = tile % (8 * tiles_n);
    return make_uint2((8 * band + inside % height) * TILE_M, inside / height * TILE_N);
}

template <class Out>
__device__ __forceinline__ void product(const TensorMap &left, const TensorMap &right, unsigned m, unsigned n, unsigned k,
                                        const Out &out) {
    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ Barrier full[STAGES], empty[STAGES];
    bf16 *ring = reinterpret_cast<bf16 *>(shared), *strips = ring + STAGES * STAGE;
    const unsigned group = threadIdx.x / 128, lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    if (threadIdx.x == 0) {
        for (unsigned i = 0; i < STAGES; i++) {
            full[i].init(1);
            empty[i].init(CONSUMERS);
        }
        fence_barriers();
    }
    __syncthreads();
    const unsigned tiles = (m + TILE_M - 1) / TILE_M * ((n + TILE_N - 1) / TILE_N), steps = (k + STEP - 1) / STEP;

    if (group == CONSUMERS) {
        registers_give<40>();
        if (threadIdx.x % 128 == 0) {
            unsigned at = 0;
            for (unsigned tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
                const uint2 origin = tile_of(tile, m, n);
                for (unsigned step = 0; step < steps; step++, at++) {
                    const unsigned slot = at % STAGES;
                    // The first round finds every stage empty.
                    empty[slot].wait((at / STAGES + 1) % 2);
                    full[slot].expect(STAGE * sizeof(bf16));
                    copy_box(ring + slot * STAGE, left, full[slot], step * STEP, origin.x);
                    copy_box(ring + slot * STAGE + LEFT, right, full[slot], step * STEP, origin.y);
                }
            }
        }
    } else {
        registers_take<232>();
        bf16 *strip = strips + (threadIdx.x / 32) * 16 * STRIP_STRIDE;
        unsigned at = 0;
        for (unsigned tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
            const uint2 origin = tile_of(tile, m, n);
            float sums[128];
            for (unsigned step = 0; step < steps; step++, at++) {
                const unsigned slot = at % STAGES;
                full[slot].wait(at / STAGES % 2);
                const u64 a = matrix_at(ring + slot * STAGE + group * 64 * STEP), b = matrix_at(ring + slot * STAGE + LEFT);
                hold(sums);
                wgmma_fence();
#pragma unroll
                for (unsigned inner = 0; inner < STEP / 16; inner++) {
                    wgmma_m64n256k16(sums, later(a, 32 * inner), later(b, 32 * inner), step + inner != 0);
                }
                wgmma_commit();
                // The step before is done with its stage.
                wgmma_wait<1>();
                hold(sums);
                if (step > 0 && threadIdx.x % 128 == 0) empty[(at - 1) % STAGES].arrive();
            }
            wgmma_wait<0>();
            hold(sums);
            if (threadIdx.x % 128 == 0) empty[(at - 1) % STAGES].arrive();

            const unsigned row = origin.x + 64 * group + 16 * warp;
            const unsigned width = n * Out::WIDTH / 2;
            constexpr unsigned KEPT = STRIP * Out::WIDTH / 2;
#pragma unroll
            for (unsigned first = 0; first < TILE_N; first += STRIP) {
#pragma unroll
                for (unsigned j = 0; j < STRIP / 8; j++) {
#pragma unroll
                    for (unsigned half = 0; half < 2; half++) {
                        const unsigned below = 8 * half + lane / 4, column = 8 * j + lane % 4 * 2;
                        if (row + below >= m || origin.y + first + column >= n) continue;
                        const float *pair = sums + (first / 8 + j) * 4 + 2 * half;
                        const unsigned kept = out.pair(row + below, origin.y + first + column, pair[0], pair[1]);
                        if (Out::WIDTH == 2) {
                            *reinterpret_cast<unsigned *>(strip + below * STRIP_STRIDE + column) = kept;
                        } else {
                            strip[below * STRIP_STRIDE + column / 2].bits = static_cast<unsigned short>(kept);
                        }
                    }
                }
                __syncwarp();
                const unsigned start = (origin.y + first) * Out::WIDTH / 2;
#pragma unroll
                for (unsigned i = lane; i < 16 * KEPT / 8; i += 32) {
                    const unsigned below = i / (KEPT / 8), column = i % (KEPT / 8) * 8;
                    if (row + below < m && start + column < width) {
                        out.store(row + below, start + column, strip + below * STRIP_STRIDE + column);
                    }
                }
                __syncwarp();
            }
        }
    }
}
