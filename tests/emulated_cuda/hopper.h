// What the kernels' `sm90/instructions.cuh` wraps in PTX on a device of compute capability 9.0: barriers that count bytes,
// copies of boxes, products of warpgroups. As with cp.async, both land as late as they may: a box when a thread would wait
// for it in vain, a product at the wait that covers it. Where a matrix lies follows the PTX ISA, 9.7.15 ("wgmma"), for
// rows of 128 bytes in the 128-byte swizzle.

using TensorMap = emulated_cuda::TensorMap;
struct Barrier;

namespace emulated_cuda {

struct Box {
    char *to;
    const TensorMap *map;
    Barrier *barrier;
    unsigned at[3];
};
// Shared memory of the block, which starts as ones: none are waiting.
static thread_local Box boxes[32];
static thread_local unsigned not_waiting;
inline unsigned boxes_waiting() { return ~not_waiting; }

/// In rows of 128 bytes, chunk i of row r lies at i ^ r % 8.
inline char *swizzled(char *logical) {
    Size address = reinterpret_cast<Size>(logical);
    return reinterpret_cast<char *>(address ^ (address >> 7 & 7) << 4);
}

/// Copies a box; the number of its bytes.
EMULATED_CUDA_UNCHECKED inline int land(const Box &box) {
    const TensorMap &map = *box.map;
    for (unsigned row = 0; row < map.box[1]; row++) {
        bool inside = box.at[1] + row < map.sizes[1] && box.at[2] < map.sizes[2];
        auto from = reinterpret_cast<const char *>(map.address) + box.at[0] * 2;
        if (inside) from += (box.at[1] + row) * map.strides[0] + (map.rank > 2 ? box.at[2] * map.strides[1] : 0);
        for (unsigned i = 0; i < map.box[0]; i++) {
            char *to = swizzled(box.to + row * 128 + i * 2);
            if (inside && box.at[0] + i < map.sizes[0]) __builtin_memcpy(to, from + i * 2, 2);
            else __builtin_memset(to, 0, 2);
        }
    }
    return int(map.box[0] * map.box[1] * 2);
}

} // namespace emulated_cuda

struct Barrier {
    unsigned short pending, count;
    // Bytes that were announced and have not come; the phase is in the lowest bit.
    int phased_bytes;

    void init(unsigned threads) {
        pending = count = (unsigned short)threads, phased_bytes = 0;
    }
    void arrive() { add(0, true); }
    void expect(unsigned bytes) { add(int(bytes), true); }
    void add(int bytes, bool arrives) {
        if (arrives && !pending--) emulated_cuda_fail("an mbarrier for %u threads: one more arrived", count);
        phased_bytes += bytes * 2;
        if (pending == 0 && phased_bytes >> 1 == 0) pending = count, phased_bytes ^= 1;
    }
    bool passed(unsigned parity) const { return unsigned(phased_bytes & 1) != parity; }
    void wait(unsigned parity) {
        using namespace emulated_cuda;
        for (unsigned tries = 0; !passed(parity); tries++) {
            if (tries == 1000000) emulated_cuda_fail("an mbarrier that never ends its phase");
            emulated_cuda_yield();
            for (unsigned i = 0; i < boxes_waiting() && !passed(parity); i++) {
                if (boxes[i].barrier != this) continue;
                Box box = boxes[i];
                not_waiting++;
                __builtin_memmove(boxes + i, boxes + i + 1, (boxes_waiting() - i) * sizeof(Box));
                add(-land(box), false);
                break;
            }
        }
    }
};
static_assert(sizeof(Barrier) == 8, "an mbarrier's size");

inline void fence_barriers() {}
template <unsigned Count> inline void registers_give() { static_assert(Count >= 24 && Count <= 256 && Count % 8 == 0); }
template <unsigned Count> inline void registers_take() { static_assert(Count >= 24 && Count <= 256 && Count % 8 == 0); }

inline void copy_box(void *to, const TensorMap &map, Barrier &barrier, unsigned x, unsigned y, unsigned z = 0) {
    using namespace emulated_cuda;
    if (reinterpret_cast<Size>(to) % 1024) emulated_cuda_fail("a swizzled box at %p, which is not aligned to 1024 bytes", to);
    if (boxes_waiting() == sizeof boxes / sizeof *boxes) emulated_cuda_fail("more than %u boxes on their way", boxes_waiting());
    __builtin_memset(to, 0xff, map.box[0] * map.box[1] * 2);
    boxes[boxes_waiting()] = {static_cast<char *>(to), &map, &barrier, {x, y, z}};
    not_waiting--;
}

