// The product of ../product.cuh for Hopper: C[m, n] = Σ A[m, k]·W[n, k] by wgmma from tiles that the copy engine brings.
//
// A block makes tiles of 64·CONSUMERS × TILE_N, one after the other. One warpgroup, the producer, does nothing but ask for steps
// of 64 along k, which lie in a ring of STAGES stages; the others, the consumers, make 64 rows of the tile each. `full` says
// that a stage has come, `empty` that all consumers are done with it. While the consumers write a tile, the producer
// fills the ring for the next one.
//
// CLUSTER blocks, 1 or 2, work side by side, so that what both need crosses the L2 once: two tiles one below the other
// share their part of W, and each block brings half of it to both. An odd last row of tiles is taken two tiles at a time
// that stand beside each other and share their part of A, which they bring in turn. So is every row with BESIDE, for an Out that
// must see the columns of both.
//
// A verb gives two structures:
//   Left:  struct Tile;  Tile tile(unsigned m): what is known of the tile of A that starts at row m;
//          void copy(bf16 *to, Barrier &full, unsigned step, const Tile &, unsigned first): of one step, 64 rows of the tile
//          from `first` on;  void copy_to_all(…): the same to every block of the cluster;
//          unsigned column(unsigned step): where the step starts in a row of W;
//          unsigned row(const Tile &, unsigned i): the row of the output that row i of the tile is, or NO_ROW;
//          void store(const TensorMap &out, const bf16 *from, const Tile &, unsigned first, unsigned column): 64 rows of the
//          tile from `first` on to 64 columns of the output.
//   Out:   WIDTH: columns of the output that two columns of the product make, 2 or 1;
//          unsigned pair(row, n, a, b): what is kept of columns n and n + 1, two BF16 or one;
//          PREPARES: whether there is a void prepare(sums, rows, n), which changes all that a thread holds of a tile whose first
//          column is n, before any of it is kept: sums[4·j + 2·half + i] is column n + 8·j + lane % 4 · 2 + i of rows[half].
// Constants: CONSUMERS, TILE_N, STAGES, CLUSTER, BESIDE, BUFFERS.

constexpr unsigned TILE_M = 64 * CONSUMERS, STEP = 64, HALF_N = TILE_N / 2, THREADS = 128 * (CONSUMERS + 1);
constexpr unsigned LEFT = TILE_M * STEP, RIGHT = TILE_N * STEP, STAGE = LEFT + RIGHT;
// Tiles that a cluster is high and wide.
constexpr unsigned HIGH = BESIDE ? 1 : CLUSTER, WIDE = BESIDE ? CLUSTER : 1;
// Clusters that a band of the output is high, so that blocks which run together share rows and columns in the L2.
constexpr unsigned BAND = (CONSUMERS == 3 ? 12 : 8) / HIGH;
// 64 rows and columns on their way out, or 32 columns where two of the product make one.
constexpr unsigned BUFFER = 64 * 64;
constexpr unsigned NO_ROW = 0xffffffffu;

// Where a block's tile starts, and whether its cluster shares rows of A instead of W.
//
// The last rows of the output come first: whoever reads it from its first row on, as the library's products do, finds what was
// written last in the L2, which holds half of what a swiglu writes. residual_norm begins with the last rows, where the
// library's products end.
struct Place {
    unsigned m, n;
    bool shares_left;
};

// How many clusters' worth of tiles there are.
__device__ __forceinline__ unsigned places(unsigned tiles_m, unsigned tiles_n) {
    return tiles_m / HIGH * ((tiles_n + WIDE - 1) / WIDE) + (tiles_m % HIGH ? (tiles_n + CLUSTER - 1) / CLUSTER : 0);
}

// Clusters go up a band, then to the column of tiles before.
__device__ __forceinline__ Place place_of(unsigned turn, unsigned rank, unsigned tiles_m, unsigned tiles_n) {
    const unsigned cluster = places(tiles_m, tiles_n) - 1 - turn;
    const unsigned down = tiles_m / HIGH, across = (tiles_n + WIDE - 1) / WIDE;
    if (cluster >= down * across) {
        const unsigned beside = cluster - down * across;
        return Place{down * HIGH * TILE_M, (beside * CLUSTER + rank) * TILE_N, true};
    }
    const unsigned band = cluster / (BAND * across), inside = cluster % (BAND * across);
    const unsigned height = min(BAND, down - BAND * band);
    const unsigned m = (BAND * band + inside % height) * HIGH, n = inside / height * WIDE;
    return Place{(m + (BESIDE ? 0 : rank)) * TILE_M, (n + (BESIDE ? rank : 0)) * TILE_N, BESIDE != 0};
}

