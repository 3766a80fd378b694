// The gemm on cooperative matrices: out[m, n] = Σₖ A[m, k]·W[n, k] with F16 operands and F32 sums.
//
// A workgroup of GM×GN subgroups makes a tile of BM×BN outputs, a subgroup FM×FN cooperative
// matrices of it. Both operands are F16 in memory and are copied to workgroup memory as they are,
// BK8 vectors of eight values (16 bytes) of K at once, with the next ones on their way in registers
// while the current ones are multiplied. The loop never inspects a value or branches on a bound, so
// no load is waited for before all are issued: rows and columns past the end belong to other tiles
// (their outputs are not stored), K past the end of a row of A reads zeros, and rows of W are
// padded with zeros to whole steps.
//
// Rows in workgroup memory are one vector longer than their values: eight neighbours hit different
// banks. With two buffers, one is written while the other is read, and a step needs one barrier.
//
// Groups: ⌈M/BM⌉·(tiles of columns), in bands of BAND rows of tiles, so that concurrent tiles share
// most of their operands in the cache. Constants: GM, GN, FM, FN, BK8, KF (cooperative matrices in
// BK8 vectors), LANES (of a subgroup), LOADS_A and LOADS_B (vectors of a tile a thread), SHARE
// (values of a matrix a lane), BUFFERS, BAND, OUTPUTS (stored matrices of a subgroup's row).
// gemm/gemm.wgsl lists what the importer declares.

#import shared/cooperative
#import shared/dispatch
#import shared/input
#import gemm/weights
#import gemm/weight_rows

const GM: u32 = 2u;
const GN: u32 = 4u;
const FM: u32 = 4u;
const FN: u32 = 2u;
const BK8: u32 = 4u;
const KF: u32 = 2u;
const LANES: u32 = 32u;
const LOADS_A: u32 = 2u;
const LOADS_B: u32 = 2u;
const SHARE: u32 = 8u;
const BUFFERS: u32 = 1u;
const BAND: u32 = 16u;
const OUTPUTS: u32 = 2u;

const THREADS: u32 = GM * GN * LANES;
const BM: u32 = GM * FM * SIDE;
const BN: u32 = GN * FN * SIDE;
// Every thread loads as many vectors, and always the same vector of its rows.
const_assert LOADS_A * THREADS == BM * BK8;
const_assert LOADS_B * THREADS == BN * BK8;
const_assert THREADS % BK8 == 0u;
// Rows of a tile from one load of a thread to its next.
const APART: u32 = THREADS / BK8;
// The lengths of a tile's row in workgroup memory and of a matrix's, in vectors of four.
const STEP: u32 = 2u * BK8 + 2u;
const SIDE4: u32 = SIDE / 4u;
// Columns of one subgroup's gates, which precede its values.
const PAIR_WIDTH: u32 = FN * SIDE / 2u;
const AREA: u32 = SIDE * SIDE;

