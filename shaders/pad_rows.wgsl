// pad_rows: x[b, t, d] = token[d] for t ≥ lengths[b], in place, one thread for each value.

#import shared/dispatch

struct Params {
    count: u32,
    tokens: u32,
    width: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read> token: array<f32>;
@group(0) @binding(3) var<storage, read> lengths: array<u32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = workgroup_index(group, groups) * 256u + thread;
    if (at >= p.count) {
        return;
    }
    let row = at / p.width;
    if (row % p.tokens >= lengths[row / p.tokens]) {
        x[at] = token[at % p.width];
    }
}
