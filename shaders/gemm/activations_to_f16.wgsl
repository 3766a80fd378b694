// Activations in F16 with a scale: out[r, k] = f16(x[r, k]·2^e), with the e that brings the largest
// magnitude of x to 2¹⁴ … 2¹⁵. A power of two changes no digit. Activations of Z-Image exceed
// 65504, the largest F16; scaled, they keep all eleven digits down to 2⁻²⁹ of the largest. NaN and
// infinities stay.
//
// Two passes: `largest` writes each workgroup's largest magnitude to `found`, as the bits of an
// F32, which are ordered like the numbers; `convert` (CONVERT) takes the largest of those, writes e
// and twelve zeros in front of the values, and converts. Rows are padded with zeros to k4 vectors
// of four. Each thread strides over the vectors of x.

#import shared/input
#import shared/math

enable f16;

const CONVERT: bool = false;

struct Params {
    rows: u32,
    // Values in a row of x, and vectors of four in a row of out.
    k: u32,
    k4: u32,
    // Workgroups of the first pass.
    parts: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read_write> found: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f16>>;

// Vectors in front of the values: see shared/input.wgsl.
const OUT_HEADER: u32 = 4u;

alias Part = u32;

fn vec4_at(at: u32) -> vec4f {
    let k = at % p.k4 * 4u;
    if (k >= p.k) {
        return vec4f();
    }
    return x4(at / p.k4 * p.k + k, p.k - k);
}

fn largest(group: u32, groups: u32, me: Thread) {
    var own = 0u;
    for (var at = group * THREADS + me.index; at < p.rows * p.k4; at += p.parts * THREADS) {
        let bits = bitcast<vec4u>(vec4_at(at)) & vec4u(0x7fffffffu);
        own = max(own, max(max(bits.x, bits.y), max(bits.z, bits.w)));
    }
    let all = reduced(me, own);
    if (me.index == 0u) {
        found[group] = all;
    }
}

fn convert(group: u32, groups: u32, me: Thread) {
    var own = 0u;
    for (var part = me.index; part < p.parts; part += THREADS) {
        own = max(own, found[part]);
    }
    // The exponent bias of F32 is 127. e stays away from the ends of the range, so that 2^-e is a
    // normal number too.
    let e = clamp(14 - (i32(reduced(me, own) >> 23u) - 127), -120, 120);
    let first = group * THREADS + me.index;
    if (first == 0u) {
        out[0] = vec4<f16>(f16(e), 0.0h, 0.0h, 0.0h);
        for (var i = 1u; i < OUT_HEADER; i++) {
            out[i] = vec4<f16>();
        }
    }
    for (var at = first; at < p.rows * p.k4; at += groups * THREADS) {
        out[OUT_HEADER + at] = vec4<f16>(vec4_at(at) * exp2_of(e));
    }
}

fn run(group: u32, groups: u32, me: Thread) {
    if (CONVERT) {
        convert(group, groups, me);
    } else {
        largest(group, groups, me);
    }
}

#import shared/reduce
