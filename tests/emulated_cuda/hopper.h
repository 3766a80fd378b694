// What the kernels' `sm90/instructions.cuh` wraps in PTX on a device of compute capability 9.0: barriers that count bytes,
// copies of boxes both ways, products of warpgroups, and what blocks of a cluster do for each other. As with cp.async, all land
// as late as they may: a box, or a value from another block, when a thread waits for it and nobody else can run; a box that
// leaves shared memory and a product at the wait that covers it. Where a matrix lies follows the PTX ISA, 9.7.15 ("wgmma"), for
// rows of 128 bytes in the 128-byte swizzle.

using TensorMap = emulated_cuda::TensorMap;

namespace emulated_cuda {

/// Where what the copy engine takes for `logical` lies: chunks of 16 bytes are swapped within rows of 128 bytes, chunk i of row
/// r at i ^ r % 8, or within rows of 64 bytes, at i ^ r / 2 % 4.
inline char *swizzled(char *logical, unsigned row_bytes = 128) {
    Size address = reinterpret_cast<Size>(logical);
    return reinterpret_cast<char *>(address ^ (address >> 7 & (row_bytes / 16 - 1)) << 4);
}

inline unsigned bytes_of(const TensorMap &map) { return map.box[0] * map.box[1] * map.box[2] * map.box[3] * 2; }

template <class... At> inline Box box_at(const void *in_shared, const TensorMap &map, At... at) {
    if (reinterpret_cast<Size>(in_shared) % 1024)
        emulated_cuda_fail("a swizzled box at %p, which is not aligned to 1024 bytes", in_shared);
    if (sizeof...(at) != map.rank) emulated_cuda_fail("%u coordinates in a tensor of rank %u", unsigned(sizeof...(at)), map.rank);
    return {static_cast<char *>(const_cast<void *>(in_shared)), map, {int(at)...}};
}

/// Visits the elements of a box: where each lies in shared memory and in the tensor, null outside of it.
template <class F> EMULATED_CUDA_UNCHECKED inline void each_element(const Box &box, F visit) {
    const TensorMap &map = box.map;
    const unsigned width = map.box[0], rows = map.box[1] * map.box[2] * map.box[3];
    for (unsigned row = 0; row < rows; row++) {
        const unsigned inner[4] = {0, row % map.box[1], row / map.box[1] % map.box[2], row / map.box[1] / map.box[2]};
        Word start = map.address;
        bool inside = true;
        for (unsigned i = 1; i < 4; i++) {
            // What is negative is past every size.
            const Word at = Word(box.at[i]) + inner[i];
            inside = inside && at < map.sizes[i];
            start += at * map.strides[i - 1];
        }
        for (unsigned i = 0; i < width; i++) {
            const Word x = Word(box.at[0]) + i;
            char *in_tensor = inside && x < map.sizes[0] ? reinterpret_cast<char *>(start + x * 2) : nullptr;
            visit(swizzled(box.in_shared + (row * width + i) * 2, width * 2), in_tensor);
        }
    }
}

/// What comes to the block of this thread.
inline Arrivals &arrivals() { return emulated_cuda_current->arrivals[emulated_cuda_current->rank]; }

/// Takes the oldest of those that `barrier` counts out of a list; false where there is none.
template <class T> inline bool take_for(const void *barrier, T *list, unsigned &count, T &taken) {
    for (unsigned i = 0; i < count; i++) {
        if (list[i].barrier != barrier) continue;
        taken = list[i];
        count--;
        __builtin_memmove(list + i, list + i + 1, (count - i) * sizeof(T));
        return true;
    }
    return false;
}

/// Lands what has been on its way to `barrier` for longest, of boxes first; returns its bytes.
inline unsigned land(const void *barrier) {
    Arrivals &mine = arrivals();
    Load load;
    if (take_for(barrier, mine.load, mine.loads, load)) {
        each_element(load.box, [](char *in_shared, const char *in_tensor) {
            if (in_tensor) __builtin_memcpy(in_shared, in_tensor, 2);
            else __builtin_memset(in_shared, 0, 2);
        });
        return bytes_of(load.box.map);
    }
    Sent sent;
    if (!take_for(barrier, mine.sent, mine.values, sent)) return 0;
    *sent.place = sent.value;
    return sizeof sent.value;
}

} // namespace emulated_cuda

