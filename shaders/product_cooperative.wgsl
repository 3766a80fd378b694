// The tiled product on cooperative matrices: out[m, n] = Σₖ A[m, k]·W[n, k] with operands in halves and sums in F32.
//
// A workgroup of GM×GN subgroups makes a tile of BM×BN outputs, a subgroup FM×FN cooperative matrices of it. Both
// operands are halves in memory and are copied to workgroup memory as they are, BK8 steps of eight values (16 bytes) of
// K at once, the next ones being on their way in registers while the current ones are multiplied. Nothing in the loop
// looks at a value or depends on a bound, so no load is waited for before all are under way: rows and columns past the
// end are others' (their outputs are not stored), K past the end of a row of A is read where zeros are, and rows of W
// are padded with zeros to whole steps.
//
// Rows in workgroup memory are one eight longer than they need be: eight neighbours meet different banks. With two
// buffers, one is written while the other is read, and one barrier a step will do.
//
// Groups: ⌈M/BM⌉·(tiles of columns), in bands of BAND rows of tiles, so that the tiles that are made at one time share
// most of their operands in the cache. Constants: GM, GN, FM, FN, BK8, KF (cooperative matrices in BK8 steps), LANES (of
// a subgroup), LOADS_A and LOADS_B (eights of a tile a thread), SHARE (values of a matrix a lane), BUFFERS, BAND, PAIRED
// and what columns.wgsl needs. The verb's file provides Params and store as for product.wgsl, and
//   row_at(m)         where row m of A is read
//   place_at(k8)      which values of a row: the eight from 8·k8 on
//   place_after(at)   the eight values BK8 steps later
//   eight(row, at)    where they are in x, in eights

const THREADS: u32 = GM * GN * LANES;
const BM: u32 = GM * FM * SIDE;
const BN: u32 = GN * FN * SIDE;
// Every thread carries as much, and always the same eights of its rows.
const_assert LOADS_A * THREADS == BM * BK8;
const_assert LOADS_B * THREADS == BN * BK8;
const_assert THREADS % BK8 == 0u;
// Rows of a tile from one load of a thread to its next.
const APART: u32 = THREADS / BK8;
// A row of a tile in workgroup memory, and a matrix, in fours: cooperative matrices are loaded from arrays of halves.
const STEP: u32 = 2u * BK8 + 2u;
const SIDE4: u32 = SIDE / 4u;
// Columns of one subgroup; with pairs, the gates stand in front of its values.
const HALF: u32 = FN * SIDE / 2u;
const AREA: u32 = SIDE * SIDE;

var<workgroup> tile_a: array<vec4<f16>, BUFFERS * BM * STEP>;
var<workgroup> tile_b: array<vec4<f16>, BUFFERS * BN * STEP>;
// A matrix of sums a subgroup, on its way out.
var<workgroup> strip: array<f32, GM * GN * AREA>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let tile = flat(group, groups);
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

    // What this thread carries from memory to the tiles: eight thread % BK8 of every step, in the tile's rows
    // thread / BK8, APART more, and so on.
    let row8 = thread / BK8;
    let lane8 = thread % BK8;
    var rows: array<Row, LOADS_A>;
    var columns: array<u32, LOADS_B>;
    var next_a: array<Eight, LOADS_A>;
    var next_b: array<Eight, LOADS_B>;
    var place = place_at(lane8);
    for (var i = 0u; i < LOADS_A; i++) { // unroll
        rows[i] = row_at(min(m0 + row8 + i * APART, p.m - 1u));
        next_a[i] = x[eight(rows[i], place)];
    }
    for (var i = 0u; i < LOADS_B; i++) { // unroll
        let row = weight_row(n0, row8 + i * APART);
        columns[i] = select(row, 0u, row == NOTHING) * (p.stride / 2u) + lane8;
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
        for (var i = 0u; i < LOADS_A; i++) { // unroll
            let at = buffer_a + to + i * APART * STEP;
            tile_a[at] = next_a[i].low;
            tile_a[at + 1u] = next_a[i].high;
        }
        for (var i = 0u; i < LOADS_B; i++) { // unroll
            let at = buffer_b + to + i * APART * STEP;
            tile_b[at] = next_b[i].low;
            tile_b[at + 1u] = next_b[i].high;
        }
        workgroupBarrier();
        // What the last step fetches is not used: A has no more, and W is read there once again.
        place = place_after(place);
        let ahead = min(step + 1u, steps - 1u) * BK8;
        for (var i = 0u; i < LOADS_A; i++) { // unroll
            next_a[i] = x[eight(rows[i], place)];
        }
        for (var i = 0u; i < LOADS_B; i++) { // unroll
            next_b[i] = weights[columns[i] + ahead];
        }
        for (var k = 0u; k < KF; k++) { // unroll
            var a: array<Left, FM>;
            for (var i = 0u; i < FM; i++) { // unroll
                a[i] = coopLoadT<Left>(&tile_a[buffer_a + (row0 + i * SIDE) * STEP + k * SIDE4], STEP);
            }
            for (var j = 0u; j < FN; j++) { // unroll
                let b = coopLoad<Right>(&tile_b[buffer_b + (column0 + j * SIDE) * STEP + k * SIDE4], STEP);
                for (var i = 0u; i < FM; i++) { // unroll
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
    for (var i = 0u; i < FM; i++) { // unroll
        for (var j = 0u; j < OUTPUTS; j++) { // unroll
            coopStoreT(sums[i][j], &strip[own], SIDE);
            workgroupBarrier();
            if (PAIRED) {
                for (var e = 0u; e < SHARE; e++) { // unroll
                    gates[e] = strip[own + e * LANES + lane];
                }
                workgroupBarrier();
                coopStoreT(sums[i][(j + OUTPUTS) % FN], &strip[own], SIDE);
                workgroupBarrier();
            }
            for (var e = 0u; e < SHARE; e++) { // unroll
                let row = (e * LANES + lane) / SIDE;
                let column = j * SIDE + (e * LANES + lane) % SIDE;
                let m = m0 + row0 + i * SIDE + row;
                let v = in_units(strip[own + e * LANES + lane]);
                if (PAIRED) {
                    let n = (n0 + column0) / 2u + column;
                    if (m < p.m && n < p.n) {
                        store(m, n, in_units(gates[e]), v);
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
