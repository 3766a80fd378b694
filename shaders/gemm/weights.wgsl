// The matrix W in its storage format. Rows are padded with zeros to 64 bytes. One of
//   (nothing)        F32
//   W_BF16           BF16, two to a word, the first in the lower half; it is the upper half of an
// F32
//   W_F16            F16, two to a word, the first in the lower half
//   X_F16_VEC8       F16, eight at a time

#ifdef X_F16_VEC8
#import shared/input

@group(0) @binding(2) var<storage, read> weights: array<Vec8>;

#else
#ifdef W_BF16

@group(0) @binding(2) var<storage, read> weights: array<vec2u>;

// Elements 4·at, … of the matrix.
fn weight4(at: u32) -> vec4f {
    let w = weights[at];
    return bitcast<vec4f>(vec4u(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u));
}

#else
#ifdef W_F16

@group(0) @binding(2) var<storage, read> weights: array<vec2u>;

// Elements 4·at, … of the matrix.
fn weight4(at: u32) -> vec4f {
    let w = weights[at];
    return vec4f(unpack2x16float(w.x), unpack2x16float(w.y));
}

#else

@group(0) @binding(2) var<storage, read> weights: array<vec4f>;

// Elements 4·at, … of the matrix.
fn weight4(at: u32) -> vec4f {
    return weights[at];
}

#endif
#endif
#endif
