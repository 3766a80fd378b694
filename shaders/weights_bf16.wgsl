// Weights stored as BF16, two to a word, the first in the lower half. A BF16 is the upper half of an F32, so widening
// is a shift. Rows are padded with zeros to whole lines of 64 bytes.

@group(0) @binding(2) var<storage, read> weights: array<vec2u>;

// Elements 4·at, … of the matrix.
fn weight4(at: u32) -> vec4f {
    let w = weights[at];
    return bitcast<vec4f>(vec4u(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u));
}
