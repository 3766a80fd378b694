// join_sequence: out[n] = [image[n mod B], caption[captions[n]]], one thread for each value.

#import shared/dispatch

struct Params {
    count: u32,
    // Items of `image` and of `caption`, and the values of each.
    images: u32,
    image_item: u32,
    captions: u32,
    caption_item: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> image: array<f32>;
@group(0) @binding(2) var<storage, read> caption: array<f32>;
@group(0) @binding(3) var<storage, read> captions: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

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
    let item = p.image_item + p.caption_item;
    let n = at / item;
    let i = at % item;
    if (i < p.image_item) {
        out[at] = image[n % p.images * p.image_item + i];
    } else {
        let which = min(captions[n], p.captions - 1u);
        out[at] = caption[which * p.caption_item + i - p.image_item];
    }
}
