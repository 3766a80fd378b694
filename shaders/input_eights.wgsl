// The first input in halves, as narrow.wgsl makes them, eight values at a time: every row is padded to whole eights.

enable f16;

// 16 bytes, which are read at once.
struct Eight {
    low: vec4<f16>,
    high: vec4<f16>,
}

@group(0) @binding(1) var<storage, read> x: array<Eight>;

// Where eight zeros are, and where the values begin, behind the exponent and the zeros.
const ZEROS: u32 = 1u;
const FIRST: u32 = 2u;

// What the values have to be multiplied by.
fn x_unit() -> f32 {
    return exp2_of(-i32(x[0].low.x));
}
