// GEMM on Hopper with a quantised W, C[m, n] = Σₖ x[m, k]·W[n, k], for few rows of x: every weight
// is read once, as the file stores it, and becomes BF16 in shared memory.
//
// Grid: one CTA per SM at most. Clusters of CLUSTER CTAs take items of work until none is left.
// Work: a CTA computes tiles of TILE_N rows of W times TILE_M rows of x. A cluster computes tiles
//   with neighbouring rows of W at once; their x crosses the L2 once, by multicast. The first
//   `whole` of these groups of tiles are an item each. The others are split along k into `splits`
//   items, whose F32 sums go to `partials`; `reduce_partials` adds those of a tile in their order,
//   so that no result depends on timing.
// Roles:
//   consumers     CONSUMERS warpgroups: wgmma with 64 rows of W as the left operand and all rows of
//                 x as the right one, both in shared memory, then the epilogue.
//   dequantisers  DEQUANTIZERS warpgroups: they convert steps of 128 along k into a ring of STAGES
//                 stages, and load the codes of the next step into registers meanwhile. One thread
//                 of them loads x by TMA. Four of them pay with 64 rows of x. With 128, shared
//                 memory is the limit, and 768 threads leave ptxas too few registers for a wgmma
//                 of 128 columns.
// Barriers: full[s] completes when both operands of stage s are there, empty[s] when every consumer
//   of the cluster is done with it.
//
// An op passes the parts of W: row i of W is row i / Parts of part i % Parts. Its `Epilogue`
// (gemm/epilogue.cuh) gets neighbouring columns of C.
#pragma once

#include "common/quantized.cuh"
#include "gemm/epilogue.cuh"
#include "sm90/ptx/barrier.cuh"
#include "sm90/ptx/cluster.cuh"
#include "sm90/ptx/pdl.cuh"
#include "sm90/ptx/tma.cuh"
#include "sm90/ptx/wgmma.cuh"

// FORMAT: a StoredFormat. WHOLE_STEPS: k is a multiple of 128.
#ifndef FORMAT
#define FORMAT Q4_K
#define WHOLE_STEPS 1
#define TILE_M 128
#define STAGES 3
#define DEQUANTIZERS 2
#define CLUSTER 1
#endif

constexpr unsigned CONSUMERS = 2, WARPGROUP = 128;
constexpr unsigned CONSUMER_THREADS = WARPGROUP * CONSUMERS, DEQUANTIZER_THREADS = WARPGROUP * DEQUANTIZERS;
constexpr unsigned THREADS = CONSUMER_THREADS + DEQUANTIZER_THREADS;
// Registers that a thread starts with. If consumers need more, the roles divide those of the CTA.
constexpr unsigned START_REGISTERS = 65536 / THREADS / 8 * 8, CONSUMER_REGISTERS = 112, DEQUANTIZER_REGISTERS = 64;
constexpr bool DIVIDES_REGISTERS = START_REGISTERS < CONSUMER_REGISTERS;
static_assert(!DIVIDES_REGISTERS || CONSUMERS * CONSUMER_REGISTERS + DEQUANTIZERS * DEQUANTIZER_REGISTERS <=
                                        (CONSUMERS + DEQUANTIZERS) * START_REGISTERS,
              "no warpgroup waits for registers that none gives back");
// Rows and columns of a TMA box; 64 columns are the 128 bytes of the swizzle.
constexpr unsigned BOX = 64;
constexpr unsigned TILE_N = BOX * CONSUMERS, TILE_K = 2 * BOX;
// Rows of W of a cluster.
constexpr unsigned GROUP_N = TILE_N * CLUSTER;
// Elements of 64 columns of a stage, and of a stage. A stage has x, then W, 64 columns each at a
// time.
constexpr unsigned X_HALF = TILE_M * BOX, W_HALF = TILE_N * BOX, STAGE_SIZE = 2 * (X_HALF + W_HALF);
// Units of sixteen weights in a row of a step, and units that a thread converts in a step.
constexpr unsigned UNITS = TILE_K / 16, ROUNDS = TILE_N * UNITS / DEQUANTIZER_THREADS;

// The tiles and how they are split.
struct Schedule {
    unsigned tiles_m, groups, steps, whole, splits;

    // The tile of a CTA by its first rows, its steps along k, and its place in `partials`, if it is
    // a part.
    struct Item {
        unsigned m, n, first, end, partial;
        bool is_part;
    };

