// group_norm: (x − mean)/√(var + eps)·weight + bias over a group's channels and all pixels, then SiLU when SILU.
//
// A group of a large picture has too many values for one sum in f32, so mean and squared deviations are found for small
// parts (each in two passes, the second around the part's own mean) and merged as (n, mean, Σ(x − mean)²):
//   n = nₐ + n_b, d = mean_b − mean_a, mean = mean_a + d·n_b/n, M = M_a + M_b + d²·nₐ·n_b/n.
//
// stats: a workgroup takes `chunk` pixels of `units` units of UW neighbouring channels each; a unit is a group, or a
//   part of one that is wider than 256. A thread takes one channel of every `lines`-th pixel. Groups: chunks · blocks
//   of units · items.
// group_norm_merge.wgsl: from the parts to mean and variance.
// apply: one thread for each value.
// Constants: SILU (of apply).

struct Params {
    items: u32,
    pixels: u32,
    channels: u32,
    // Groups, channels of a group, units of a group, channels of a unit.
    groups: u32,
    group_width: u32,
    parts: u32,
    unit_width: u32,
    // Units that a workgroup takes, and blocks of so many.
    units: u32,
    blocks: u32,
    // Pixels that a workgroup takes, and chunks of so many.
    chunk: u32,
    chunks: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
// (n, mean, M) of [item, group, chunk, part].
@group(0) @binding(4) var<storage, read_write> partial: array<f32>;
// (mean, 1/√(var + eps)) of [item, group].
@group(0) @binding(5) var<storage, read_write> moments: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

var<workgroup> found: array<vec3f, 256>;

fn merged(a: vec3f, b: vec3f) -> vec3f {
    let n = a.x + b.x;
    if (n == 0.0) {
        return vec3f();
    }
    let d = b.y - a.y;
    let part = b.x / n;
    return vec3f(n, a.y + d * part, a.z + b.z + d * d * a.x * part);
}

@compute @workgroup_size(256)
fn stats(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = flat(group, groups);
    let chunk = at % p.chunks;
    let block = at / p.chunks % p.blocks;
    let item = at / p.chunks / p.blocks;
    if (item >= p.items) {
        return;
    }
    let row = p.units * p.unit_width;
    let lines = 256u / row;
    let unit = block * p.units + thread % row / p.unit_width;
    let in_group = unit % p.parts * p.unit_width + thread % p.unit_width;
    let channel = unit / p.parts * p.group_width + in_group;
    let line = thread / row;
    let known = line < lines && unit < p.groups * p.parts && in_group < p.group_width;
    let first = chunk * p.chunk + line;
    let end = min(p.pixels, (chunk + 1u) * p.chunk);
    let base = item * p.pixels * p.channels + channel;

    var own = vec3f();
    if (known && first < end) {
        let n = f32((end - first + lines - 1u) / lines);
        var sum = 0.0;
        for (var pixel = first; pixel < end; pixel += lines) {
            sum += x[base + pixel * p.channels];
        }
        let mean = sum / n;
        var squares = 0.0;
        for (var pixel = first; pixel < end; pixel += lines) {
            let d = x[base + pixel * p.channels] - mean;
            squares += d * d;
        }
        own = vec3f(n, mean, squares);
    }
    found[thread] = own;
    workgroupBarrier();
    // The first thread of each unit merges what the others found.
    if (known && line == 0u && thread % p.unit_width == 0u) {
        var all = vec3f();
        for (var i = 0u; i < lines; i++) {
            for (var c = 0u; c < p.unit_width; c++) {
                all = merged(all, found[i * row + thread + c]);
            }
        }
        let slot = ((item * p.groups + unit / p.parts) * p.chunks + chunk) * p.parts + unit % p.parts;
        partial[3u * slot] = all.x;
        partial[3u * slot + 1u] = all.y;
        partial[3u * slot + 2u] = all.z;
    }
}

@compute @workgroup_size(256)
fn apply(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = flat(group, groups) * 256u + thread;
    if (at >= p.items * p.pixels * p.channels) {
        return;
    }
    let channel = at % p.channels;
    let item = at / p.channels / p.pixels;
    let slot = 2u * (item * p.groups + channel / p.group_width);
    var y = (x[at] - moments[slot]) * moments[slot + 1u] * weight[channel] + bias[channel];
    if (SILU) {
        y = silu(y);
    }
    out[at] = y;
}
