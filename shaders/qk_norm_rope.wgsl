// qk_norm_rope, in place: every query and key head h of a token becomes h / √(mean(h²) + eps)·norm,
// and its pairs (a, b) become (a·cos − b·sin, a·sin + b·cos) with the (cos, sin) of rotation[item
// or 0, t, pair].
//
// TEAM threads share a head, THREADS/TEAM heads a workgroup; thread `lane` owns the pairs lane,
// lane + TEAM, …. Pair i is (2i, 2i + 1) when INTERLEAVED, else (i, i + HEAD/2). Groups:
// ⌈heads/(THREADS/TEAM)⌉ over all tokens' query and key heads. Constants: HEAD, INTERLEAVED.

const HEAD: u32 = 128u;
const INTERLEAVED: bool = true;

struct Params {
    // Tokens of an item, and of all items.
    tokens: u32,
    rows: u32,
    query_heads: u32,
    key_heads: u32,
    // Elements between two items' rotations, 0 when all share one.
    rotation_stride: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(2) var<storage, read> q_norm: array<f32>;
@group(0) @binding(3) var<storage, read> k_norm: array<f32>;
@group(0) @binding(4) var<storage, read> rotation: array<f32>;

const PAIRS: u32 = HEAD / 2u;

alias Part = f32;

fn first_of(pair: u32) -> u32 {
    return select(pair, 2u * pair, INTERLEAVED);
}

fn second_of(pair: u32) -> u32 {
    return select(pair + PAIRS, 2u * pair + 1u, INTERLEAVED);
}

fn run(group: u32, groups: u32, me: Thread) {
    let heads = p.query_heads + p.key_heads;
    let lane = me.index % TEAM;
    let at = group * (THREADS / TEAM) + me.index / TEAM;
    let known = at < p.rows * heads;
    let row = at / heads;
    let head = at % heads;
    let start = (row * (heads + p.key_heads) + head) * HEAD;

    var squares = 0.0;
    if (known) {
        for (var i = lane; i < PAIRS; i += TEAM) {
            let a = qkv[start + first_of(i)];
            let b = qkv[start + second_of(i)];
            squares += a * a + b * b;
        }
    }
    let all = reduced(me, squares);
    if (!known) {
        return;
    }
    let factor = 1.0 / sqrt(all / f32(HEAD) + p.eps);
    let angles = row / p.tokens * p.rotation_stride + row % p.tokens * HEAD;
    for (var i = lane; i < PAIRS; i += TEAM) {
        let f = first_of(i);
        let s = second_of(i);
        var a = qkv[start + f] * factor;
        var b = qkv[start + s] * factor;
        if (head < p.query_heads) {
            a *= q_norm[f];
            b *= q_norm[s];
        } else {
            a *= k_norm[f];
            b *= k_norm[s];
        }
        let c = rotation[angles + 2u * i];
        let d = rotation[angles + 2u * i + 1u];
        qkv[start + f] = a * c - b * d;
        qkv[start + s] = a * d + b * c;
    }
}

#import shared/reduce
