// gather_rows: out[i, d] = table[ids[i], d], widened to F32, one thread for each value, or with
// QUANTIZED for each eight values of a row.
//
// A table larger than a binding is read in windows of `rows` rows from `first` on, with a dispatch
// each, which skips ids outside of its window. Ids past the table's end read its last row.
// Constants: STORED, 0 for F32, 1 for BF16, 2 for F16, or with QUANTIZED the FORMAT of
// shared/quantized.

#import shared/dispatch

struct Params {
#ifdef QUANTIZED
    start: u32,
    row_bytes: u32,
    scale_row: u32,
    scale_tiles: u32,
    scale: f32,
#endif
    ids: u32,
    width: u32,
    first: u32,
    rows: u32,
    table_rows: u32,
}

@group(0) @binding(0) var<uniform> p: Params;

#ifdef QUANTIZED

@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

#import shared/quantized

const STEP: u32 = 8u;

// Writes values of a row of the window from `column` on.
fn copy(row: u32, column: u32, to: u32) {
    let values = values8(row, column);
    for (var i = 0u; i < min(STEP, p.width - column); i++) {
        out[to + i] = select(values.high[i % 4u], values.low[i % 4u], i < 4u);
    }
}

#else

const STORED: u32 = 0u;

@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

const STEP: u32 = 1u;

// Writes a value of a row of the window.
fn copy(row: u32, column: u32, to: u32) {
    let element = row * p.width + column;
    if (STORED == 0u) {
        out[to] = bitcast<f32>(table[element]);
    } else {
        let word = table[element / 2u];
        if (STORED == 1u) {
            out[to] = bitcast<f32>(select(word << 16u, word & 0xffff0000u, element % 2u == 1u));
        } else {
            let pair = unpack2x16float(word);
            out[to] = select(pair.x, pair.y, element % 2u == 1u);
        }
    }
}

#endif

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = workgroup_index(group, groups) * 256u + thread;
    let steps = (p.width + STEP - 1u) / STEP;
    let i = at / steps;
    if (i >= p.ids) {
        return;
    }
    let id = min(ids[i], p.table_rows - 1u);
    if (id < p.first || id - p.first >= p.rows) {
        return;
    }
    let column = at % steps * STEP;
    copy(id - p.first, column, i * p.width + column);
}