    __device__ __forceinline__ Schedule(unsigned m, unsigned n, unsigned k, unsigned whole, unsigned splits)
        : tiles_m((m + TILE_M - 1) / TILE_M), groups(tiles_m * ((n + GROUP_N - 1) / GROUP_N)),
          steps((k + TILE_K - 1) / TILE_K), whole(whole), splits(splits) {}

    __device__ __forceinline__ unsigned items() const {
        return whole + (groups - whole) * splits;
    }

    // Item i of CTA `rank` of a cluster. Groups with the same rows of W are neighbours.
    __device__ __forceinline__ Item item(unsigned i, unsigned rank) const {
        const bool is_part = i >= whole;
        const unsigned partial = i - whole;
        const unsigned group = is_part ? whole + partial / splits : i, part = partial % splits;
        const unsigned m = group % tiles_m * TILE_M, n = group / tiles_m * GROUP_N + rank * TILE_N;
        if (!is_part) return Item{m, n, 0, steps, 0, false};
        const unsigned first = part * steps / splits, end = (part + 1) * steps / splits;
        return Item{m, n, first, end, partial * CLUSTER + rank, true};
    }
};

// The output `[m, stride]`; C is its columns from `first` on.
struct Output {
    bf16 *start;
    unsigned m, n, stride, first;

    // Stores columns n and n + 1 of C, as far as they exist.
    template <class E>
    __device__ __forceinline__ void store_pair(const E &epilogue, unsigned row, unsigned column, float a,
                                               float b) const {
        if (row >= m || column >= n) return;
        const unsigned word = epilogue.pair(row, column, a, b);
        bf16 *to = start + static_cast<u64>(row) * stride + first + column * E::OUT_PER_PAIR / 2;
        if (E::OUT_PER_PAIR == 2 && column + 1 < n && reinterpret_cast<u64>(to) % 4 == 0) {
            *reinterpret_cast<unsigned *>(to) = word;
            return;
        }
        to[0].bits = static_cast<unsigned short>(word);
        if (E::OUT_PER_PAIR == 2 && column + 1 < n) to[1].bits = static_cast<unsigned short>(word >> 16);
    }

    // Stores four accumulators of the tile at row `tile_m` of x and `tile_n` of W. Thread `thread`
    // of the consumers has two columns of C in two of the rows 8·j to 8·j + 7.
    template <class E>
    __device__ __forceinline__ void store(const E &epilogue, unsigned tile_m, unsigned tile_n, unsigned thread,
                                          unsigned j, float4 acc) const {
        const unsigned row = tile_m + 8 * j + thread % 4 * 2, column = tile_n + thread / 32 * 16 + thread % 32 / 4 * 2;
        store_pair(epilogue, row, column, acc.x, acc.z);
        store_pair(epilogue, row + 1, column, acc.y, acc.w);
    }
};

// The index in `partials`, in float4, of the accumulators j of this thread of the consumers.
__device__ __forceinline__ u64 partial_index(unsigned item, unsigned j) {
    return (static_cast<u64>(item) * (TILE_M / 8) + j) * CONSUMER_THREADS + threadIdx.x;
}

// Row 2·i + j of sixteen rows of W is at i + 8·j in shared memory. A thread holds rows i and i + 8
// of the product, which are neighbouring columns of C.
__device__ __forceinline__ unsigned row_in_stage(unsigned row) {
    return row / 16 * 16 + row % 16 / 2 + row % 2 * 8;
}

// The units that a thread converts: one in each ROUND-th row of a tile. A quarter of a warp
// converts four units of two rows, so many apart that their swizzled chunks are in different banks.
struct Units {
    static constexpr unsigned ROUND = DEQUANTIZER_THREADS / UNITS, DISTANCE = Sixteen<FORMAT>::DISTANCE;
    static constexpr unsigned APART = DISTANCE == 16 ? 4 : 8;
    // The column in a step, and the first row.
    unsigned column, row;

    __device__ __forceinline__ explicit Units(unsigned thread)
        : column(unit_column<FORMAT>(thread % 4 + thread / 8 % 2 * 4)),
          row(thread / 16 / APART * (2 * APART) + thread / 16 % APART + thread / 4 % 2 * APART) {}

    // The place of vector j of the first unit in a stage, in elements. The others are ROUND rows
    // apart, with the same swizzle.
    __device__ __forceinline__ unsigned place(unsigned j) const {
        const unsigned at = row_in_stage(row), start = column + j * DISTANCE;
        return 2 * X_HALF + start / BOX * W_HALF + at * BOX + (start % BOX / 8 ^ at % 8) * 8;
    }
};
static_assert(Units::ROUND % 16 == 0, "a round has whole groups of rows that are stored in another order");

