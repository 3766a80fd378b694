// gather_rows: out[i, d] = table[ids[i], d], one thread for each value, widened as it is read.
//
// A table larger than a binding is read through windows of `rows` rows from `first` on, a dispatch each; ids outside of
// the window are left to the others. Ids past the table's end read its last row.
// Constants: TYPE, 0 for F32, 1 for BF16, 2 for F16.

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
    let at = flat(group, groups) * 256u + thread;
    if (at >= p.count) {
        return;
    }
    let id = min(ids[at / p.width], p.table_rows - 1u);
    if (id < p.first || id - p.first >= p.rows) {
        return;
    }
    let element = (id - p.first) * p.width + at % p.width;
    if (TYPE == 0u) {
        out[at] = bitcast<f32>(table[element]);
    } else {
        let word = table[element / 2u];
        if (TYPE == 1u) {
            out[at] = bitcast<f32>(select(word << 16u, word & 0xffff0000u, element % 2u == 1u));
        } else {
            let pair = unpack2x16float(word);
            out[at] = select(pair.x, pair.y, element % 2u == 1u);
        }
    }
}
