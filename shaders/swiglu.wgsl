// swiglu: out[m, f] = SiLU(Σₖ x[m, k]·G[f, k]) · Σₖ x[m, k]·U[f, k], both products in one pass over x.
//
// A part of the weights holds n rows of G and behind them the same n rows of U. The tiled product gives the left half
// of a tile's columns to G and the right half to U, so that a thread has both values of a feature; in the product for
// few rows they alternate.

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
    return x4(row.start + k, p.k - k);
}

fn store(m: u32, feature: u32, gate: f32, up: f32) {
    out[m * p.width + p.first + feature] = silu(gate) * up;
}

fn prologue(m0: u32, thread: u32) {}

fn weight_row(n0: u32, r: u32) -> u32 {
    const HALF = 8u * TN;
    let feature = n0 / 2u + r % HALF;
    return select(NOTHING, feature + select(0u, p.n, r >= HALF), feature < p.n);
}

fn finish(m: u32, n0: u32, lane: u32, values: array<f32, TN>) {
    var v = values;
    for (var j = 0u; j < TN / 2u; j++) {
        let feature = n0 / 2u + lane + 16u * j;
        if (feature < p.n) {
            store(m, feature, v[j], v[j + TN / 2u]);
        }
    }
}

fn column_row(v: u32) -> u32 {
    return select(NOTHING, v / 2u + v % 2u * p.n, v / 2u < p.n);
}

fn finish_column(m: u32, v: u32, own: f32, next: f32) {
    if (v % 2u == 0u) {
        store(m, v / 2u, own, next);
    }
}
