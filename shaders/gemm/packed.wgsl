// A gemm whose A is a packed matrix: rows of x against rows of W. `first` is the first output
// column of this piece of W, and `width` the width of out. Constants: SILU (x passes through it
// first).

#import shared/input
#import gemm/weights
#import shared/math

const SILU: bool = false;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    k4: u32,
    stride: u32,
    tiles: u32,
    first: u32,
    width: u32,
    weight_scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

struct Row {
    start: u32,
}

#ifdef X_F16_VEC8

struct Place {
    k8: u32,
}

fn row_at(m: u32) -> Row {
    return Row(FIRST + m * (p.k4 / 2u));
}

fn place_at(k8: u32) -> Place {
    return Place(k8);
}

fn place_after(at: Place) -> Place {
    return Place(at.k8 + BK8);
}

fn vec8_at(row: Row, at: Place) -> u32 {
    return select(row.start + at.k8, ZEROS, at.k8 >= p.k4 / 2u);
}

#else

fn row_at(m: u32) -> Row {
    return Row(row_start(m, p.k));
}

alias Place = u32;

fn place_at(k: u32) -> Place {
    return k;
}

fn operand(row: Row, k: Place) -> Value4 {
    let v = x4(row.start + k, p.k - k);
    if (SILU) {
        return Value4(vec4f(silu(f32(v.x)), silu(f32(v.y)), silu(f32(v.z)), silu(f32(v.w))));
    }
    return v;
}

fn prologue(m0: u32, thread: u32) {}

#endif
