// Halves for products of halves: out[r, k] = f16(x[r, k]·2^e), with the e that brings the largest magnitude of all of x
// to 2¹⁴ … 2¹⁵. A power of two changes no digit; activations of Z-Image pass 65504, which is where F16 ends, and with it
// they keep all eleven digits down to 2⁻²⁹ of the largest. NaN stays NaN, and what is infinite stays that.
//
// Two passes: `largest` leaves the largest magnitude of each workgroup in `found`, as the bits of an F32, which order as
// the numbers do; `narrow` takes the largest of those, writes e and twelve zeros in front of the values, and converts. Rows
// are padded with zeros to k4 steps of four. Each thread strides over the fours of x.
// Constants: THREADS, NARROW (the second pass).

enable f16;

struct Params {
    rows: u32,
    // Values in a row, and steps of four that they get.
    k: u32,
    k4: u32,
    // Workgroups of the first pass.
    parts: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read_write> found: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f16>>;

const HALVES_HEADER: u32 = 4u;

alias Part = u32;

const LARGEST: bool = true;

fn four(at: u32) -> vec4f {
    let k = at % p.k4 * 4u;
    if (k >= p.k) {
        return vec4f();
    }
    return x4(at / p.k4 * p.k + k, p.k - k);
}

fn largest(group: u32, groups: u32, me: Thread) {
    var own = 0u;
    for (var at = group * THREADS + me.index; at < p.rows * p.k4; at += p.parts * THREADS) {
        let bits = bitcast<vec4u>(four(at)) & vec4u(0x7fffffffu);
        own = max(own, max(max(bits.x, bits.y), max(bits.z, bits.w)));
    }
    let all = reduced(me, own);
    if (me.index == 0u) {
        found[group] = all;
    }
}

fn narrow(group: u32, groups: u32, me: Thread) {
    var own = 0u;
    for (var part = me.index; part < p.parts; part += THREADS) {
        own = max(own, found[part]);
    }
    // F32 stores exponents 127 too high; e stays away from the ends of the range, so that 2^-e is a number as well.
    let e = clamp(14 - (i32(reduced(me, own) >> 23u) - 127), -120, 120);
    let first = group * THREADS + me.index;
    if (first == 0u) {
        out[0] = vec4<f16>(f16(e), 0.0h, 0.0h, 0.0h);
        for (var i = 1u; i < HALVES_HEADER; i++) {
            out[i] = vec4<f16>();
        }
    }
    for (var at = first; at < p.rows * p.k4; at += groups * THREADS) {
        out[HALVES_HEADER + at] = vec4<f16>(four(at) * exp2_of(e));
    }
}

fn run(group: u32, groups: u32, me: Thread) {
    if (NARROW) {
        narrow(group, groups, me);
    } else {
        largest(group, groups, me);
    }
}
