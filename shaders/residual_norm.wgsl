// rms_norm, residual and residual_norm, one workgroup a token:
//   x += tanh(gate) ⊙ RMS(y)·norm                    with HAS_BRANCH,
//   out = x / √(mean(x²) + eps)·weight·(1 + scale)   with HAS_OUT.
// A thread owns the elements thread, thread + THREADS, … of the token, so it reads back only its
// own sums.
//
// Groups: one a token. Constants: HAS_BRANCH, HAS_NORM, HAS_GATE, HAS_OUT, HAS_SCALE.

const HAS_BRANCH: bool = false;
const HAS_NORM: bool = false;
const HAS_GATE: bool = false;
const HAS_OUT: bool = false;
const HAS_SCALE: bool = false;

struct Params {
    rows: u32,
    // Tokens of an item, and the width of a token.
    tokens: u32,
    width: u32,
    // Elements between two items' rows in a modulation table (0 when all share one), and the row's
    // first element.
    gate_stride: u32,
    gate_start: u32,
    scale_stride: u32,
    scale_start: u32,
    branch_eps: f32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read> norm: array<f32>;
@group(0) @binding(4) var<storage, read> gate: array<f32>;
@group(0) @binding(5) var<storage, read> weight: array<f32>;
@group(0) @binding(6) var<storage, read> scale: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<f32>;

alias Part = f32;

// tanh without overflow: some drivers compute it from exp(2a).
fn bounded_tanh(a: f32) -> f32 {
    return tanh(clamp(a, -15.0, 15.0));
}

fn run(row: u32, groups: u32, me: Thread) {
    if (row >= p.rows) {
        return;
    }
    let start = row * p.width;
    let item = row / p.tokens;
    if (HAS_BRANCH) {
        var factor = 1.0;
        if (HAS_NORM) {
            var squares = 0.0;
            for (var i = me.index; i < p.width; i += THREADS) {
                squares += y[start + i] * y[start + i];
            }
            factor = 1.0 / sqrt(reduced(me, squares) / f32(p.width) + p.branch_eps);
        }
        for (var i = me.index; i < p.width; i += THREADS) {
            var v = y[start + i];
            if (HAS_NORM) {
                v *= factor * norm[i];
            }
            if (HAS_GATE) {
                v *= bounded_tanh(gate[item * p.gate_stride + p.gate_start + i]);
            }
            x[start + i] += v;
        }
    }
    if (HAS_OUT) {
        var squares = 0.0;
        for (var i = me.index; i < p.width; i += THREADS) {
            squares += x[start + i] * x[start + i];
        }
        let factor = 1.0 / sqrt(reduced(me, squares) / f32(p.width) + p.eps);
        for (var i = me.index; i < p.width; i += THREADS) {
            var v = x[start + i] * factor * weight[i];
            if (HAS_SCALE) {
                v *= 1.0 + scale[item * p.scale_stride + p.scale_start + i];
            }
            out[start + i] = v;
        }
    }
}

#import shared/reduce
