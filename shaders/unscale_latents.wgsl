// unscale_latents: out[i, y, x, c] = latents[first + i, c, y, x] / scale + shift, one thread for
// each value of out.

#import shared/dispatch

struct Params {
    count: u32,
    channels: u32,
    pixels: u32,
    first: u32,
    scale: f32,
    shift: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> latents: array<f32>;
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
    let c = at % p.channels;
    let pixel = at / p.channels % p.pixels;
    let item = p.first + at / p.channels / p.pixels;
    out[at] = latents[(item * p.channels + c) * p.pixels + pixel] / p.scale + p.shift;
}
