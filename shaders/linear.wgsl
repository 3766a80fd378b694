// linear and modulation: out[m, n] = Σₖ a(x[m, k])·W[n, k] + b[n], where a is the identity, or SiLU
// with SILU. Constants: HAS_BIAS.

#import gemm/packed

const HAS_BIAS: bool = false;

@group(0) @binding(4) var<storage, read> bias: array<f32>;

fn store(m: u32, n: u32, v: f32, unused: f32) {
    let column = p.first + n;
    var y = v;
    if (HAS_BIAS) {
        y += bias[column];
    }
    out[m * p.width + column] = y;
}

#import gemm/gemm
