// project_qkv on Hopper with FP8 operands: project_qkv.cu with x `[m, k]` and W
// `[(query + 2·key)·HEAD, k]` of E4M3 codes with an F32 scale a row, k a multiple of 16.
// Grid, roles and barriers: sm90/gemm.cuh, clusters of two tiles side by side.
// Constants: those of sm90/norm_rope.cuh.

#define FP8_OPERANDS
#include "sm90/norm_rope.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    project_qkv(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights, const float *x_scales,
                const float *w_scales, const float *q_norm, const float *k_norm, const float *rotation,
                const __grid_constant__ TensorMap out, unsigned m, unsigned n, unsigned k, unsigned tokens,
                unsigned query_heads, unsigned key_heads, unsigned rotation_stride, float eps,
                const __grid_constant__ TensorMap values, float *qkv_scales) {
    __shared__ PeerSquares peer;
    __shared__ CodeFactors factors;
    __shared__ ValueMaxima maxima;
    peer.init();
    const NormRopeEpilogue norm_rope{{}, q_norm, k_norm, rotation, tokens, query_heads, key_heads,
                                     query_heads + key_heads, rotation_stride, cluster_rank(), eps, peer, 0, factors,
                                     maxima, values, qkv_scales, (query_heads + key_heads) * HEAD};
    gemm(projected_rows(x, m, tokens), weights, m, n, (k + TILE_K - 1) / TILE_K, out,
         ScaledEpilogue<NormRopeEpilogue, false>{norm_rope, x_scales, w_scales, m, n});
}
