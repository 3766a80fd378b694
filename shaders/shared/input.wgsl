// The first input of a gemm or an attention, as vectors of four values. One of
//   (nothing)      F32, rows a multiple of four wide
//   X_SCALAR       F32, rows of any width
//   X_F16          F16 with a scale, as gemm/activations_to_f16.wgsl writes it: rows padded to a
// multiple of eight
//   X_F16_VEC8     the same, read eight values at a time

#import shared/math

#ifdef X_F16_VEC8

enable f16;

// Eight values, read as 16 bytes at once.
struct Vec8 {
    low: vec4<f16>,
    high: vec4<f16>,
}

@group(0) @binding(1) var<storage, read> x: array<Vec8>;

// The vector of zeros, and the first vector of values. The scale's exponent comes before both.
const ZEROS: u32 = 1u;
const FIRST: u32 = 2u;

// The factor that undoes the scale.
fn x_scale() -> f32 {
    return exp2_of(-i32(x[0].low.x));
}

#else
#ifdef X_F16

enable f16;

@group(0) @binding(1) var<storage, read> x: array<vec4<f16>>;

alias Value4 = vec4<f16>;

// Vectors in front of the values: the first holds the scale's exponent, the others zeros.
const HEADER: u32 = 4u;

// The start of row `row`, for rows of `width` values.
fn row_start(row: u32, width: u32) -> u32 {
    return row * ((width + 7u) / 8u * 8u);
}

// x[at ..], four values. `at` is a multiple of four, and `count` is four.
fn x4(at: u32, count: u32) -> vec4<f16> {
    return x[HEADER + at / 4u];
}

// The factor that undoes the scale.
fn x_scale() -> f32 {
    return exp2_of(-i32(x[0].x));
}

#else

alias Value4 = vec4f;

// The start of row `row`, for rows of `width` values.
fn row_start(row: u32, width: u32) -> u32 {
    return row * width;
}

// F32 has no scale.
fn x_scale() -> f32 {
    return 1.0;
}

#ifdef X_SCALAR

@group(0) @binding(1) var<storage, read> x: array<f32>;

// x[at ..], the first `count ≥ 1` of four values, then zeros.
fn x4(at: u32, count: u32) -> vec4f {
    let last = count - 1u;
    let v = vec4f(x[at], x[at + min(last, 1u)], x[at + min(last, 2u)], x[at + min(last, 3u)]);
    return select(vec4f(), v, vec4u(0u, 1u, 2u, 3u) < vec4u(count));
}

#else

@group(0) @binding(1) var<storage, read> x: array<vec4f>;

// x[at ..], four values. `at` is a multiple of four, and `count` is four.
fn x4(at: u32, count: u32) -> vec4f {
    return x[at / 4u];
}

#endif
#endif
#endif