template <unsigned Parts>
__device__ __forceinline__ void dequantize_items(const TensorMap &x_map, const QuantizedRows (&parts)[Parts],
                                                 unsigned n, unsigned k, const Schedule &schedule, unsigned rank,
                                                 bf16 *ring, Barrier *full, Barrier *empty) {
    const unsigned thread = threadIdx.x - CONSUMER_THREADS, items = schedule.items();
    const Units units(thread);
    const unsigned places[2] = {units.place(0), units.place(1)};
    // A thread's rows are all of one part.
    const QuantizedRows from = Parts == 2 && units.row % 2 ? parts[Parts - 1] : parts[0];
    Sixteen<FORMAT> stored[ROUNDS];
    // The rows that are loaded next, each as a matrix whose rows all are that one.
    unsigned rows[ROUNDS];
    const unsigned char *codes[ROUNDS];
    auto find_rows = [&](unsigned tile_n) {
#pragma unroll
        for (unsigned i = 0; i < ROUNDS; i++) {
            rows[i] = min((tile_n + units.row + i * Units::ROUND) / Parts, n / Parts - 1);
            codes[i] = from.at(rows[i], 0);
        }
    };
    auto load = [&](unsigned i, unsigned column) {
        const QuantizedRows row{codes[i], from.scales, 0, from.scale_row, from.scale_tiles, from.tensor_scale};
        if (WHOLE_STEPS || column < k) stored[i].load(row, rows[i], column, k);
    };

    unsigned item = blockIdx.x / CLUSTER;
    Schedule::Item work = schedule.item(item, rank);
    find_rows(work.n);
#pragma unroll
    for (unsigned i = 0; i < ROUNDS; i++) load(i, work.first * TILE_K + units.column);
    // The phase before the first one counts as completed: every stage is empty at first.
    unsigned slot = 0, phase = 1, step = work.first;
    bool more = true;
#pragma unroll 1
    while (more) {
        bf16 *stage = ring + slot * STAGE_SIZE;
        const unsigned column = step * TILE_K + units.column;
        empty[slot].wait(phase);
        if (thread == 0) {
            full[slot].arrive_expect_tx(2 * X_HALF * sizeof(bf16));
#pragma unroll
            for (unsigned i = 0; i < 2 * TILE_M / BOX; i++) {
                const unsigned half = i % 2, row = i / 2 * BOX, column = step * TILE_K + half * BOX;
                bf16 *box = stage + half * X_HALF + row * BOX;
                if constexpr (CLUSTER == 1) {
                    tma_load(box, x_map, full[slot], column, work.m + row);
                } else if (half == rank) {
                    tma_load_multicast(box, x_map, full[slot], column, work.m + row);
                }
            }
        }
        // After the last step, its codes are loaded again.
        unsigned next = column + TILE_K;
        if (++step == work.end) {
            item += gridDim.x / CLUSTER;
            more = item < items;
            if (more) {
                work = schedule.item(item, rank);
                find_rows(work.n);
                step = work.first;
            }
            next = more ? step * TILE_K + units.column : column;
        }
#pragma unroll
        for (unsigned i = 0; i < ROUNDS; i++) {
            Vec<8> values[2];
            stored[i].values(values, column);
            load(i, next);
#pragma unroll
            for (unsigned j = 0; j < 2; j++) {
                uint4 words = pack(values[j]);
                if (!WHOLE_STEPS && column + j * Units::DISTANCE >= k) words = make_uint4(0, 0, 0, 0);
                *reinterpret_cast<uint4 *>(stage + places[j] + i * Units::ROUND * BOX) = words;
            }
        }
        fence_proxy_async();
        __syncwarp();
        if (thread % 32 == 0) full[slot].arrive();
        slot = slot + 1 == STAGES ? 0 : slot + 1;
        phase ^= slot == 0;
    }
}

