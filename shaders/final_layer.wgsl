// final_layer: W·(LN(x)·(1 + scale)) + bias for the tokens that are patches, written to the
// latents' layout, the inverse of embed_patches.
//
// LN(x) = (x − mean)/√(var + eps) over a token. A workgroup first computes mean and 1/√(var + eps)
// of its tile's tokens with 256/BM threads a token; the gemm then reads x through them. Rows are m
// = b·patches + t of the item's `tokens`. Constants: HAS_BIAS, SHARED (one scale row for the whole
// batch).

#import shared/input
#import gemm/weights

const HAS_BIAS: bool = false;
const SHARED: bool = false;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    k4: u32,
    stride: u32,
    tiles: u32,
    first: u32,
    width: u32,
    weight_scale: f32,
    tokens: u32,
    patches: u32,
    across: u32,
    // Side of a patch.
    side: u32,
    channels: u32,
    // Height and width of the latents.
    h: u32,
    w: u32,
    // Rows of an item in the modulation table, and the row with the scale.
    table_rows: u32,
    table_row: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> scale: array<f32>;

const TEAM: u32 = 256u / BM;

var<workgroup> partial: array<f32, 256>;
var<workgroup> mean: array<f32, BM>;
var<workgroup> factor: array<f32, BM>;

struct Row {
    start: u32,
    scale: u32,
    // The row's index in the tile.
    r: u32,
}

fn token_start(m: u32) -> u32 {
    return (m / p.patches * p.tokens + m % p.patches) * p.k;
}

// The sum of `own` over a token's team, in every thread of it.
fn team_sum(thread: u32, own: f32) -> f32 {
    partial[thread] = own;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < TEAM; i++) {
        sum += partial[thread / TEAM * TEAM + i];
    }
    workgroupBarrier();
    return sum;
}

fn prologue(m0: u32, thread: u32) {
    let r = thread / TEAM;
    let known = m0 + r < p.m;
    let start = token_start(m0 + r);
    let n = f32(p.k);
    var sum = 0.0;
    if (known) {
        for (var k = thread % TEAM * 4u; k < p.k; k += TEAM * 4u) {
            sum += dot(x4(start + k, p.k - k), vec4f(1.0));
        }
    }
    let average = team_sum(thread, sum) / n;
    var squares = 0.0;
    if (known) {
        for (var k = thread % TEAM * 4u; k < p.k; k += TEAM * 4u) {
            let count = p.k - k;
            let away = select(vec4f(), x4(start + k, count) - average, vec4u(0u, 1u, 2u, 3u) < vec4u(count));
            squares += dot(away, away);
        }
    }
    let variance = team_sum(thread, squares) / n;
    if (thread % TEAM == 0u) {
        mean[r] = average;
        factor[r] = 1.0 / sqrt(variance + p.eps);
    }
    workgroupBarrier();
}

fn row_at(m: u32) -> Row {
    let item = select(m / p.patches, 0u, SHARED);
    return Row(token_start(m), (item * p.table_rows + p.table_row) * p.k, m % BM);
}

alias Place = u32;

fn place_at(k: u32) -> Place {
    return k;
}

fn operand(row: Row, k: Place) -> vec4f {
    let count = p.k - k;
    let v = (x4(row.start + k, count) - mean[row.r]) * factor[row.r];
    let at = row.scale + k;
    var s = vec4f(scale[at], 0.0, 0.0, 0.0);
    if (count > 1u) {
        s.y = scale[at + 1u];
    }
    if (count > 2u) {
        s.z = scale[at + 2u];
    }
    if (count > 3u) {
        s.w = scale[at + 3u];
    }
    return select(vec4f(), v * (1.0 + s), vec4u(0u, 1u, 2u, 3u) < vec4u(count));
}

fn store(m: u32, n: u32, v: f32, unused: f32) {
    let b = m / p.patches;
    let t = m % p.patches;
    let i = p.first + n;
    var y = v;
    if (HAS_BIAS) {
        y += bias[i];
    }
    let row = t / p.across * p.side + i / p.channels / p.side;
    let column = t % p.across * p.side + i / p.channels % p.side;
    out[((b * p.channels + i % p.channels) * p.h + row) * p.w + column] = y;
}

#import gemm/gemm
