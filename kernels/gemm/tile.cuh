// The tiled product of tensor cores, C[m, n] = Σ A[m, k]·W[n, k], around which the verbs put what they do to A and C.
//
// A block makes a tile of TILE_M × TILE_N in WARPS_M × WARPS_N warps. A ring of STAGES stages in shared memory holds
// steps of 32 along k: while one is multiplied the next ones are on their way. 16-byte chunks of a row are swapped among
// each other (`chunk`), so that the eight rows which ldmatrix reads at once lie in different banks.
//
// A verb gives two structures:
//   Left:  struct Row;  Row row(unsigned m);  void load(bf16 *to, const Row &, unsigned k): eight values of a row from k
//          on into shared memory, by cp_async_16 or by a store; zeros past the ends of m and k.
//   Out:   WIDTH: columns of the output that two columns of the product make, 2 or 1, or 0 where it stores by itself;
//          unsigned pair(m, n, a, b): what is kept of columns n and n + 1, two BF16 or one; only for rows and columns that exist.
//          void store(m, column, const bf16 *eight): eight columns of a row to memory.
// Constants: TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES.

constexpr unsigned STEP = 32;
constexpr unsigned CHUNKS = STEP / 8;
constexpr unsigned THREADS = 32 * WARPS_M * WARPS_N;
constexpr unsigned LEFT = TILE_M * STEP, RIGHT = TILE_N * STEP;
constexpr unsigned STAGE = LEFT + RIGHT;
// A warp's part of the tile, in fragments of 16 rows and of 8 columns.
constexpr unsigned FRAGMENTS_M = TILE_M / WARPS_M / 16, FRAGMENTS_N = TILE_N / WARPS_N / 8;
// Rows of A and of W that a thread loads.
constexpr unsigned ROWS_A = (TILE_M * CHUNKS + THREADS - 1) / THREADS, ROWS_W = (TILE_N * CHUNKS + THREADS - 1) / THREADS;

static_assert(TILE_M % (16 * WARPS_M) == 0 && TILE_N % (16 * WARPS_N) == 0, "fragments of W are loaded two at a time");
static_assert(THREADS % CHUNKS == 0, "a thread stays in its chunk of the rows");

// Where chunk c of a row lies, in elements.
__device__ __forceinline__ unsigned chunk(unsigned row, unsigned c) {
    return (row * CHUNKS + (c ^ (row / 2 % CHUNKS))) * 8;
}

// Blocks go down eight tiles of m before they go to the next tile of n, so that those which run together share their
// rows and columns in the L2.
__device__ __forceinline__ uint2 tile_of(unsigned block, unsigned m, unsigned n) {
    const unsigned tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1) / TILE_N;
    const unsigned band = block / (8 * tiles_n);
    const unsigned height = min(8u, tiles_m - 8 * band);
    const unsigned inside = block % (8 * tiles_n);
    return make_uint2((8 * band + inside % height) * TILE_M, inside / height * TILE_N);
}

