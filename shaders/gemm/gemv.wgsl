// The gemv kernel: out[m, n] = Σₖ A[m, k]·W[n, k] for at most 8 rows of A at a time. Each weight is
// read once.
//
// A workgroup of 256 threads makes 16 columns, 16 threads a column: thread `lane` of a column sums
// the steps of four values lane, lane + 16, …, and the 16 sums are added pairwise. With PAIRED,
// gates and their values are adjacent columns.
//
// Groups: ⌈M/MR⌉·(groups of columns), columns first. Constants: MR, the rows of A at a time.
// gemm/gemm.wgsl lists what the importer declares.

#import shared/dispatch
#import shared/input
#import gemm/weights
#import gemm/weight_rows

const MR: u32 = 8u;
const PAIR_WIDTH: u32 = 1u;

var<workgroup> sums: array<f32, 256u * MR>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = workgroup_index(group, groups);
    let m0 = at / p.tiles * MR;
    if (m0 >= p.m) {
        return;
    }
    let column = at % p.tiles * 16u + thread / 16u;
    let lane = thread % 16u;
    let row = weight_row(0u, column);

    var rows: array<Row, MR>;
    var sum: array<f32, MR>;
    for (var m = 0u; m < MR; m++) {
        rows[m] = row_at(min(m0 + m, p.m - 1u));
        sum[m] = 0.0;
    }
    if (row != NO_ROW) {
        for (var k4 = lane; k4 < p.k4; k4 += 16u) {
            let w = weight4(row * p.stride + k4);
            for (var m = 0u; m < MR; m++) {
                sum[m] += dot(operand(rows[m], place_at(4u * k4)), w);
            }
        }
    }
    for (var m = 0u; m < MR; m++) {
        sums[m * 256u + thread] = sum[m];
    }
    workgroupBarrier();
    for (var reach = 8u; reach > 0u; reach /= 2u) {
        if (lane < reach) {
            for (var m = 0u; m < MR; m++) {
                sums[m * 256u + thread] += sums[m * 256u + thread + reach];
            }
        }
        workgroupBarrier();
    }
    // Lane m finishes row m.
    if (lane < MR && m0 + lane < p.m && row != NO_ROW) {
        let first = lane * 256u + thread - lane;
        if (!PAIRED) {
            store(m0 + lane, column, unscaled(sums[first]), 0.0);
        } else if (column % 2u == 0u) {
            store(m0 + lane, column / 2u, unscaled(sums[first]), unscaled(sums[first + 16u]));
        }
    }
}
