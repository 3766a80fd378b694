// The tiled gemm: out[m, n] = Σₖ A[m, k]·W[n, k].
//
// A workgroup of 16×16 threads makes a tile of BM×BN outputs, a thread TM×TN of them: rows y·TM +
// i, columns x + 16·j. Both operands pass through workgroup memory, BK4 steps of four values of K
// at once. The next ones are fetched into registers while the current ones are multiplied. Rows in
// workgroup memory are one step longer than their values, so that 16 threads that read 16 rows hit
// different banks.
//
// Groups: ⌈M/BM⌉·(tiles of columns), columns first. Constants: TM, TN, BK4. gemm/gemm.wgsl lists
// what the importer declares.

#import shared/dispatch
#import shared/input
#import gemm/weights
#import gemm/weight_rows

const TM: u32 = 8u;
const TN: u32 = 8u;
const BK4: u32 = 2u;
const PAIR_WIDTH: u32 = 8u * TN;
const BM: u32 = 16u * TM;
const BN: u32 = 16u * TN;
const STEP: u32 = BK4 + 1u;
const LOADS_A: u32 = (BM * BK4 + 255u) / 256u;
const LOADS_B: u32 = (BN * BK4 + 255u) / 256u;

var<workgroup> tile_a: array<Value4, BM * STEP>;
var<workgroup> tile_b: array<Value4, BN * STEP>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile = workgroup_index(group, groups);
    let m0 = tile / p.tiles * BM;
    let n0 = tile % p.tiles * BN;
    if (m0 >= p.m) {
        return;
    }
    prologue(m0, thread);

    // The loads of this thread: load i is step (i·256 + thread) % BK4 of the tile's row (i·256 +
    // thread) / BK4.
    var rows: array<Row, LOADS_A>;
    var columns: array<u32, LOADS_B>;
    for (var i = 0u; i < LOADS_A; i++) {
        let r = (i * 256u + thread) / BK4;
        rows[i] = row_at(min(m0 + r, p.m - 1u));
    }
    for (var i = 0u; i < LOADS_B; i++) {
        let r = (i * 256u + thread) / BK4;
        columns[i] = NO_ROW;
        if (r < BN) {
            columns[i] = weight_row(n0, r);
        }
    }

    var next_a: array<Value4, LOADS_A>;
    var next_b: array<Value4, LOADS_B>;
    var sums: array<array<f32, TN>, TM>;
    for (var i = 0u; i < TM; i++) {
        for (var j = 0u; j < TN; j++) {
            sums[i][j] = 0.0;
        }
    }
    let ty = thread / 16u;
    let tx = thread % 16u;
    let steps = (p.k4 + BK4 - 1u) / BK4;
    for (var step = 0u; step <= steps; step++) {
        if (step > 0u) {
            for (var i = 0u; i < LOADS_A; i++) {
                let at = i * 256u + thread;
                if (at < BM * BK4) {
                    tile_a[at / BK4 * STEP + at % BK4] = next_a[i];
                }
            }
            for (var i = 0u; i < LOADS_B; i++) {
                let at = i * 256u + thread;
                if (at < BN * BK4) {
                    tile_b[at / BK4 * STEP + at % BK4] = next_b[i];
                }
            }
        }
        workgroupBarrier();
        if (step < steps) {
            for (var i = 0u; i < LOADS_A; i++) {
                let k4 = step * BK4 + (i * 256u + thread) % BK4;
                next_a[i] = Value4();
                if (k4 < p.k4) {
                    next_a[i] = operand(rows[i], place_at(4u * k4));
                }
            }
            for (var i = 0u; i < LOADS_B; i++) {
                let k4 = step * BK4 + (i * 256u + thread) % BK4;
                next_b[i] = Value4();
                if (k4 < p.k4 && columns[i] != NO_ROW) {
                    next_b[i] = Value4(weight4(columns[i] * p.stride + k4));
                }
            }
        }
        if (step > 0u) {
            for (var k = 0u; k < BK4; k++) {
                var a: array<vec4f, TM>;
                for (var i = 0u; i < TM; i++) {
                    a[i] = vec4f(tile_a[(ty * TM + i) * STEP + k]);
                }
                for (var j = 0u; j < TN; j++) {
                    let b = vec4f(tile_b[(tx + 16u * j) * STEP + k]);
                    for (var i = 0u; i < TM; i++) {
                        sums[i][j] += dot(a[i], b);
                    }
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < TM; i++) {
        let m = m0 + ty * TM + i;
        if (m < p.m) {
            if (PAIRED) {
                for (var j = 0u; j < TN / 2u; j++) {
                    let n = n0 / 2u + tx + 16u * j;
                    if (n < p.n) {
                        store(m, n, unscaled(sums[i][j]), unscaled(sums[i][j + TN / 2u]));
                    }
                }
            } else {
                for (var j = 0u; j < TN; j++) {
                    let n = n0 + tx + 16u * j;
                    if (n < p.n) {
                        store(m, n, unscaled(sums[i][j]), 0.0);
                    }
                }
            }
        }
    }
}
