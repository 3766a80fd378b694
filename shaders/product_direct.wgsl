// The product for adapters that compute on the processor: out[m, n] = Σₖ A[m, k]·W[n, k], read straight from memory. To
// them workgroup memory is memory like any other, and a barrier changes from thread to thread of the workgroup.
//
// A thread makes TM×TN outputs: rows y·TM + i, columns x + GX·j, of a workgroup's GX×GY threads. Its sums and operands
// stand in arrays that only constants index, so that they are registers.
//
// Groups: ⌈M/BM⌉·(tiles of columns), columns first. Constants: TM, TN, GX, GY, PAIRED, OUTPUTS (of a thread's row). The
// verb's file provides row_at, place_at, operand and store as for the tiled product.

const HALF: u32 = GX * TN / 2u;
const BM: u32 = GY * TM;
const BN: u32 = GX * TN;

@compute @workgroup_size(GX * GY)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile = flat(group, groups);
    let m0 = tile / p.tiles * BM + thread / GX * TM;
    let n0 = tile % p.tiles * BN;
    let x0 = thread % GX;
    if (m0 >= p.m) {
        return;
    }
    var rows: array<Row, TM>;
    var columns: array<u32, TN>;
    var sums: array<array<f32, TN>, TM>;
    for (var i = 0u; i < TM; i++) { // unroll
        rows[i] = row_at(min(m0 + i, p.m - 1u));
        for (var j = 0u; j < TN; j++) { // unroll
            sums[i][j] = 0.0;
        }
    }
    for (var j = 0u; j < TN; j++) { // unroll
        let row = weight_row(n0, x0 + GX * j);
        columns[j] = select(row, 0u, row == NOTHING) * p.stride;
    }
    for (var k4 = 0u; k4 < p.k4; k4++) {
        let place = place_at(4u * k4);
        var a: array<vec4f, TM>;
        for (var i = 0u; i < TM; i++) { // unroll
            a[i] = operand(rows[i], place);
        }
        for (var j = 0u; j < TN; j++) { // unroll
            let b = weight4(columns[j] + k4);
            for (var i = 0u; i < TM; i++) { // unroll
                sums[i][j] += dot(a[i], b);
            }
        }
    }
    for (var j = 0u; j < OUTPUTS; j++) { // unroll
        let n = select(n0, n0 / 2u, PAIRED) + x0 + GX * j;
        if (n < p.n) {
            // Rows past the last one are that row once more.
            for (var i = 0u; i < TM; i++) { // unroll
                store(min(m0 + i, p.m - 1u), n, in_units(sums[i][j]), in_units(sums[i][j + TN - OUTPUTS]));
            }
        }
    }
}
