// conv2d: convolution over channels-last pictures as an implicit GEMM. A row of A is the receptive
// field of an output pixel, tap by tap, and is never stored.
// x `[items, height, width, CHANNELS]`, W `[n, taps·DEPTH]` with DEPTH = CHANNELS rounded up to 8,
// out `[items, out_height, out_width, n]`; bias and residual are added in F32.
// Grid and tiles: gemm/tile.cuh.
// Constants: CHANNELS, KERNEL_WIDTH, STRIDE, UPSAMPLE, HAS_BIAS, HAS_RESIDUAL, and those of
// gemm/tile.cuh.

#include "gemm/tile.cuh"

#ifndef CHANNELS
#define CHANNELS 128
#define KERNEL_WIDTH 3
#define STRIDE 1
#define UPSAMPLE 0
#define HAS_BIAS 1
#define HAS_RESIDUAL 1
#endif

constexpr unsigned DEPTH = (CHANNELS + 7) / 8 * 8;

struct ReceptiveFields {
    const bf16 *x;
    unsigned m, k, height, width, out_height, out_width, top, left;

    // The first pixel of a receptive field, which may lie in the padding.
    struct Row {
        const bf16 *picture;
        int y, x;
        unsigned k;
    };

    __device__ __forceinline__ Row row(unsigned at) const {
        const unsigned row = at < m ? at : 0;
        const unsigned item = row / (out_height * out_width), pixel = row % (out_height * out_width);
        const unsigned y = pixel / out_width, column = pixel % out_width;
        return Row{x + static_cast<u64>(item) * height * width * CHANNELS,
                   static_cast<int>(y * STRIDE) - static_cast<int>(top),
                   static_cast<int>(column * STRIDE) - static_cast<int>(left), at < m ? k : 0};
    }

    __device__ __forceinline__ void load(bf16 *to, const Row &row, unsigned at) const {
        const unsigned tap = at / DEPTH, channel = at % DEPTH;
        int y = row.y + static_cast<int>(tap / KERNEL_WIDTH), column = row.x + static_cast<int>(tap % KERNEL_WIDTH);
        // Nearest-neighbour upsampling repeats each pixel twice along both axes.
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
    conv2d(const bf16 *x, const bf16 *weights, const float *bias, const bf16 *residual, bf16 *out, unsigned m,
           unsigned n, unsigned k, unsigned height, unsigned width, unsigned out_height, unsigned out_width,
           unsigned top, unsigned left) {
    const ReceptiveFields fields{x, m, k, height, width, out_height, out_width, top, left};
    const ResidualEpilogue<HAS_BIAS, HAS_RESIDUAL, ALIGNED_OUT, false> epilogue{{{}, bias, n}, residual};
    gemm(fields, weights, k, m, n, k, epilogue, out, n);
}
