// Functions of one number.

// 2^e, exactly.
fn exp2_of(e: i32) -> f32 {
    return bitcast<f32>(u32(127 + e) << 23u);
}

// a / (1 + exp(-a))
fn silu(a: f32) -> f32 {
    return a / (1.0 + exp(-a));
}
