// Shared by all shaders: which workgroup this is, and the activation functions.

// A dispatch of many workgroups is folded into two dimensions; the last row may hold too many, which every shader
// recognises by an index past its work.
fn flat(group: vec3u, groups: vec3u) -> u32 {
    return group.y * groups.x + group.x;
}

// a / (1 + exp(-a))
fn silu(a: f32) -> f32 {
    return a / (1.0 + exp(-a));
}