// Writes what a consumer holds of a product: 64 rows of the tile from `first` on. Rows in a buffer lie as the copy engine
// takes them: of rows of 128 bytes chunk c of row r at c ^ r % 8, of rows of 64 bytes at c ^ r / 2 % 4.
template <class Left, class Out>
__device__ __forceinline__ void write(const Left &left, const typename Left::Tile &tile, unsigned first, unsigned column,
                                      float (&sums)[TILE_N / 2], bf16 *buffers, unsigned &written, unsigned n,
                                      const TensorMap &to, Out &out) {
    const unsigned group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const unsigned own = 16 * warp + lane / 4;
    const unsigned rows[2] = {left.row(tile, first + own), left.row(tile, first + own + 8)};
    if constexpr (Out::PREPARES) out.prepare(sums, rows, column);
#pragma unroll
    for (unsigned start = 0; start < TILE_N; start += 64) {
        // All at once, so that what they read from memory is on its way together.
        unsigned kept[8][2] = {};
#pragma unroll
        for (unsigned j = 0; j < 8; j++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned at = column + start + 8 * j + lane % 4 * 2;
                const float *pair = sums + (start / 8 + j) * 4 + 2 * half;
                if (rows[half] != NO_ROW && at < n) kept[j][half] = out.pair(rows[half], at, pair[0], pair[1]);
            }
        }
        bf16 *buffer = buffers + (group * BUFFERS + written++ % BUFFERS) * BUFFER;
        if (threadIdx.x % 128 == 0) store_wait<BUFFERS - 1>();
        barrier_sync(1 + group, 128);
#pragma unroll
        for (unsigned j = 0; j < 8; j++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned line = own + 8 * half;
                if (Out::WIDTH == 2) {
                    *reinterpret_cast<unsigned *>(buffer + line * 64 + (j ^ line % 8) * 8 + lane % 4 * 2) = kept[j][half];
                } else {
                    const unsigned place = line * 32 + (j / 2 ^ line / 2 % 4) * 8 + j % 2 * 4 + lane % 4;
                    buffer[place].bits = static_cast<unsigned short>(kept[j][half]);
                }
            }
        }
        fence_shared();
        barrier_sync(1 + group, 128);
        if (threadIdx.x % 128 == 0) {
            left.store(to, buffer, tile, first, (column + start) * Out::WIDTH / 2);
            store_commit();
        }
    }
}

