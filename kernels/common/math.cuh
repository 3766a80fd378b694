// Constants and functions of float.
#pragma once

#define LOG2E 1.44269504f
#define NEG_INF __uint_as_float(0xff800000u)

__device__ __forceinline__ float silu(float x) {
    return __fdividef(x, 1.0f + __expf(-x));
}
