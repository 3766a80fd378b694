// What linear, modulation and swiglu share: rows of x against rows of W. `first` is the first column that this part of W
// makes, and `width` the width of out. Constants: SILU (the rows of x go through it first).

struct Params {
    m: u32,
    n: u32,
    k: u32,
    k4: u32,
    stride: u32,
    tiles: u32,
    first: u32,
    width: u32,
    // The power of two that brings W into the range of halves.
    weight_unit: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

struct Row {
    start: u32,
}

fn row_at(m: u32) -> Row {
    return Row(select(row_start(m, p.k), NOTHING, m == NOTHING));
}

fn operand(row: Row, k: u32) -> Value4 {
    if (row.start == NOTHING) {
        return Value4();
    }
    let v = x4(row.start + k, p.k - k);
    if (SILU) {
        return Value4(vec4f(silu(f32(v.x)), silu(f32(v.y)), silu(f32(v.z)), silu(f32(v.w))));
    }
    return v;
}

fn prologue(m0: u32, thread: u32) {}
