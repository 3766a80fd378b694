// project_qkv on Hopper: linear and qk_norm_rope in one kernel. out = x·Wᵀ, x `[m, k]`, W
// `[(query + 2·key)·HEAD, k]`; query and key heads are RMS-normed and rotated (sm90/norm_rope.cuh).
// Grid, roles and barriers: sm90/gemm.cuh, clusters of two tiles side by side.
// With QKV_FP8, `x` and `out` map items, `out` the queries and keys of a projection in FP8 and
// `values` its values (common/fp8.cuh), m is a multiple of the tiles' rows for each item, and
// `qkv_scales` are the scales; without, `values` and `qkv_scales` are not used.
// Constants: those of sm90/norm_rope.cuh.

#include "sm90/norm_rope.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    project_qkv(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights, const float *q_norm,
                const float *k_norm, const float *rotation, const __grid_constant__ TensorMap out, unsigned m,
                unsigned n, unsigned k, unsigned tokens, unsigned query_heads, unsigned key_heads,
                unsigned rotation_stride, float eps, const __grid_constant__ TensorMap values, float *qkv_scales) {
    __shared__ PeerSquares peer;
    __shared__ CodeFactors factors;
    __shared__ ValueMaxima maxima;
    peer.init();
    gemm(projected_rows(x, m, tokens), weights, m, n, (k + TILE_K - 1) / TILE_K, out,
         NormRopeEpilogue{{}, q_norm, k_norm, rotation, tokens, query_heads, key_heads, query_heads + key_heads,
                          rotation_stride, cluster_rank(), eps, peer, 0, factors, maxima, values, qkv_scales,
                          (query_heads + key_heads) * HEAD});
}
