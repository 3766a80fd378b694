// group_norm: (x − mean)/√(var + eps)·weight + bias over a group's channels and all pixels, then
// SiLU with SILU.
//
// A group of a large picture has too many values for one F32 sum. So mean and squared deviations
// are computed for small parts (each in two passes, the second around the part's own mean) and
// merged as (n, mean, M = Σ(x − mean)²):
//   n = nₐ + n_b, d = mean_b − mean_a, mean = mean_a + d·n_b/n, M = M_a + M_b + d²·nₐ·n_b/n.
//
// stats: a workgroup takes `chunk` pixels of `units` units of `unit_width` adjacent channels each.
// A unit is a group, or a
//   part of one that is wider than 256. A thread takes one channel of every `lines`-th pixel.
// Groups: chunks · blocks of
//   units · items.
// main (with MERGE): merges the parts of each group, n = Σ nᵢ, mean = Σ nᵢ·meanᵢ/n, M = Σ (Mᵢ +
// nᵢ·(meanᵢ − mean)²), and
//   writes mean and 1/√(M/n + eps). A thread first merges the parts thread, thread + THREADS, … one
// after the other.
//   Groups: one for each group of each item.
// apply: one thread for each value.
// group_moments stops after main, and normalize_groups has only apply. Constants: SILU, VARIANCE.

#import shared/dispatch
#import shared/math

const SILU: bool = false;
const VARIANCE: bool = false;

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
// (mean, 1/√(var + eps)) of [item, group], or (mean, var) with VARIANCE.
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

#ifdef MERGE

alias Part = vec2f;

fn run(at: u32, groups: u32, me: Thread) {
    if (at >= p.items * p.groups) {
        return;
    }
    let count = p.chunks * p.parts;
    var own = vec3f();
    for (var i = me.index; i < count; i += THREADS) {
        let slot = 3u * (at * count + i);
        own = merged(own, vec3f(partial[slot], partial[slot + 1u], partial[slot + 2u]));
    }
    let sums = reduced(me, vec2f(own.x, own.x * own.y));
    let mean = sums.y / sums.x;
    let d = own.y - mean;
    let squares = reduced(me, vec2f(own.z + own.x * d * d, 0.0)).x;
    if (me.index == 0u) {
        moments[2u * at] = mean;
        let variance = squares / sums.x;
        moments[2u * at + 1u] = select(1.0 / sqrt(variance + p.eps), variance, VARIANCE);
    }
}

#import shared/reduce

#else

@compute @workgroup_size(256)
fn stats(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = workgroup_index(group, groups);
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
    // The first thread of each unit merges the others' results.
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
    let at = workgroup_index(group, groups) * 256u + thread;
    if (at >= p.items * p.pixels * p.channels) {
        return;
    }
    let channel = at % p.channels;
    let item = at / p.channels / p.pixels;
    let slot = 2u * (item * p.groups + channel / p.group_width);
    var factor = moments[slot + 1u];
    if (VARIANCE) {
        factor = 1.0 / sqrt(factor + p.eps);
    }
    var y = (x[at] - moments[slot]) * factor * weight[channel] + bias[channel];
    if (SILU) {
        y = silu(y);
    }
    out[at] = y;
}

#endif
