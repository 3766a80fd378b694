// guide_and_step: with (delta, g, c) = table[step] and v = p + g·(p − q), scaled by c·‖p‖/‖v‖ where
// c > 0 and ‖v‖ > c·‖p‖: latents += delta·v. Without q (not GUIDED), v = p.
//
// measure: a workgroup sums v² and p² of `chunk` values of an item. The first one also copies the
// table's row, because
//   the second half increments the step. Groups: chunks · items.
// advance: a workgroup adds its item's sums and updates `chunk` values. The first one increments
// the step. Same groups. Constants: GUIDED, ADVANCE (the second half).

const GUIDED: bool = false;
const ADVANCE: bool = false;

struct Params {
    items: u32,
    // Values of an item.
    size: u32,
    chunk: u32,
    chunks: u32,
    // Rows of the table.
    rows: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> latents: array<f32>;
@group(0) @binding(2) var<storage, read> prediction: array<f32>;
@group(0) @binding(3) var<storage, read> table: array<f32>;
@group(0) @binding(4) var<storage, read_write> step: array<u32>;
// The table's row in the first three values, (v², p²) of [item, chunk] from the fourth on.
@group(0) @binding(5) var<storage, read_write> scratch: array<f32>;

alias Part = vec2f;

fn measure(at: u32, me: Thread) {
    let item = at / p.chunks;
    if (item >= p.items) {
        return;
    }
    let row = 3u * min(step[0], p.rows - 1u);
    if (at == 0u && me.index < 3u) {
        scratch[me.index] = table[row + me.index];
    }
    if (GUIDED) {
        let g = table[row + 1u];
        let first = at % p.chunks * p.chunk;
        let end = min(p.size, first + p.chunk);
        var own = vec2f();
        for (var i = first + me.index; i < end; i += THREADS) {
            let a = prediction[item * p.size + i];
            let v = a + g * (a - prediction[(p.items + item) * p.size + i]);
            own += vec2f(v * v, a * a);
        }
        let all = reduced(me, own);
        if (me.index == 0u) {
            scratch[4u + 2u * at] = all.x;
            scratch[5u + 2u * at] = all.y;
        }
    }
}

fn advance(at: u32, me: Thread) {
    let item = at / p.chunks;
    if (item >= p.items) {
        return;
    }
    let delta = scratch[0];
    let g = scratch[1];
    let c = scratch[2];
    var factor = 1.0;
    if (GUIDED) {
        var own = vec2f();
        for (var i = me.index; i < p.chunks; i += THREADS) {
            let slot = 4u + 2u * (item * p.chunks + i);
            own += vec2f(scratch[slot], scratch[slot + 1u]);
        }
        let length = sqrt(reduced(me, own));
        let limit = c * length.y;
        if (c > 0.0 && length.x > limit) {
            factor = limit / length.x;
        }
    }
    let first = at % p.chunks * p.chunk;
    let end = min(p.size, first + p.chunk);
    for (var i = first + me.index; i < end; i += THREADS) {
        let a = prediction[item * p.size + i];
        var v = a;
        if (GUIDED) {
            v = (a + g * (a - prediction[(p.items + item) * p.size + i])) * factor;
        }
        latents[item * p.size + i] += delta * v;
    }
    if (at == 0u && me.index == 0u) {
        step[0] += 1u;
    }
}

fn run(at: u32, groups: u32, me: Thread) {
    if (ADVANCE) {
        advance(at, me);
    } else {
        measure(at, me);
    }
}

#import shared/reduce
