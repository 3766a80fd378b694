// Shared by all shaders: which workgroup this is, and the activation functions.

// A dispatch of many workgroups is folded into two dimensions; the last row may hold too many, which every shader
// recognises by an index past its work.
fn flat(group: vec3u, groups: vec3u) -> u32 {
    return group.y * groups.x + group.x;
}

// 2^e, exactly.
fn exp2_of(e: i32) -> f32 {
    return bitcast<f32>(u32(127 + e) << 23u);
}

// a / (1 + exp(-a))
fn silu(a: f32) -> f32 {
    return a / (1.0 + exp(-a));
}
