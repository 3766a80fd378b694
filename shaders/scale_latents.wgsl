// scale_latents: out[b, c, y, x] = (in[b, y, x, c] − shift)·scale for the first `channels` of
// `stored`, one thread for each value of out.

#import shared/dispatch

struct Params {
    count: u32,
    channels: u32,
    stored: u32,
    pixels: u32,
    scale: f32,
    shift: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> encoded: array<f32>;
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
    let pixel = at % p.pixels;
    let c = at / p.pixels % p.channels;
    let item = at / p.pixels / p.channels;
    out[at] = (encoded[(item * p.pixels + pixel) * p.stored + c] - p.shift) * p.scale;
}