struct Barrier {
    unsigned short pending, count;
    // Bytes that were announced and have not come, or came before they were; the phase is in the lowest bit.
    int phased_bytes;

    void init(unsigned threads) {
        pending = count = (unsigned short)threads, phased_bytes = 0;
    }
    void arrive() { arrive_at<1>(emulated_cuda_current->rank); }
    template <unsigned Blocks> void arrive_at(unsigned rank) {
        const emulated_cuda::Mapped at = emulated_cuda_mapped(this, sizeof *this, rank);
        if (static_cast<Barrier *>(at.here)->add(0, true)) emulated_cuda_wake(at.there, rank);
    }
    void expect(unsigned bytes) {
        if (add(int(bytes), true)) emulated_cuda_wake(this, emulated_cuda_current->rank);
    }
    /// Whether it ends the phase.
    bool add(int bytes, bool arrives) {
        // As fresh shared memory is.
        if (count == 0xffff) emulated_cuda_fail("an mbarrier that nobody has initialised");
        if (arrives && !pending--) emulated_cuda_fail("an mbarrier for %u threads: one more arrived", count);
        phased_bytes += bytes * 2;
        if (pending != 0 || phased_bytes >> 1 != 0) return false;
        return pending = count, phased_bytes ^= 1, true;
    }
    bool passed(unsigned parity) const { return unsigned(phased_bytes & 1) != parity; }
    void wait(unsigned parity) {
        using namespace emulated_cuda;
        while (!passed(parity))
            if (emulated_cuda_sleep(this) && add(-int(land(this)), false)) emulated_cuda_wake(this, emulated_cuda_current->rank);
    }
};
static_assert(sizeof(Barrier) == 8, "an mbarrier's size");

inline unsigned uniform(unsigned x) { return x; }
inline void fence_barriers() {}
template <unsigned Count> inline void registers_give() { static_assert(Count >= 24 && Count <= 256 && Count % 8 == 0); }
template <unsigned Count> inline void registers_take() { static_assert(Count >= 24 && Count <= 256 && Count % 8 == 0); }

namespace emulated_cuda {

template <class... At> inline void copy_box_to(unsigned rank, void *to, const TensorMap &map, Barrier &barrier, At... at) {
    const Mapped place = emulated_cuda_mapped(to, bytes_of(map), rank);
    Arrivals &its = emulated_cuda_current->arrivals[rank];
    if (its.loads == sizeof its.load / sizeof *its.load) emulated_cuda_fail("more than %u boxes on their way", its.loads);
    const Box box = box_at(place.there, map, at...);
    for (unsigned i = 0; i < its.loads; i++) {
        const Box &other = its.load[i].box;
        if (box.in_shared < other.in_shared + bytes_of(other.map) && other.in_shared < box.in_shared + bytes_of(map))
            emulated_cuda_fail("brings a box to where another one is on its way");
    }
    its.load[its.loads++] = {box, emulated_cuda_mapped(&barrier, sizeof barrier, rank).there};
    __builtin_memset(place.here, 0xff, bytes_of(map));
}

} // namespace emulated_cuda

template <class... At> inline void copy_box(void *to, const TensorMap &map, Barrier &barrier, At... at) {
    emulated_cuda::copy_box_to(emulated_cuda_current->rank, to, map, barrier, at...);
}
template <class... At> inline void copy_box_to_all(void *to, const TensorMap &map, Barrier &barrier, At... at) {
    for (unsigned rank = 0; rank < 2; rank++) emulated_cuda::copy_box_to(rank, to, map, barrier, at...);
}

inline void send(float *place, float value, Barrier &barrier, unsigned rank) {
    using namespace emulated_cuda;
    const Mapped to = emulated_cuda_mapped(place, sizeof value, rank);
    Arrivals &its = emulated_cuda_current->arrivals[rank];
    if (its.values == sizeof its.sent / sizeof *its.sent) emulated_cuda_fail("more than %u values on their way", its.values);
    for (unsigned i = 0; i < its.values; i++)
        if (its.sent[i].place == to.there) emulated_cuda_fail("sends a value to where another one is on its way");
    its.sent[its.values++] = {static_cast<float *>(to.there), value, emulated_cuda_mapped(&barrier, sizeof barrier, rank).there};
    *static_cast<float *>(to.here) = poison<float>();
}

