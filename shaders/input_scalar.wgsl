// The first input, read four values at a time: rows of any width.

@group(0) @binding(1) var<storage, read> x: array<f32>;

alias Value4 = vec4f;

// Where row `row` starts, for rows of `width` values.
fn row_start(row: u32, width: u32) -> u32 {
    return row * width;
}

// What the values have to be multiplied by.
fn x_unit() -> f32 {
    return 1.0;
}

// x[at], …, the first `count` of four, zeros behind; at least one is asked for.
fn x4(at: u32, count: u32) -> vec4f {
    let last = count - 1u;
    let v = vec4f(x[at], x[at + min(last, 1u)], x[at + min(last, 2u)], x[at + min(last, 3u)]);
    return select(vec4f(), v, vec4u(0u, 1u, 2u, 3u) < vec4u(count));
}
