// Weights stored as F32. Rows are padded with zeros to whole lines of 64 bytes.

@group(0) @binding(2) var<storage, read> weights: array<vec4f>;

// Elements 4·k4, … of row `row`; `stride` steps of four make a row.
fn weight4(row: u32, k4: u32, stride: u32) -> vec4f {
    return weights[row * stride + k4];
}
