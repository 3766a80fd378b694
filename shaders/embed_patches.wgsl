// embed_patches: out[copy, b, t, n] = Σᵢ patch(b, t)[i]·W[n, i] + bias[n] for the patches of the
// latents, then pad[n] up to `tokens`; the same for every copy.
//
// Value i of patch t, listed by (row, column, channel), is
//   latents[b, i % C, t / across · side + i / C / side, t % across · side + i / C % side].
// Rows of the gemm are m = b·tokens + t. Constants: HAS_BIAS.

#import shared/input
#import gemm/weights

const HAS_BIAS: bool = false;

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
    copies: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> pad: array<f32>;

struct Row {
    // The item's first channel, or NO_ROW past the last patch.
    item: u32,
    // The patch's upper left corner.
    top: u32,
    left: u32,
}

fn row_at(m: u32) -> Row {
    let b = m / p.tokens;
    let t = m % p.tokens;
    if (t >= p.patches) {
        return Row(NO_ROW, 0u, 0u);
    }
    return Row(b * p.channels * p.h * p.w, t / p.across * p.side, t % p.across * p.side);
}

fn value(row: Row, i: u32) -> f32 {
    if (i >= p.k) {
        return 0.0;
    }
    let y = row.top + i / p.channels / p.side;
    let column = row.left + i / p.channels % p.side;
    return x4(row.item + (i % p.channels * p.h + y) * p.w + column, 1u).x;
}

alias Place = u32;

fn place_at(k: u32) -> Place {
    return k;
}

fn operand(row: Row, k: Place) -> vec4f {
    if (row.item == NO_ROW) {
        return vec4f();
    }
    return vec4f(value(row, k), value(row, k + 1u), value(row, k + 2u), value(row, k + 3u));
}

fn store(m: u32, n: u32, v: f32, unused: f32) {
    let column = p.first + n;
    var y = v;
    if (HAS_BIAS) {
        y += bias[column];
    }
    if (m % p.tokens >= p.patches) {
        y = pad[column];
    }
    for (var copy = 0u; copy < p.copies; copy++) {
        out[(copy * p.m + m) * p.width + column] = y;
    }
}

fn prologue(m0: u32, thread: u32) {}

#import gemm/gemm
