// Weights stored as F16, two to a word, the first in the lower half. Rows are padded with zeros to whole lines of 64 bytes.

@group(0) @binding(2) var<storage, read> weights: array<vec2u>;

// Elements 4·at, … of the matrix.
fn weight4(at: u32) -> vec4f {
    let w = weights[at];
    return vec4f(unpack2x16float(w.x), unpack2x16float(w.y));
}
