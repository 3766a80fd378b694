// convert: an uploaded tensor in the type that a verb reads: F16, BF16 or F32 to BF16 or F32.
// Constants: FROM, TO (0: F32, 1: BF16, 2: F16; TO is no F16).

__device__ __forceinline__ float value(const void *from, unsigned at) {
    if (FROM == 1) return widen(static_cast<const bf16 *>(from)[at]);
    if (FROM == 2) return float_from_f16(static_cast<const unsigned short *>(from)[at]);
    return static_cast<const float *>(from)[at];
}

extern "C" __global__ void __launch_bounds__(256) convert(const void *from, void *to, unsigned count) {
    const unsigned at = blockIdx.x * 256 + threadIdx.x;
    if (at >= count) return;
    if (TO == 1) {
        static_cast<bf16 *>(to)[at] = narrow(value(from, at));
    } else {
        static_cast<float *>(to)[at] = value(from, at);
    }
}
