// gather_rows: out[i, d] = table[ids[i], d], one thread for each value, widened to F32.
//
// A table larger than a binding is read in windows of `rows` rows from `first` on, with a dispatch
// each, which skips ids outside of its window. Ids past the table's end read its last row.
// Constants: STORED, 0 for F32, 1 for BF16, 2 for F16.

#import shared/dispatch

const STORED: u32 = 0u;

struct Params {
    count: u32,
    width: u32,
    first: u32,
    rows: u32,
    table_rows: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

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
    let id = min(ids[at / p.width], p.table_rows - 1u);
    if (id < p.first || id - p.first >= p.rows) {
        return;
    }
    let element = (id - p.first) * p.width + at % p.width;
    if (STORED == 0u) {
        out[at] = bitcast<f32>(table[element]);
    } else {
        let word = table[element / 2u];
        if (STORED == 1u) {
            out[at] = bitcast<f32>(select(word << 16u, word & 0xffff0000u, element % 2u == 1u));
        } else {
            let pair = unpack2x16float(word);
            out[at] = select(pair.x, pair.y, element % 2u == 1u);
        }
    }
}
