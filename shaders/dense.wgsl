// What linear, modulation and swiglu share: rows of x against rows of W. `first` is the first column that this part of W
// makes, and `width` the width of out.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    k4: u32,
    stride: u32,
    tiles: u32,
    first: u32,
    width: u32,
    // The power of two that W is stored with.
    weight_unit: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
