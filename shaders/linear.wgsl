// linear and modulation: out[m, n] = Σₖ a(x[m, k])·W[n, k] + b[n], where a is SiLU in a modulation that asks for it and
// nothing else. Here `first` is the first column that this part of W makes, and `width` the width of out.
// Constants: HAS_BIAS, SILU.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    k4: u32,
    stride: u32,
    tiles: u32,
    first: u32,
    width: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;

struct Row {
    start: u32,
}

fn row_at(m: u32) -> Row {
    return Row(select(m * p.k, NOTHING, m == NOTHING));
}

fn operand(row: Row, k: u32) -> vec4f {
    if (row.start == NOTHING) {
        return vec4f();
    }
    let v = x4(row.start + k, p.k - k);
    if (SILU) {
        return vec4f(silu(v.x), silu(v.y), silu(v.z), silu(v.w));
    }
    return v;
}

fn store(m: u32, n: u32, v: f32) {
    let column = p.first + n;
    var y = v;
    if (HAS_BIAS) {
        y += bias[column];
    }
    out[m * p.width + column] = y;
}

fn prologue(m0: u32, thread: u32) {}

fn weight_row(n0: u32, r: u32) -> u32 {
    return select(NOTHING, n0 + r, n0 + r < p.n);
}

fn finish(m: u32, n0: u32, lane: u32, values: array<f32, TN>) {
    var v = values;
    for (var j = 0u; j < TN; j++) {
        let n = n0 + lane + 16u * j;
        if (n < p.n) {
            store(m, n, v[j]);
        }
    }
}

fn column_row(v: u32) -> u32 {
    return select(NOTHING, v, v < p.n);
}

fn finish_column(m: u32, v: u32, own: f32, next: f32) {
    store(m, v, own);
}