var<workgroup> tile_a: array<vec4<f16>, BUFFERS * BM * STEP>;
var<workgroup> tile_b: array<vec4<f16>, BUFFERS * BN * STEP>;
// One matrix of sums for each subgroup, on its way to memory.
var<workgroup> strip: array<f32, GM * GN * AREA>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let tile = workgroup_index(group, groups);
    let band = tile / (BAND * p.tiles) * BAND;
    if (band * BM >= p.m) {
        return;
    }
    let high = min(BAND, (p.m + BM - 1u) / BM - band);
    let m0 = (band + tile % (BAND * p.tiles) % high) * BM;
    let n0 = tile % (BAND * p.tiles) / high * BN;
    if (n0 >= p.tiles * BN) {
        return;
    }

    // The loads of this thread: vector thread % BK8 of every step, in rows thread / BK8, APART
    // more, and so on.
    let row8 = thread / BK8;
    let lane8 = thread % BK8;
    var rows: array<Row, LOADS_A>;
    var columns: array<u32, LOADS_B>;
    var next_a: array<Vec8, LOADS_A>;
    var next_b: array<Vec8, LOADS_B>;
    var place = place_at(lane8);
    #unroll
    for (var i = 0u; i < LOADS_A; i++) {
        rows[i] = row_at(min(m0 + row8 + i * APART, p.m - 1u));
        next_a[i] = x[vec8_at(rows[i], place)];
    }
    #unroll
    for (var i = 0u; i < LOADS_B; i++) {
        let row = weight_row(n0, row8 + i * APART);
        columns[i] = select(row, 0u, row == NO_ROW) * (p.stride / 2u) + lane8;
        next_b[i] = weights[columns[i]];
    }

    var sums: array<array<Sums, FN>, FM>;
    let row0 = subgroup / GN * FM * SIDE;
    let column0 = subgroup % GN * FN * SIDE;
    let to = row8 * STEP + 2u * lane8;
    let steps = (p.k4 + 2u * BK8 - 1u) / (2u * BK8);
    for (var step = 0u; step < steps; step++) {
        let buffer_a = step % BUFFERS * BM * STEP;
        let buffer_b = step % BUFFERS * BN * STEP;
        #unroll
        for (var i = 0u; i < LOADS_A; i++) {
            let at = buffer_a + to + i * APART * STEP;
            tile_a[at] = next_a[i].low;
            tile_a[at + 1u] = next_a[i].high;
        }
        #unroll
        for (var i = 0u; i < LOADS_B; i++) {
            let at = buffer_b + to + i * APART * STEP;
            tile_b[at] = next_b[i].low;
            tile_b[at + 1u] = next_b[i].high;
        }
        workgroupBarrier();
        // The last step's prefetch is unused: A has no more, and W is read at the same place again.
        place = place_after(place);
        let ahead = min(step + 1u, steps - 1u) * BK8;
        #unroll
        for (var i = 0u; i < LOADS_A; i++) {
            next_a[i] = x[vec8_at(rows[i], place)];
        }
        #unroll
        for (var i = 0u; i < LOADS_B; i++) {
            next_b[i] = weights[columns[i] + ahead];
        }
        #unroll
        for (var k = 0u; k < KF; k++) {
            var a: array<Left, FM>;
            #unroll
            for (var i = 0u; i < FM; i++) {
                a[i] = coopLoadT<Left>(&tile_a[buffer_a + (row0 + i * SIDE) * STEP + k * SIDE4], STEP);
            }
            #unroll
            for (var j = 0u; j < FN; j++) {
                let b = coopLoad<Right>(&tile_b[buffer_b + (column0 + j * SIDE) * STEP + k * SIDE4], STEP);
                #unroll
                for (var i = 0u; i < FM; i++) {
                    sums[i][j] = coopMultiplyAdd(a[i], b, sums[i][j]);
                }
            }
        }
        if (BUFFERS == 1u) {
            workgroupBarrier();
        }
    }

    let own = subgroup * AREA;
    var gates: array<f32, SHARE>;
    #unroll
    for (var i = 0u; i < FM; i++) {
        #unroll
        for (var j = 0u; j < OUTPUTS; j++) {
            coopStoreT(sums[i][j], &strip[own], SIDE);
            workgroupBarrier();
            if (PAIRED) {
                #unroll
                for (var e = 0u; e < SHARE; e++) {
                    gates[e] = strip[own + e * LANES + lane];
                }
                workgroupBarrier();
                coopStoreT(sums[i][(j + OUTPUTS) % FN], &strip[own], SIDE);
                workgroupBarrier();
            }
            #unroll
            for (var e = 0u; e < SHARE; e++) {
                let row = (e * LANES + lane) / SIDE;
                let column = j * SIDE + (e * LANES + lane) % SIDE;
                let m = m0 + row0 + i * SIDE + row;
                let v = unscaled(strip[own + e * LANES + lane]);
                if (PAIRED) {
                    let n = (n0 + column0) / 2u + column;
                    if (m < p.m && n < p.n) {
                        store(m, n, unscaled(gates[e]), v);
                    }
                } else {
                    let n = n0 + column0 + column;
                    if (m < p.m && n < p.n) {
                        store(m, n, v, 0.0);
                    }
                }
            }
            workgroupBarrier();
        }
    }
}
