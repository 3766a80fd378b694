// to_rgb8: out[i] = round(255·clamp(in[i]/2 + 1/2, 0, 1)), ties to even; one thread for each word
// of four bytes, the first lowest. An infinite value or NaN sets a flag that the host reads with
// the picture. The test is on bits, because a compiler may assume that all values are finite.

#import shared/dispatch

struct Params {
    count: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;
@group(0) @binding(3) var<storage, read_write> non_finite: atomic<u32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let word = workgroup_index(group, groups) * 256u + thread;
    if (4u * word >= p.count) {
        return;
    }
    var packed = 0u;
    for (var i = 0u; i < 4u; i++) {
        let at = 4u * word + i;
        if (at < p.count) {
            if ((bitcast<u32>(values[at]) & 0x7f800000u) == 0x7f800000u) {
                atomicStore(&non_finite, 1u);
            }
            let level = round(255.0 * clamp(values[at] * 0.5 + 0.5, 0.0, 1.0));
            packed |= u32(level) << (8u * i);
        }
    }
    out[word] = packed;
}
