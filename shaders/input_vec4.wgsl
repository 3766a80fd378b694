// The first input, read four values at a time: every row starts at a multiple of four and is as wide.

@group(0) @binding(1) var<storage, read> x: array<vec4f>;

// x[at], …, four values; `at` is a multiple of four, `count` is four.
fn x4(at: u32, count: u32) -> vec4f {
    return x[at / 4u];
}
