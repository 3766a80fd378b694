// The first input in halves, as narrow.wgsl makes them, eight values at a time: every row is padded to whole eights.

@group(0) @binding(1) var<storage, read> x: array<vec4u>;

// Where eight zeros are, and where the values begin, behind the exponent and the zeros.
const ZEROS: u32 = 1u;
const FIRST: u32 = 2u;

// What the values have to be multiplied by.
fn x_unit() -> f32 {
    return exp2_of(-i32(unpack2x16float(x[0].x).x));
}
