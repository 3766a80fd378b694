// Widens a tensor that is stored as BF16 or F16, two to a word, to F32: one thread a value.
// Constants: TYPE, 1 for BF16, 2 for F16.

struct Params {
    count: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> stored: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = flat(group, groups) * 256u + thread;
    if (at >= p.count) {
        return;
    }
    let word = stored[at / 2u];
    if (TYPE == 1u) {
        out[at] = bitcast<f32>(select(word << 16u, word & 0xffff0000u, at % 2u == 1u));
    } else {
        let pair = unpack2x16float(word);
        out[at] = select(pair.x, pair.y, at % 2u == 1u);
    }
}
