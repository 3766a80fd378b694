// conv2d: a convolution over pictures that are channels last, as a product: a row of A is what the kernel sees around one
// output pixel, tap by tap, and is never stored. x `[items, height, width, CHANNELS]`, W `[n, taps·DEPTH]` where DEPTH is
// CHANNELS up to a multiple of 8, out `[items, out_height, out_width, n]`; bias and residual are added before rounding.
// Constants: CHANNELS, KERNEL_WIDTH, STRIDE, UPSAMPLE, HAS_BIAS, HAS_RESIDUAL, ALIGNED_OUT (n is a multiple of 8).

constexpr unsigned DEPTH = (CHANNELS + 7) / 8 * 8;

struct Pixels {
    static constexpr unsigned WIDTH = 2;
    static constexpr bool PREPARES = false;
    bf16 *out;
    const float *bias;
    const bf16 *residual;
    unsigned n;

    __device__ __forceinline__ unsigned pair(unsigned row, unsigned column, float a, float b) const {
        const bool both = column + 1 < n;
        if (HAS_BIAS) {
            a += bias[column];
            b += both ? bias[column + 1] : 0.0f;
        }
        if (HAS_RESIDUAL) {
            const bf16 *from = residual + static_cast<u64>(row) * n + column;
            if (ALIGNED_OUT) {
                const unsigned word = *reinterpret_cast<const unsigned *>(from);
                a += low_half(word);
                b += high_half(word);
            } else {
                a += widen(from[0]);
                b += both ? widen(from[1]) : 0.0f;
            }
        }
        return bf16x2_from_floats(a, b);
    }

    __device__ __forceinline__ void store(unsigned row, unsigned column, const bf16 *eight) const {
        store_eight<ALIGNED_OUT>(out + static_cast<u64>(row) * n, column, n, eight);
    }
};

#ifdef SM90

// What the kernel sees around a tile of 16 × 8 output pixels: a box of 64 channels of the picture, at a place for each tap.
// Rows of the product are the pixels tile by tile. The map is of x, `[items, height, width, CHANNELS]`, in boxes of
// 4 × 16 pixels; what lies outside comes as zeros. The kernel steps by one pixel and does not zoom, and blocks
// read alone: CLUSTER is 1.
struct MappedPixels {
    const TensorMap &map;
    unsigned out_height, out_width;
    int top, left;

    static constexpr unsigned TILE_WIDTH = 16, TILE_HEIGHT = TILE_M / TILE_WIDTH, PARTS = (CHANNELS + STEP - 1) / STEP;

    // The first pixel of the tile.
    struct Tile {
        unsigned item, y, x;
    };

    __device__ __forceinline__ Tile tile(unsigned m) const {
        const unsigned across = (out_width + TILE_WIDTH - 1) / TILE_WIDTH, down = (out_height + TILE_HEIGHT - 1) / TILE_HEIGHT;
        const unsigned tile = m / TILE_M;
        return Tile{tile / (across * down), tile / across % down * TILE_HEIGHT, tile % across * TILE_WIDTH};
    }

    __device__ __forceinline__ void copy(bf16 *to, Barrier &full, unsigned step, const Tile &tile, unsigned first) const {
        copy_box(to, map, full, step % PARTS * STEP, x(step, tile), y(step, tile, first), tile.item);
    }

    __device__ __forceinline__ unsigned column(unsigned step) const {
        return step / PARTS * DEPTH + step % PARTS * STEP;
    }

    __device__ __forceinline__ unsigned row(const Tile &tile, unsigned i) const {
        const unsigned y = tile.y + i / TILE_WIDTH, x = tile.x + i % TILE_WIDTH;
        return y < out_height && x < out_width ? (tile.item * out_height + y) * out_width + x : NO_ROW;
    }

    __device__ __forceinline__ void store(const TensorMap &out, const bf16 *from, const Tile &tile, unsigned first,
                                          unsigned column) const {
        store_box(out, from, column, tile.x, tile.y + first / TILE_WIDTH, tile.item);
    }

    __device__ __forceinline__ int x(unsigned step, const Tile &tile) const {
        return static_cast<int>(tile.x + step / PARTS % KERNEL_WIDTH) - left;
    }

    __device__ __forceinline__ int y(unsigned step, const Tile &tile, unsigned first) const {
        return static_cast<int>(tile.y + first / TILE_WIDTH + step / PARTS / KERNEL_WIDTH) - top;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    hopper(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights, const float *bias, const bf16 *residual,
           const __grid_constant__ TensorMap out, unsigned m, unsigned n, unsigned taps, unsigned out_height, unsigned out_width, unsigned top,
           unsigned left) {
    const MappedPixels pixels{x, out_height, out_width, static_cast<int>(top), static_cast<int>(left)};
    product(pixels, weights, m, n, taps * MappedPixels::PARTS, out, Pixels{nullptr, bias, residual, n});
}

#else

struct Taps {
    const bf16 *x;
    unsigned m, k, height, width, out_height, out_width, top, left;

    // The first pixel that an output pixel sees, which may lie in the padding.
    struct Row {
        const bf16 *picture;
        int y, x;
        unsigned k;
    };

    __device__ __forceinline__ Row row(unsigned at) const {
        const unsigned row = at < m ? at : 0;
        const unsigned item = row / (out_height * out_width), pixel = row % (out_height * out_width);
        const unsigned y = pixel / out_width, column = pixel % out_width;
        return Row{x + static_cast<u64>(item) * height * width * CHANNELS, static_cast<int>(y * STRIDE) - static_cast<int>(top),
                   static_cast<int>(column * STRIDE) - static_cast<int>(left), at < m ? k : 0};
    }

    __device__ __forceinline__ void load(bf16 *to, const Row &row, unsigned at) const {
        const unsigned tap = at / DEPTH, channel = at % DEPTH;
        int y = row.y + static_cast<int>(tap / KERNEL_WIDTH), column = row.x + static_cast<int>(tap % KERNEL_WIDTH);
        // With UPSAMPLE each pixel stands for four.
        constexpr int ZOOM = UPSAMPLE ? 2 : 1;
        const bool inside = at < row.k && y >= 0 && column >= 0 && y < ZOOM * static_cast<int>(height) &&
                            column < ZOOM * static_cast<int>(width);
        y /= ZOOM;
        column /= ZOOM;
        const u64 pixel = inside ? static_cast<u64>(y) * width + column : 0;
        const bf16 *from = row.picture + pixel * CHANNELS + (inside ? channel : 0);
        if (CHANNELS % 8 == 0) {
            cp_async_16(to, from, inside ? 16 : 0);
        } else {
            for (unsigned i = 0; i < 8; i++) to[i] = inside && channel + i < CHANNELS ? from[i] : bf16{0};
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    conv2d(const bf16 *x, const bf16 *weights, const float *bias, const bf16 *residual, bf16 *out, unsigned m, unsigned n,
           unsigned k, unsigned height, unsigned width, unsigned out_height, unsigned out_width, unsigned top,
           unsigned left) {
    const Taps taps{x, m, k, height, width, out_height, out_width, top, left};
    product(taps, weights, k, m, n, k, Pixels{out, bias, residual, n});
}

#endif
