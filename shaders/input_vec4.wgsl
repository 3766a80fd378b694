// The first input, read four values at a time: every row starts at a multiple of four and is as wide.

@group(0) @binding(1) var<storage, read> x: array<vec4f>;

alias Value4 = vec4f;

// Where row `row` starts, for rows of `width` values.
fn row_start(row: u32, width: u32) -> u32 {
    return row * width;
}

// What the values have to be multiplied by.
fn x_unit() -> f32 {
    return 1.0;
}

// x[at], …, four values; `at` is a multiple of four, `count` is four.
fn x4(at: u32, count: u32) -> vec4f {
    return x[at / 4u];
}
