// Rows of x for the products that read four values at a time. Constants: SILU (they go through it first).

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