// A matrix for wgmma: its address, and in the upper 16 bits the distance of 64 columns, in units of 16 bytes.
inline unsigned long long matrix_at(const void *in_shared, unsigned across = 16) {
    return reinterpret_cast<unsigned long long>(in_shared) | (unsigned long long)(across / 16) << 48;
}
inline unsigned long long later(unsigned long long matrix, unsigned bytes) { return matrix + bytes; }

namespace emulated_cuda {

inline float element(unsigned long long matrix, unsigned offset) {
    char *start = reinterpret_cast<char *>(matrix & 0xffffffffffff);
    unsigned short bits;
    __builtin_memcpy(&bits, swizzled(start + offset), 2);
    return float_from_bf16(bits);
}

/// This thread's part of a product: two rows of its warp's sixteen, two neighbouring columns of every eight.
EMULATED_CUDA_UNCHECKED inline void multiply(const Wgmma &w) {
    unsigned lane = emulated_cuda_current->lane, warp = emulated_cuda_current->thread.x / 32 % 4;
    float a[2][16];
    for (unsigned half = 0; half < 2; half++) {
        unsigned row = 16 * warp + 8 * half + lane / 4;
        for (unsigned k = 0; k < 16; k++)
            a[half][k] = w.registers ? float_from_bf16(w.rows[half][k]) : element(w.left, row * 128 + k * 2);
    }
    unsigned across = unsigned(w.right >> 48) * 16;
    for (unsigned j = 0; j < w.columns / 8; j++)
        for (unsigned i = 0; i < 2; i++) {
            unsigned n = 8 * j + lane % 4 * 2 + i;
            float sums[2] = {};
            for (unsigned k = 0; k < 16; k++) {
                float b = element(w.right, w.right_in_rows ? n / 64 * across + k * 128 + n % 64 * 2 : n * 128 + k * 2);
                sums[0] += a[0][k] * b, sums[1] += a[1][k] * b;
            }
            for (unsigned half = 0; half < 2; half++) {
                float &d = w.sums[4 * j + 2 * half + i];
                d = w.add ? d + sums[half] : sums[half];
            }
        }
}

inline void issue(float *d, unsigned columns, const unsigned *registers, unsigned long long a, unsigned long long b, bool add,
                  bool b_in_rows) {
    Thread &mine = *emulated_cuda_current;
    if (mine.wgmmas == sizeof mine.wgmma / sizeof *mine.wgmma) emulated_cuda_fail("more than %u wgmma", mine.wgmmas);
    Wgmma &w = mine.wgmma[mine.wgmmas++];
    w = {d, a, b, {}, columns, mine.wgmma_committed, add, registers != nullptr, b_in_rows};
    // The four lanes that share two rows have four columns of each eight between them.
    for (unsigned i = 0; registers && i < 4; i++)
        for (unsigned lane = 0; lane < 4; lane++) {
            unsigned pair = __shfl_sync(0xffffffffu, registers[i], emulated_cuda_current->lane / 4 * 4 + lane);
            unsigned k = i / 2 * 8 + lane * 2;
            w.rows[i % 2][k] = (unsigned short)pair, w.rows[i % 2][k + 1] = (unsigned short)(pair >> 16);
        }
}

} // namespace emulated_cuda

inline void wgmma_fence() { emulated_cuda_barrier(8 + emulated_cuda_current->thread.x / 128, 128, false); }
inline void wgmma_commit() { emulated_cuda_current->wgmma_committed++; }
template <int Pending> inline void wgmma_wait() {
    using namespace emulated_cuda;
    Thread &mine = *emulated_cuda_current;
    unsigned landed = 0;
    while (landed < mine.wgmmas && mine.wgmma[landed].group + Pending < mine.wgmma_committed) multiply(mine.wgmma[landed++]);
    mine.wgmmas -= landed;
    __builtin_memmove(mine.wgmma, mine.wgmma + landed, mine.wgmmas * sizeof(Wgmma));
    // One thread of a warpgroup may speak for all of it afterwards.
    emulated_cuda_barrier(8 + emulated_cuda_current->thread.x / 128, 128, false);
}
template <int Count> inline void hold(float (&sums)[Count]) { asm volatile("" : : "r"(sums) : "memory"); }

inline void wgmma_m64n256k16(float (&d)[128], unsigned long long a, unsigned long long b, bool add) {
    emulated_cuda::issue(d, 256, nullptr, a, b, add, false);
}
inline void wgmma_m64n128k16(float (&d)[64], unsigned long long a, unsigned long long b, bool add) {
    emulated_cuda::issue(d, 128, nullptr, a, b, add, false);
}
inline void wgmma_m64n128k16_rows(float (&d)[64], const unsigned (&a)[4], unsigned long long b, bool add) {
    emulated_cuda::issue(d, 128, a, 0, b, add, true);
}
