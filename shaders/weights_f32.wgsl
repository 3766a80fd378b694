// Weights stored as F32. Rows are padded with zeros to whole lines of 64 bytes.

@group(0) @binding(2) var<storage, read> weights: array<vec4f>;

// Elements 4·at, … of the matrix.
fn weight4(at: u32) -> vec4f {
    return weights[at];
}
