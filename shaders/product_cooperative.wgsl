// The tiled product on cooperative matrices: out[m, n] = Σₖ A[m, k]·W[n, k] with operands in halves and sums in F32.
//
// A workgroup of GM×GN subgroups makes a tile of BM×BN outputs, a subgroup FM×FN cooperative matrices of it. Both
// operands come through workgroup memory, BK4 steps of four values of K at once, the next ones being fetched into
// registers while the current ones are multiplied; weights are widened, brought near 2¹⁵ by the power of two that the
// matrix was given, and rounded to halves on the way. Rows in workgroup memory are two steps longer than they need be:
// they start on 16 bytes, and eight neighbours meet different banks. With two buffers, one is written while the other
// is read, and one barrier a step will do.
//
// Groups: ⌈M/BM⌉·(tiles of columns), in bands of BAND rows of tiles, so that the tiles that are made at one time share
// most of their operands in the cache. Constants: GM, GN, FM, FN, BK4, KF (cooperative matrices in BK4 steps), LANES (of
// a subgroup), LOADS_A and LOADS_B (fours of a tile a thread), SHARE (values of a matrix a lane), BUFFERS, BAND, PAIRED
// and what columns.wgsl needs. The verb's file provides what product.wgsl asks for, but for the prologue.

const THREADS: u32 = GM * GN * LANES;
const BM: u32 = GM * FM * SIDE;
const BN: u32 = GN * FN * SIDE;
const STEP: u32 = BK4 + 2u;
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

    // What this thread carries from memory to the tiles: load i is step (i·THREADS + thread) % BK4 of the tile's row
    // (i·THREADS + thread) / BK4.
    var rows: array<Row, LOADS_A>;
    var columns: array<u32, LOADS_B>;
    for (var i = 0u; i < LOADS_A; i++) { // unroll
        let r = (i * THREADS + thread) / BK4;
        rows[i] = row_at(select(NOTHING, m0 + r, r < BM && m0 + r < p.m));
    }
    for (var i = 0u; i < LOADS_B; i++) { // unroll
        let r = (i * THREADS + thread) / BK4;
        columns[i] = NOTHING;
        if (r < BN) {
            columns[i] = weight_row(n0, r);
        }
    }

    var next_a: array<vec4<f16>, LOADS_A>;
    var next_b: array<vec4<f16>, LOADS_B>;
    var sums: array<array<Sums, FN>, FM>;
    let row0 = subgroup / GN * FM * SIDE;
    let column0 = subgroup % GN * FN * SIDE;
    let steps = (p.k4 + BK4 - 1u) / BK4;
    for (var step = 0u; step <= steps; step++) {
        let buffer_a = step % BUFFERS * BM * STEP;
        let buffer_b = step % BUFFERS * BN * STEP;
        if (step > 0u) {
            for (var i = 0u; i < LOADS_A; i++) { // unroll
                let at = i * THREADS + thread;
                if (at < BM * BK4) {
                    tile_a[buffer_a + at / BK4 * STEP + at % BK4] = next_a[i];
                }
            }
            for (var i = 0u; i < LOADS_B; i++) { // unroll
                let at = i * THREADS + thread;
                if (at < BN * BK4) {
                    tile_b[buffer_b + at / BK4 * STEP + at % BK4] = next_b[i];
                }
            }
        }
        workgroupBarrier();
        if (step < steps) {
            for (var i = 0u; i < LOADS_A; i++) { // unroll
                let k4 = step * BK4 + (i * THREADS + thread) % BK4;
                next_a[i] = vec4<f16>();
                if (k4 < p.k4) {
                    next_a[i] = operand(rows[i], 4u * k4);
                }
            }
            for (var i = 0u; i < LOADS_B; i++) { // unroll
                let k4 = step * BK4 + (i * THREADS + thread) % BK4;
                next_b[i] = vec4<f16>();
                if (k4 < p.k4 && columns[i] != NOTHING) {
                    next_b[i] = vec4<f16>(weight4(columns[i], k4, p.stride) * p.weight_unit);
                }
            }
        }
        if (step > 0u) {
            for (var k = 0u; k < KF; k++) { // unroll
                var a: array<Left, FM>;
                for (var i = 0u; i < FM; i++) { // unroll
                    a[i] = coopLoadT<Left>(&tile_a[buffer_a + (row0 + i * SIDE) * STEP + k * (SIDE / 4u)], STEP);
                }
                for (var j = 0u; j < FN; j++) { // unroll
                    let b = coopLoad<Right>(&tile_b[buffer_b + (column0 + j * SIDE) * STEP + k * (SIDE / 4u)], STEP);
                    for (var i = 0u; i < FM; i++) { // unroll
                        sums[i][j] = coopMultiplyAdd(a[i], b, sums[i][j]);
                    }
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