template <class Left, class Out>
__device__ __forceinline__ void product(const Left &left, const TensorMap &right, unsigned m, unsigned n, unsigned steps,
                                        const TensorMap &to, Out out) {
    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ Barrier full[STAGES], empty[STAGES];
    bf16 *ring = reinterpret_cast<bf16 *>(shared), *buffers = ring + STAGES * STAGE;
    const unsigned group = uniform(threadIdx.x / 128);
    const unsigned rank = CLUSTER > 1 ? cluster_rank() : 0;
    let_next_start();
    if (threadIdx.x == 0) {
        for (unsigned i = 0; i < STAGES; i++) {
            full[i].init(1);
            empty[i].init(CONSUMERS * CLUSTER);
        }
        fence_barriers();
    }
    cluster_sync<CLUSTER>();
    wait_for_previous();
    const unsigned tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1) / TILE_N;
    const unsigned count = places(tiles_m, tiles_n), stride = gridDim.x / CLUSTER;

    if (group == CONSUMERS) {
        registers_give<40>();
        if (threadIdx.x % 128 == 0) {
            // The first round finds every stage empty.
            unsigned slot = 0, phase = 1;
            for (unsigned turn = blockIdx.x / CLUSTER; turn < count; turn += stride) {
                const Place place = place_of(turn, rank, tiles_m, tiles_n);
                const typename Left::Tile tile = left.tile(place.m);
#pragma unroll 1
                for (unsigned step = 0; step < steps; step++) {
                    const unsigned column = left.column(step);
                    bf16 *rows = ring + slot * STAGE, *columns = rows + LEFT;
                    empty[slot].wait(phase);
                    full[slot].expect(STAGE * sizeof(bf16));
                    for (unsigned i = 0; i < CONSUMERS; i++) {
                        bf16 *to = rows + i * 64 * STEP;
                        if (CLUSTER == 1 || !place.shares_left) {
                            left.copy(to, full[slot], step, tile, 64 * i);
                        } else if constexpr (CLUSTER > 1) {
                            if (i % CLUSTER == rank) left.copy_to_all(to, full[slot], step, tile, 64 * i);
                        }
                    }
                    if (CLUSTER > 1 && !place.shares_left) {
                        copy_box_to_all(columns + rank * HALF_N * STEP, right, full[slot], column, place.n + rank * HALF_N);
                    } else {
                        copy_box(columns, right, full[slot], column, place.n);
                        copy_box(columns + HALF_N * STEP, right, full[slot], column, place.n + HALF_N);
                    }
                    slot = slot + 1 == STAGES ? 0 : slot + 1;
                    phase ^= slot == 0;
                }
            }
        }
    } else {
        registers_take<CONSUMERS == 2 ? 232 : 152>();
        // One thread of the warpgroup tells each block of the cluster that a stage may be filled again.
        auto release = [&](unsigned slot) {
            if (threadIdx.x % 128 < CLUSTER) empty[slot].arrive_at<CLUSTER>(threadIdx.x % 128);
        };
        unsigned slot = 0, phase = 0, written = 0;
        const u64 rows = matrix_at(ring + group * 64 * STEP), columns = matrix_at(ring + LEFT);
        for (unsigned turn = blockIdx.x / CLUSTER; turn < count; turn += stride) {
            const Place place = place_of(turn, rank, tiles_m, tiles_n);
            float sums[TILE_N / 2];
            unsigned before = 0;
#pragma unroll 1
            for (unsigned step = 0; step < steps; step++) {
                full[slot].wait(phase);
                const u64 a = later(rows, slot * STAGE * sizeof(bf16)), b = later(columns, slot * STAGE * sizeof(bf16));
                hold(sums);
                wgmma_fence();
#pragma unroll
                for (unsigned inner = 0; inner < STEP / 16; inner++) {
                    wgmma_k16(sums, later(a, 32 * inner), later(b, 32 * inner), step + inner != 0);
                }
                wgmma_commit();
                // The step before is done with its stage.
                wgmma_wait<1>();
                hold(sums);
                if (step > 0) release(before);
                before = slot;
                slot = slot + 1 == STAGES ? 0 : slot + 1;
                phase ^= slot == 0;
            }
            wgmma_wait<0>();
            hold(sums);
            release(before);

            write(left, left.tile(place.m), 64 * group, place.n, sums, buffers, written, n, to, out);
        }
        if (threadIdx.x % 128 == 0) store_wait<0>();
    }
    // No block ends while the other one may still write to its memory or its barriers.
    cluster_sync<CLUSTER>();
}

// Rows of a matrix `[m, k]`, whose map copies boxes of 64 rows.
struct MappedRows {
    const TensorMap &map;
    unsigned m;

    struct Tile {
        unsigned first;
    };

    __device__ __forceinline__ Tile tile(unsigned at) const {
        return Tile{at};
    }

    __device__ __forceinline__ void copy(bf16 *to, Barrier &full, unsigned step, const Tile &tile, unsigned first) const {
        copy_box(to, map, full, step * STEP, tile.first + first);
    }

    __device__ __forceinline__ void copy_to_all(bf16 *to, Barrier &full, unsigned step, const Tile &tile, unsigned first) const {
        copy_box_to_all(to, map, full, step * STEP, tile.first + first);
    }

    __device__ __forceinline__ unsigned column(unsigned step) const {
        return step * STEP;
    }

    __device__ __forceinline__ unsigned row(const Tile &tile, unsigned i) const {
        return tile.first + i < m ? tile.first + i : NO_ROW;
    }

    __device__ __forceinline__ void store(const TensorMap &out, const bf16 *from, const Tile &tile, unsigned first,
                                          unsigned column) const {
        store_box(out, from, column, tile.first + first);
    }
};
