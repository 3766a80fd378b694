// The first input in halves, as narrow.wgsl makes them: rows of a product are padded to whole eights.

enable f16;

@group(0) @binding(1) var<storage, read> x: array<vec4<f16>>;

alias Value4 = vec4<f16>;

// Fours in front of the values; the first holds the exponent, the others zeros.
const HALVES_HEADER: u32 = 4u;

// Where row `row` starts, for rows of `width` values.
fn row_start(row: u32, width: u32) -> u32 {
    return row * ((width + 7u) / 8u * 8u);
}

// x[at], …, four values; `at` is a multiple of four, `count` is four.
fn x4(at: u32, count: u32) -> vec4<f16> {
    return x[HALVES_HEADER + at / 4u];
}

// What the values have to be multiplied by.
fn x_unit() -> f32 {
    return exp2_of(-i32(x[0].x));
}