template <class Left, class Out>
__device__ __forceinline__ void product(const Left &left, const bf16 *weights, unsigned stride, unsigned m, unsigned n,
                                        unsigned k, const Out &out) {
    extern __shared__ __align__(1024) unsigned char shared[];
    bf16 *ring = reinterpret_cast<bf16 *>(shared);
    const unsigned thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const uint2 origin = tile_of(blockIdx.x, m, n);

    // What this thread loads of each step: chunk `part` of some rows.
    const unsigned part = thread % CHUNKS, first = thread / CHUNKS;
    typename Left::Row rows[ROWS_A];
#pragma unroll
    for (unsigned i = 0; i < ROWS_A; i++) rows[i] = left.row(origin.x + first + i * (THREADS / CHUNKS));
    const bf16 *columns[ROWS_W];
    bool inside[ROWS_W];
#pragma unroll
    for (unsigned i = 0; i < ROWS_W; i++) {
        const unsigned column = origin.y + first + i * (THREADS / CHUNKS);
        inside[i] = column < n;
        columns[i] = weights + static_cast<u64>(inside[i] ? column : 0) * stride;
    }
    auto load = [&](unsigned step) {
        bf16 *stage = ring + step % STAGES * STAGE;
        const unsigned at = step * STEP + part * 8;
#pragma unroll
        for (unsigned i = 0; i < ROWS_A; i++) {
            const unsigned row = first + i * (THREADS / CHUNKS);
            if (TILE_M * CHUNKS % THREADS == 0 || row < TILE_M) left.load(stage + chunk(row, part), rows[i], at);
        }
#pragma unroll
        for (unsigned i = 0; i < ROWS_W; i++) {
            const unsigned row = first + i * (THREADS / CHUNKS);
            const bool take = inside[i] && at < stride;
            if (TILE_N * CHUNKS % THREADS == 0 || row < TILE_N) {
                cp_async_16(stage + LEFT + chunk(row, part), columns[i] + (take ? at : 0), take ? 16 : 0);
            }
        }
    };

    float sums[FRAGMENTS_M][FRAGMENTS_N][4] = {};
    const unsigned steps = (k + STEP - 1) / STEP;
#pragma unroll
    for (unsigned step = 0; step < STAGES - 1; step++) {
        if (step < steps) load(step);
        cp_async_commit();
    }
    const unsigned warp_m = warp / WARPS_N * (TILE_M / WARPS_M), warp_n = warp % WARPS_N * (TILE_N / WARPS_N);
    for (unsigned step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        // All see this step, and all are done with the one whose place the next load takes.
        __syncthreads();
        if (step + STAGES - 1 < steps) load(step + STAGES - 1);
        cp_async_commit();
        const bf16 *a = ring + step % STAGES * STAGE, *w = a + LEFT;
#pragma unroll
        for (unsigned inner = 0; inner < STEP / 16; inner++) {
            unsigned left_fragments[FRAGMENTS_M][4], right_fragments[FRAGMENTS_N][2];
#pragma unroll
            for (unsigned i = 0; i < FRAGMENTS_M; i++) {
                ldmatrix_x4(left_fragments[i], a + chunk(warp_m + 16 * i + lane % 16, 2 * inner + lane / 16));
            }
#pragma unroll
            for (unsigned j = 0; j < FRAGMENTS_N; j += 2) {
                unsigned both[4];
                ldmatrix_x4(both, w + chunk(warp_n + 8 * j + lane / 16 * 8 + lane % 8, 2 * inner + lane / 8 % 2));
                right_fragments[j][0] = both[0], right_fragments[j][1] = both[1];
                right_fragments[j + 1][0] = both[2], right_fragments[j + 1][1] = both[3];
            }
#pragma unroll
            for (unsigned i = 0; i < FRAGMENTS_M; i++) {
#pragma unroll
                for (unsigned j = 0; j < FRAGMENTS_N; j++) {
                    mma_m16n8k16_bf16(sums[i][j], left_fragments[i], right_fragments[j]);
                }
            }
        }
    }

    // The tile goes through shared memory, so that rows are written 16 bytes a thread.
    constexpr unsigned KEPT = TILE_N * Out::WIDTH / 2, PADDED = KEPT + 8;
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < FRAGMENTS_M; i++) {
#pragma unroll
        for (unsigned j = 0; j < FRAGMENTS_N; j++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned row = warp_m + 16 * i + 8 * half + lane / 4, column = warp_n + 8 * j + lane % 4 * 2;
                if (origin.x + row >= m || origin.y + column >= n) continue;
                const unsigned kept =
                    out.pair(origin.x + row, origin.y + column, sums[i][j][2 * half], sums[i][j][2 * half + 1]);
                if (Out::WIDTH == 2) {
                    *reinterpret_cast<unsigned *>(ring + row * PADDED + column) = kept;
                } else if (Out::WIDTH == 1) {
                    ring[row * PADDED + column / 2].bits = static_cast<unsigned short>(kept);
                }
            }
        }
    }
    if constexpr (Out::WIDTH != 0) {
        __syncthreads();
        const unsigned width = n * Out::WIDTH / 2, start = origin.y * Out::WIDTH / 2;
        for (unsigned at = thread; at < TILE_M * (KEPT / 8); at += THREADS) {
            const unsigned row = at / (KEPT / 8), column = at % (KEPT / 8) * 8;
            if (origin.x + row < m && start + column < width) {
                out.store(origin.x + row, start + column, ring + row * PADDED + column);
            }
        }
    }
}

// Rows of a matrix `[m, k]`: in chunks where k is a multiple of 8, else one by one.
template <bool CHUNKED> struct MatrixRows {
    const bf16 *x;
    unsigned m, k;

    struct Row {
        const bf16 *start;
        unsigned k;
    };

    __device__ __forceinline__ Row row(unsigned at) const {
        return Row{x + static_cast<u64>(at < m ? at : 0) * k, at < m ? k : 0};
    }

    __device__ __forceinline__ void load(bf16 *to, const Row &row, unsigned at) const {
        const bool take = at < row.k;
        if (CHUNKED) {
            cp_async_16(to, row.start + (take ? at : 0), take ? 16 : 0);
        } else {
            for (unsigned i = 0; i < 8; i++) to[i] = at + i < row.k ? row.start[at + i] : bf16{0};
        }
    }
};