template <class... At> inline void store_box(const TensorMap &map, const void *from, At... at) {
    using namespace emulated_cuda;
    Thread &mine = *emulated_cuda_current;
    if (mine.stores == sizeof mine.store / sizeof *mine.store) emulated_cuda_fail("more than %u boxes on their way out", mine.stores);
    mine.store[mine.stores++] = {box_at(from, map, at...), mine.stores_committed};
}
inline void store_commit() { emulated_cuda_current->stores_committed++; }
template <int Pending> inline void store_wait() {
    using namespace emulated_cuda;
    Thread &mine = *emulated_cuda_current;
    unsigned landed = 0;
    for (; landed < mine.stores && mine.store[landed].group + Pending < mine.stores_committed; landed++)
        each_element(mine.store[landed].box, [](const char *in_shared, char *in_tensor) {
            if (in_tensor) __builtin_memcpy(in_tensor, in_shared, 2);
        });
    mine.stores -= landed;
    __builtin_memmove(mine.store, mine.store + landed, mine.stores * sizeof(Store));
}
inline void fence_shared() {}

inline unsigned cluster_rank() { return emulated_cuda_current->rank; }
template <unsigned Blocks> inline void cluster_sync() {
    if (Blocks == 1) __syncthreads();
    else emulated_cuda_cluster_barrier(Blocks);
}

// A matrix for wgmma: its address, and in the upper 16 bits the distance of 64 columns, in units of 16 bytes.
inline unsigned long long matrix_at(const void *in_shared, unsigned across = 16) {
    return reinterpret_cast<unsigned long long>(in_shared) | (unsigned long long)(across / 16) << 48;
}
inline unsigned long long later(unsigned long long matrix, unsigned bytes) { return matrix + bytes; }

