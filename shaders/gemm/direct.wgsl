// The gemm for adapters that compute on the processor: out[m, n] = Σₖ A[m, k]·W[n, k], with
// operands straight from memory. On them workgroup memory is ordinary memory, and a barrier
// switches between all threads of the workgroup.
//
// A thread makes TM×TN outputs of a workgroup's GX×GY threads: rows y·TM + i, columns x + GX·j.
// Only constants index the arrays of its sums and operands, so that they are registers.
//
// Groups: ⌈M/BM⌉·(tiles of columns), columns first. Constants: TM, TN, GX, GY, OUTPUTS (of a
// thread's row). gemm/gemm.wgsl lists what the importer declares.

#import shared/dispatch
#import shared/input
#import gemm/weights
#import gemm/weight_rows

const TM: u32 = 8u;
const TN: u32 = 8u;
const GX: u32 = 4u;
const GY: u32 = 4u;
const OUTPUTS: u32 = 8u;
const PAIR_WIDTH: u32 = GX * TN / 2u;
const BM: u32 = GY * TM;
const BN: u32 = GX * TN;

@compute @workgroup_size(GX * GY)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile = workgroup_index(group, groups);
    let m0 = tile / p.tiles * BM + thread / GX * TM;
    let n0 = tile % p.tiles * BN;
    let x0 = thread % GX;
    if (m0 >= p.m) {
        return;
    }
    var rows: array<Row, TM>;
    var columns: array<u32, TN>;
    var sums: array<array<f32, TN>, TM>;
    #unroll
    for (var i = 0u; i < TM; i++) {
        rows[i] = row_at(min(m0 + i, p.m - 1u));
        #unroll
        for (var j = 0u; j < TN; j++) {
            sums[i][j] = 0.0;
        }
    }
    #unroll
    for (var j = 0u; j < TN; j++) {
        let row = weight_row(n0, x0 + GX * j);
        columns[j] = select(row, 0u, row == NO_ROW) * p.stride;
    }
    for (var k4 = 0u; k4 < p.k4; k4++) {
        let place = place_at(4u * k4);
        var a: array<vec4f, TM>;
        #unroll
        for (var i = 0u; i < TM; i++) {
            a[i] = operand(rows[i], place);
        }
        #unroll
        for (var j = 0u; j < TN; j++) {
            let b = weight4(columns[j] + k4);
            #unroll
            for (var i = 0u; i < TM; i++) {
                sums[i][j] += dot(a[i], b);
            }
        }
    }
    #unroll
    for (var j = 0u; j < OUTPUTS; j++) {
        let n = select(n0, n0 / 2u, PAIRED) + x0 + GX * j;
        if (n < p.n) {
            // Rows past the last one repeat it.
            #unroll
            for (var i = 0u; i < TM; i++) {
                store(min(m0 + i, p.m - 1u), n, unscaled(sums[i][j]), unscaled(sums[i][j + TN - OUTPUTS]));
            }
        }
    }
}
