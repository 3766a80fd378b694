// Rows of x for the products that read four values at a time. Constants: SILU (they go through it first).

struct Row {
    start: u32,
}

fn row_at(m: u32) -> Row {
    return Row(row_start(m, p.k));
}

alias Place = u32;

fn place_at(k: u32) -> Place {
    return k;
}

fn operand(row: Row, k: Place) -> Value4 {
    let v = x4(row.start + k, p.k - k);
    if (SILU) {
        return Value4(vec4f(silu(f32(v.x)), silu(f32(v.y)), silu(f32(v.z)), silu(f32(v.w))));
    }
    return v;
}

fn prologue(m0: u32, thread: u32) {}