namespace emulated_cuda {

/// Eight neighbours along a row of a matrix, which share a chunk.
inline void widen_chunk(unsigned long long matrix, unsigned offset, float (&to)[8]) {
    char *start = reinterpret_cast<char *>(matrix & 0xffffffffffff);
    unsigned short bits[8];
    __builtin_memcpy(bits, swizzled(start + offset), 16);
    for (unsigned i = 0; i < 8; i++) to[i] = float_from_bf16(bits[i]);
}

/// A warp's part of a product, for all its lanes: sixteen rows, of which a lane holds two, and of every eight columns two.
EMULATED_CUDA_UNCHECKED inline void multiply(Wgmma *const (&lanes)[32]) {
    const Wgmma &w = *lanes[0];
    const unsigned warp = emulated_cuda_current->thread.x / 32 % 4, across = unsigned(w.right >> 48) * 16;
    float a[16][16], b[16][256], chunk[8];
    for (unsigned lane = 0; w.left_in_registers && lane < 32; lane++)
        for (unsigned i = 0; i < 4; i++) {
            const unsigned pair = lanes[lane]->registers[i], row = lane / 4 + i % 2 * 8, k = i / 2 * 8 + lane % 4 * 2;
            a[row][k] = float_from_bf16((unsigned short)pair), a[row][k + 1] = float_from_bf16((unsigned short)(pair >> 16));
        }
    for (unsigned row = 0; !w.left_in_registers && row < 16; row++)
        for (unsigned k = 0; k < 16; k += 8) {
            widen_chunk(w.left, (16 * warp + row) * 128 + k * 2, chunk);
            __builtin_memcpy(a[row] + k, chunk, sizeof chunk);
        }
    for (unsigned n = 0; w.right_in_rows && n < w.columns; n += 8)
        for (unsigned k = 0; k < 16; k++) {
            widen_chunk(w.right, n / 64 * across + k * 128 + n % 64 * 2, chunk);
            __builtin_memcpy(b[k] + n, chunk, sizeof chunk);
        }
    for (unsigned n = 0; !w.right_in_rows && n < w.columns; n++)
        for (unsigned k = 0; k < 16; k += 8) {
            widen_chunk(w.right, n * 128 + k * 2, chunk);
            for (unsigned i = 0; i < 8; i++) b[k + i][n] = chunk[i];
        }
    typedef float Row __attribute__((vector_size(32), aligned(4)));
    for (unsigned n = 0; n < w.columns; n += 8)
        for (unsigned half = 0; half < 2; half++) {
            Row sums[8] = {};
            for (unsigned k = 0; k < 16; k++) {
                const Row right = *reinterpret_cast<Row *>(b[k] + n);
#pragma GCC unroll 8
                for (unsigned row = 0; row < 8; row++) sums[row] += a[8 * half + row][k] * right;
            }
            for (unsigned lane = 0; lane < 32; lane++)
                for (unsigned i = 0; i < 2; i++) {
                    float &d = lanes[lane]->sums[n / 2 + 2 * half + i], sum = sums[lane / 4][lane % 4 * 2 + i];
                    d = w.add ? d + sum : sum;
                }
        }
}

struct Landing {
    Wgmma *first;
    unsigned count;
};
inline void land_products(void **arguments, unsigned present) {
    require_warp(present, "wgmma");
    auto all = reinterpret_cast<Landing **>(arguments);
    for (unsigned i = 0; i < all[0]->count; i++) {
        Wgmma *lanes[32];
        for (unsigned lane = 0; lane < 32; lane++) {
            lanes[lane] = all[lane]->first + i;
            if (all[lane]->count != all[0]->count || lanes[lane]->left != lanes[0]->left || lanes[lane]->right != lanes[0]->right)
                emulated_cuda_fail("the lanes of a warp disagree on a wgmma");
        }
        multiply(lanes);
    }
}

inline void issue(float *d, unsigned columns, const unsigned *registers, unsigned long long a, unsigned long long b, bool add) {
    Thread &mine = *emulated_cuda_current;
    if (mine.wgmmas == sizeof mine.wgmma / sizeof *mine.wgmma) emulated_cuda_fail("more than %u wgmma", mine.wgmmas);
    Wgmma &w = mine.wgmma[mine.wgmmas++];
    // A left matrix in registers goes with a right one whose rows are k.
    w = {d, a, b, {}, columns, mine.wgmma_committed, add, registers != nullptr, registers != nullptr};
    if (registers) __builtin_memcpy(w.registers, registers, sizeof w.registers);
}

} // namespace emulated_cuda

inline void wgmma_fence() { emulated_cuda_barrier(8 + emulated_cuda_current->thread.x / 128, 128, false); }
inline void wgmma_commit() { emulated_cuda_current->wgmma_committed++; }
template <int Pending> inline void wgmma_wait() {
    using namespace emulated_cuda;
    Thread &mine = *emulated_cuda_current;
    unsigned landed = 0;
    while (landed < mine.wgmmas && mine.wgmma[landed].group + Pending < mine.wgmma_committed) landed++;
    Landing landing{mine.wgmma, landed};
    emulated_cuda_collective(0xffffffff, land_products, &landing);
    mine.wgmmas -= landed;
    __builtin_memmove(mine.wgmma, mine.wgmma + landed, mine.wgmmas * sizeof(Wgmma));
    // One thread of a warpgroup may speak for all of it afterwards.
    emulated_cuda_barrier(8 + emulated_cuda_current->thread.x / 128, 128, false);
}
template <int Count> inline void hold(float (&sums)[Count]) { asm volatile("" : : "r"(sums) : "memory"); }

template <int Sums> inline void wgmma_k16(float (&d)[Sums], unsigned long long a, unsigned long long b, bool add) {
    static_assert(Sums == 32 || Sums == 64 || Sums == 96 || Sums == 128, "the kernels' widths");
    emulated_cuda::issue(d, Sums * 2, nullptr, a, b, add);
}
inline void wgmma_k16_rows(float (&d)[64], const unsigned (&a)[4], unsigned long long b, bool add) {
    emulated_cuda::issue(d, 128, a, 0, b, add);
}
