// normalize_rgb8: out[i] = pixels[i]/127.5 − 1, one thread for each value. A word packs four bytes,
// the first lowest.

#import shared/dispatch

struct Params {
    count: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> pixels: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

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
    let pixel = (pixels[at / 4u] >> (8u * (at % 4u))) & 0xffu;
    out[at] = f32(pixel) / 127.5 - 1.0;
}