template <class E>
__device__ __forceinline__ void multiply_items(const Schedule &schedule, unsigned rank, bf16 *ring, Barrier *full,
                                               Barrier *empty, float *partials, const Output &out,
                                               const E &epilogue) {
    const unsigned group = warp_uniform(threadIdx.x / WARPGROUP), items = schedule.items();
    // One thread per CTA of the cluster tells its dequantisers that this warpgroup is done with a
    // stage.
    auto release = [&](unsigned slot) {
        if (threadIdx.x % WARPGROUP < CLUSTER) empty[slot].arrive_remote<CLUSTER>(threadIdx.x % WARPGROUP);
    };
    const u64 ring_x = smem_desc(ring), ring_w = smem_desc(ring + 2 * X_HALF + group * BOX * BOX);
    unsigned slot = 0, phase = 0;
    for (unsigned item = blockIdx.x / CLUSTER; item < items; item += gridDim.x / CLUSTER) {
        const Schedule::Item work = schedule.item(item, rank);
        float acc[TILE_M / 2];
        unsigned previous = 0;
#pragma unroll 1
        for (unsigned step = work.first; step < work.end; step++) {
            full[slot].wait(phase);
            const unsigned stage = slot * STAGE_SIZE * sizeof(bf16);
            warpgroup_fence_operand(acc);
            wgmma_fence();
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const u64 desc_x = advance(ring_x, stage + half * X_HALF * sizeof(bf16));
                const u64 desc_w = advance(ring_w, stage + half * W_HALF * sizeof(bf16));
#pragma unroll
                for (unsigned inner = 0; inner < BOX / 16; inner++) {
                    wgmma_ss(acc, advance(desc_w, 32 * inner), advance(desc_x, 32 * inner),
                             step != work.first || half + inner != 0);
                }
            }
            wgmma_commit();
            // The wgmma of the previous step have ended.
            wgmma_wait<1>();
            warpgroup_fence_operand(acc);
            if (step != work.first) release(previous);
            previous = slot;
            slot = slot + 1 == STAGES ? 0 : slot + 1;
            phase ^= slot == 0;
        }
        wgmma_wait<0>();
        warpgroup_fence_operand(acc);
        release(previous);
#pragma unroll
        for (unsigned j = 0; j < TILE_M / 8; j++) {
            const float4 four = make_float4(acc[4 * j], acc[4 * j + 1], acc[4 * j + 2], acc[4 * j + 3]);
            if (work.is_part) {
                reinterpret_cast<float4 *>(partials)[partial_index(work.partial, j)] = four;
            } else {
                out.store(epilogue, work.m, work.n, threadIdx.x, j, four);
            }
        }
    }
}

template <unsigned Parts, class E>
__device__ __forceinline__ void quantized_gemm(const TensorMap &x_map, const QuantizedRows (&parts)[Parts], unsigned k,
                                               unsigned whole, unsigned splits, float *partials, Output out,
                                               E epilogue) {
    extern __shared__ __align__(1024) unsigned char smem[];
    __shared__ Barrier full[STAGES], empty[STAGES];
    bf16 *ring = reinterpret_cast<bf16 *>(smem);
    griddepcontrol_launch_dependents();
    if (threadIdx.x == 0) {
        for (unsigned i = 0; i < STAGES; i++) {
            // Each warp of the dequantisers, and the thread that expects x.
            full[i].init(DEQUANTIZER_THREADS / 32 + 1);
            empty[i].init(CONSUMERS * CLUSTER);
        }
        fence_barrier_init();
    }
    cluster_sync<CLUSTER>();
    griddepcontrol_wait();
    const unsigned rank = CLUSTER > 1 ? cluster_rank() : 0;
    const Schedule schedule(out.m, out.n, k, whole, splits);
    if (threadIdx.x < CONSUMER_THREADS) {
        if constexpr (DIVIDES_REGISTERS) warpgroup_reg_alloc<CONSUMER_REGISTERS>();
        multiply_items(schedule, rank, ring, full, empty, partials, out, epilogue);
    } else {
        if constexpr (DIVIDES_REGISTERS) warpgroup_reg_dealloc<DEQUANTIZER_REGISTERS>();
        dequantize_items(x_map, parts, out.n, k, schedule, rank, ring, full, empty);
    }
    // No CTA ends while its peer may still write to its shared memory or barriers.
    cluster_sync<CLUSTER>();
}

// The tiles from group `whole` on, from their partial sums. Grid: (these groups, TILE_M / 8,
// CLUSTER), a thread per thread of the consumers.
template <class E>
__device__ __forceinline__ void reduce_partials(const float *partials, unsigned k, unsigned whole, unsigned splits,
                                                Output out, E epilogue) {
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    const Schedule schedule(out.m, out.n, k, whole, splits);
    const unsigned first = blockIdx.x * splits, j = blockIdx.y, rank = blockIdx.z;
    const Schedule::Item work = schedule.item(whole + first, rank);
    if (work.m + 8 * j >= out.m) return;
    const float4 *sums = reinterpret_cast<const float4 *>(partials);
    float4 sum = sums[partial_index(work.partial, j)];
    for (unsigned i = 1; i < splits; i++) {
        const float4 more = sums[partial_index(work.partial + i * CLUSTER, j)];
        sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
    }
    out.store(epilogue, work.m, work.n, threadIdx.x, j, sum);
}
