// swiglu: out[m, f] = SiLU(Σₖ x[m, k]·G[f, k]) · Σₖ x[m, k]·U[f, k], both products in one pass over
// x.

#import gemm/packed

fn store(m: u32, feature: u32, gate: f32, up: f32) {
    out[m * p.width + p.first + feature] = silu(gate) * up;
}

#import gemm/gemm
