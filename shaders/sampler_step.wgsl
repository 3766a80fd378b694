// sampler_step: with x the latents of an item, p its prediction and q that of its negative,
// v = p + g·(p − q); if cap > 0 and ‖v‖ > cap·‖p‖, v is scaled to cap·‖p‖. Then
//   latents ← a·x + b·v + Σⱼ cⱼ·historyⱼ + d·noise[step],  history₀ ← e·x + f·v,  step += 1.
// (g, cap, a, b, d, e, f, c₁ …) is row `step` of the table. Terms with the coefficient 0 are left
// out. historyⱼ is slot (step − j) mod HISTORY.
//
// measure: a workgroup sums v² and p² of `chunk` values of an item. The first one also copies the
// table's row and the step, because the second half increments the step. Groups: chunks · items.
// advance: a workgroup adds its item's sums and updates `chunk` values. The first one increments
// the step. Same groups.
// Constants: GUIDED (there are negatives), HISTORY (slots), NOISE (there is noise), ADVANCE (the
// second half).

const GUIDED: bool = false;
const HISTORY: u32 = 0u;
const NOISE: bool = false;
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
@group(0) @binding(2) var<storage, read_write> history: array<f32>;
@group(0) @binding(3) var<storage, read> noise: array<f32>;
@group(0) @binding(4) var<storage, read> prediction: array<f32>;
@group(0) @binding(5) var<storage, read> table: array<f32>;
@group(0) @binding(6) var<storage, read_write> step: array<u32>;
// The table's row, the step's bits, then (v², p²) of [item, chunk].
@group(0) @binding(7) var<storage, read_write> scratch: array<f32>;

// The columns of a row.
const GUIDANCE: u32 = 0u;
const CAP: u32 = 1u;
const LATENTS: u32 = 2u;
const PREDICTION: u32 = 3u;
const NOISE_SCALE: u32 = 4u;
const STORED_LATENTS: u32 = 5u;
const STORED_PREDICTION: u32 = 6u;
const PAST: u32 = 7u;
const COLUMNS: u32 = PAST + HISTORY;
const INDEX: u32 = COLUMNS;
const SUMS: u32 = COLUMNS + 1u;

alias Part = vec2f;

fn measure(at: u32, me: Thread) {
    let item = at / p.chunks;
    if (item >= p.items) {
        return;
    }
    let row = COLUMNS * min(step[0], p.rows - 1u);
    if (at == 0u && me.index < COLUMNS) {
        scratch[me.index] = table[row + me.index];
    }
    if (at == 0u && me.index == COLUMNS) {
        scratch[INDEX] = bitcast<f32>(step[0]);
    }
    if (GUIDED) {
        let g = table[row + GUIDANCE];
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
            scratch[SUMS + 2u * at] = all.x;
            scratch[SUMS + 1u + 2u * at] = all.y;
        }
    }
}

fn advance(at: u32, me: Thread) {
    let item = at / p.chunks;
    if (item >= p.items) {
        return;
    }
    let g = scratch[GUIDANCE];
    let c = scratch[CAP];
    let a_x = scratch[LATENTS];
    let b_v = scratch[PREDICTION];
    let index = bitcast<u32>(scratch[INDEX]);
    var factor = 1.0;
    if (GUIDED) {
        var own = vec2f();
        for (var i = me.index; i < p.chunks; i += THREADS) {
            let slot = SUMS + 2u * (item * p.chunks + i);
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
        let value = item * p.size + i;
        let x = latents[value];
        // With a = 1 this is Euler's step x + b·v, in which the compiler may fuse only these two.
        var scaled = x;
        if (a_x != 1.0) {
            scaled = a_x * x;
        }
        var next = scaled + b_v * v;
        if (HISTORY > 0u) {
            let slots = max(HISTORY, 1u);
            for (var j = 1u; j <= HISTORY; j++) {
                let past = scratch[PAST + j - 1u];
                if (past != 0.0) {
                    next += past * history[(index + slots - j) % slots * p.items * p.size + value];
                }
            }
            let stored = scratch[STORED_LATENTS] * x + scratch[STORED_PREDICTION] * v;
            history[index % slots * p.items * p.size + value] = stored;
        }
        if (NOISE) {
            let scale = scratch[NOISE_SCALE];
            if (scale != 0.0) {
                next += scale * noise[min(index, p.rows - 1u) * p.items * p.size + value];
            }
        }
        latents[value] = next;
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
