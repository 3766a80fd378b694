// dequantize: out[first + n, k] = values of quantised rows times `factor`, in the layout that gemms
// read: rows padded with zeros to 64 bytes, in F32, BF16 or F16.
//
// F16 values are rounded to nearest, ties to even. Only E4M3 codes without scales are written as
// BF16, which holds them exactly. One thread writes eight values. Constants: FORMAT of
// shared/quantized, and STORED, 0 for F32, 1 for BF16, 2 for F16.

#import shared/dispatch

const STORED: u32 = 0u;

struct Params {
    start: u32,
    row_bytes: u32,
    scale_row: u32,
    scale_tiles: u32,
    scale: f32,
    width: u32,
    // Vectors of eight in all rows, and in a row of out.
    vectors: u32,
    row: u32,
    first: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read_write> out: array<vec4u>;

#import shared/quantized

fn in_bf16(values: vec4u) -> vec2u {
    return (values.xz >> vec2u(16u)) | (values.yw & vec2u(0xffff0000u));
}

fn in_f16(values: vec4u) -> vec2u {
    return vec2u(narrowed_pair(values.x, values.y, p.factor), narrowed_pair(values.z, values.w, p.factor));
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = workgroup_index(group, groups) * 256u + thread;
    if (at >= p.vectors) {
        return;
    }
    let values = values8(at / p.row, at % p.row * 8u);
    let low = bitcast<vec4u>(values.low);
    let high = bitcast<vec4u>(values.high);
    let to = p.first * p.row + at;
    if (STORED == 0u) {
        out[2u * to] = low;
        out[2u * to + 1u] = high;
    } else if (STORED == 1u) {
        out[to] = vec4u(in_bf16(low), in_bf16(high));
    } else {
        out[to] = vec4u(in_f16(low), in_f16(high));
    }
}
