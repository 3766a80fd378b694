// attention on cooperative matrices: softmax(q·kᵀ/√D + mask)·v for every head of a fused projection
// in F16.
//
// A workgroup takes BQ queries of one head and walks over the keys BK at a time. Each subgroup
// computes SF matrices of the scores and CF·CHUNKS matrices of the output o, both of the same SIDE
// queries; ACROSS subgroups share these. The scores pass through workgroup memory as F32, where
// TEAM threads a query turn them into F16 weights for the product with the values.
//
// Heads of one chunk keep their queries in registers, and read the next keys while the current ones
// are multiplied, then the next values: three barriers for BK keys. Wider heads pass through `tile`
// CHUNK columns at a time, queries and keys side by side, then values.
//
// The softmax is online: weights are relative to a score `base`, w = 2^(s − base), and l sums them.
// Scaling a matrix row by row takes a detour through workgroup memory. So the base stays until a
// score exceeds it by RESCALE_THRESHOLD, which F16 represents without loss, and only then o and l
// are rescaled to the new base. The quotient o/l does not depend on it.
//
// Groups: ⌈T/BQ⌉·HQ·B, tiles of queries first. Constants: HEAD (D), SUBGROUPS, LANES, QF and KF
// (matrices of queries and of keys at a time), CHUNK, CHUNKS, ROWS (of `tile`), TURNS (in which it
// is filled with queries), DF (matrices in a chunk), SF, CF, LOADS (vectors of BK rows a thread),
// CAUSAL, HAS_LENGTHS.

#import shared/cooperative
#import shared/dispatch
#import shared/input

const HEAD: u32 = 128u;
const SUBGROUPS: u32 = 8u;
const LANES: u32 = 32u;
const QF: u32 = 8u;
const KF: u32 = 2u;
const CHUNK: u32 = 128u;
const CHUNKS: u32 = 1u;
const ROWS: u32 = 64u;
const TURNS: u32 = 2u;
const DF: u32 = 8u;
const SF: u32 = 2u;
const CF: u32 = 8u;
const LOADS: u32 = 4u;
const CAUSAL: bool = false;
const HAS_LENGTHS: bool = false;

struct Params {
    tokens: u32,
    query_heads: u32,
    key_heads: u32,
    items: u32,
    // 1/√D.
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> lengths: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

const THREADS: u32 = SUBGROUPS * LANES;
const ACROSS: u32 = SUBGROUPS / QF;
const BQ: u32 = QF * SIDE;
const BK: u32 = KF * SIDE;
const TEAM: u32 = THREADS / BQ;
const AREA: u32 = SIDE * SIDE;
// The widths of a matrix, a chunk and the weights, in vectors of four. Rows are one or two vectors
// longer than their values: they start on 16 bytes, and neighbours hit different banks.
const SIDE4: u32 = SIDE / 4u;
const CHUNK4: u32 = CHUNK / 4u;
const KEYS4: u32 = BK / 4u;
const TILE_STEP: u32 = CHUNK4 + 2u;
const WEIGHT_STEP: u32 = KEYS4 + 2u;
// The length of a row of scores, in values.
const SCORE_STEP: u32 = BK + 4u;
// Queries that `tile` takes at a time.
const TURN_ROWS: u32 = BQ / TURNS;
// The start of the values in `tile`, behind the keys.
const VALUES: u32 = BK * TILE_STEP;
const NEG_INF: f32 = -3.0e38;
const LOG2E: f32 = 1.4426950408889634;
const RESCALE_THRESHOLD: f32 = 8.0;

var<workgroup> tile: array<vec4<f16>, ROWS * TILE_STEP>;
var<workgroup> scores: array<f32, BQ * SCORE_STEP>;
var<workgroup> weights: array<vec4<f16>, BQ * WEIGHT_STEP>;
// The factor for each query's rows of o, and each thread's part of l.
var<workgroup> rescale: array<f32, BQ>;
var<workgroup> sums: array<f32, THREADS>;
// Whether a thread of this subgroup raised its base.
var<workgroup> raised: array<u32, SUBGROUPS>;

// Rows of a head, one chunk wide: their start, their distance and their number.
struct Rows {
    start: u32,
    width: u32,
    count: u32,
}

// Four values of a row, zeros past the last row. `at` counts vectors of a chunk.
fn vec4_at(rows: Rows, first: u32, at: u32) -> vec4<f16> {
    let row = first + at / CHUNK4;
    if (row < rows.count) {
        return x4(rows.start + row * rows.width + at % CHUNK4 * 4u, 4u);
    }
    return vec4<f16>();
}

fn put(to: u32, at: u32, v: vec4<f16>) {
    tile[to + at / CHUNK4 * TILE_STEP + at % CHUNK4] = v;
}

fn load(to: u32, rows: Rows, first: u32, count: u32, thread: u32) {
    for (var at = thread; at < count * CHUNK4; at += THREADS) {
        put(to, at, vec4_at(rows, first, at));
    }
}

fn score4(at: u32) -> vec4f {
    return vec4f(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let q_tiles = (p.tokens + BQ - 1u) / BQ;
    let at = workgroup_index(group, groups);
    let first = at % q_tiles * BQ;
    let head = at / q_tiles % p.query_heads;
    let item = at / q_tiles / p.query_heads;
    if (item >= p.items) {
        return;
    }
    var keys = p.tokens;
    if (HAS_LENGTHS) {
        keys = clamp(lengths[item], 1u, p.tokens);
    }
    // The keys that any query of this tile attends to.
    var seen = keys;
    if (CAUSAL) {
        seen = min(keys, first + BQ);
    }
    let width = (p.query_heads + 2u * p.key_heads) * HEAD;
    let q_start = item * p.tokens * width + head * HEAD;
    let k_start = item * p.tokens * width + (p.query_heads + head / (p.query_heads / p.key_heads)) * HEAD;
    let v_start = k_start + p.key_heads * HEAD;
    let q_rows = Rows(q_start, width, p.tokens);
    let k_rows = Rows(k_start, width, keys);
    let v_rows = Rows(v_start, width, keys);
    let score_scale = x_scale() * x_scale() * p.scale * LOG2E;

    // This subgroup's queries, and its part of what they share.
    let row0 = subgroup / ACROSS * SIDE;
    let part = subgroup % ACROSS;
    // The start of this subgroup's matrix in `scores`.
    let strip = subgroup * AREA;
    // This thread's query.
    let query = thread / TEAM;
    let member = thread % TEAM;
    var base = NEG_INF;
    var l = 0.0;

    var q: array<Left, DF>;
    var o: array<array<Sums, CF>, CHUNKS>;
    var next: array<vec4<f16>, LOADS>;
    if (CHUNKS == 1u) {
        #unroll
        for (var turn = 0u; turn < TURNS; turn++) {
            load(0u, q_rows, first + turn * TURN_ROWS, TURN_ROWS, thread);
            workgroupBarrier();
            if (row0 / TURN_ROWS == turn) {
                #unroll
                for (var d = 0u; d < DF; d++) {
                    q[d] = coopLoadT<Left>(&tile[row0 % TURN_ROWS * TILE_STEP + d * SIDE4], TILE_STEP);
                }
            }
            workgroupBarrier();
        }
        load(0u, k_rows, 0u, BK, thread);
        #unroll
        for (var i = 0u; i < LOADS; i++) {
            next[i] = vec4_at(v_rows, 0u, i * THREADS + thread);
        }
    }

    for (var k0 = 0u; k0 < seen; k0 += BK) {
        var s: array<Sums, SF>;
        workgroupBarrier();
        if (CHUNKS == 1u) {
            #unroll
            for (var i = 0u; i < LOADS; i++) {
                if (i * THREADS + thread < BK * CHUNK4) {
                    put(VALUES, i * THREADS + thread, next[i]);
                }
                next[i] = vec4_at(k_rows, k0 + BK, i * THREADS + thread);
            }
        }
        #unroll
        for (var c = 0u; c < CHUNKS; c++) {
            if (CHUNKS > 1u) {
                if (c > 0u) {
                    workgroupBarrier();
                }
                load(0u, Rows(k_start + c * CHUNK, width, keys), k0, BK, thread);
                load(VALUES, Rows(q_start + c * CHUNK, width, p.tokens), first, BQ, thread);
                workgroupBarrier();
                #unroll
                for (var d = 0u; d < DF; d++) {
                    q[d] = coopLoadT<Left>(&tile[VALUES + row0 * TILE_STEP + d * SIDE4], TILE_STEP);
                }
            }
            #unroll
            for (var d = 0u; d < DF; d++) {
                #unroll
                for (var j = 0u; j < SF; j++) {
                    let k = coopLoad<Right>(&tile[(part * SF + j) * SIDE * TILE_STEP + d * SIDE4], TILE_STEP);
                    s[j] = coopMultiplyAdd(q[d], k, s[j]);
                }
            }
        }
        #unroll
        for (var j = 0u; j < SF; j++) {
            coopStoreT(s[j], &scores[row0 * SCORE_STEP + (part * SF + j) * SIDE], SCORE_STEP);
        }
        workgroupBarrier();

        // Every thread of a team reads all scores of its query, and turns its own part of them into
        // weights.
        var row_max = vec4f(NEG_INF);
        for (var i = 0u; i < KEYS4; i++) {
            row_max = max(row_max, masked(k0 + 4u * i, keys, first + query, score4(query * SCORE_STEP + 4u * i) * score_scale));
        }
        let now = max(max(row_max.x, row_max.y), max(row_max.z, row_max.w));
        var change = 1.0;
        if (k0 == 0u) {
            base = now;
        } else if (now > base + RESCALE_THRESHOLD) {
            change = exp2(base - now);
            base = now;
        }
        l *= change;
        if (member == 0u) {
            rescale[query] = change;
        }
        let any = subgroupAny(change != 1.0);
        if (lane == 0u) {
            raised[subgroup] = select(0u, 1u, any);
        }
        for (var i = member; i < KEYS4; i += TEAM) {
            let score = masked(k0 + 4u * i, keys, first + query, score4(query * SCORE_STEP + 4u * i) * score_scale);
            let w = select(exp2(score - base), vec4f(), score == vec4f(NEG_INF));
            l += dot(w, vec4f(1.0));
            weights[query * WEIGHT_STEP + i] = vec4<f16>(w);
        }
        if (CHUNKS == 1u) {
            #unroll
            for (var i = 0u; i < LOADS; i++) {
                if (i * THREADS + thread < BK * CHUNK4) {
                    put(0u, i * THREADS + thread, next[i]);
                }
                next[i] = vec4_at(v_rows, k0 + BK, i * THREADS + thread);
            }
        }
        workgroupBarrier();
        var rises = 0u;
        for (var i = 0u; i < SUBGROUPS; i++) {
            rises += raised[i];
        }
        if (rises > 0u) {
            #unroll
            for (var c = 0u; c < CHUNKS; c++) {
                #unroll
                for (var j = 0u; j < CF; j++) {
                    coopStoreT(o[c][j], &scores[strip], SIDE);
                    workgroupBarrier();
                    for (var e = lane; e < AREA; e += LANES) {
                        scores[strip + e] *= rescale[row0 + e / SIDE];
                    }
                    workgroupBarrier();
                    o[c][j] = coopLoadT<Sums>(&scores[strip], SIDE);
                    workgroupBarrier();
                }
            }
        }

        #unroll
        for (var c = 0u; c < CHUNKS; c++) {
            if (CHUNKS > 1u) {
                if (c > 0u) {
                    workgroupBarrier();
                }
                load(VALUES, Rows(v_start + c * CHUNK, width, keys), k0, BK, thread);
                workgroupBarrier();
            }
            #unroll
            for (var k = 0u; k < KF; k++) {
                let w = coopLoadT<Left>(&weights[row0 * WEIGHT_STEP + k * SIDE4], WEIGHT_STEP);
                #unroll
                for (var j = 0u; j < CF; j++) {
                    let v = coopLoadT<Right>(&tile[VALUES + k * SIDE * TILE_STEP + (part * CF + j) * SIDE4], TILE_STEP);
                    o[c][j] = coopMultiplyAdd(w, v, o[c][j]);
                }
            }
        }
    }

    sums[thread] = l;
    workgroupBarrier();
    if (member == 0u) {
        var total = 0.0;
        for (var i = 0u; i < TEAM; i++) {
            total += sums[thread + i];
        }
        rescale[query] = x_scale() / total;
    }
    #unroll
    for (var c = 0u; c < CHUNKS; c++) {
        #unroll
        for (var j = 0u; j < CF; j++) {
            coopStoreT(o[c][j], &scores[strip], SIDE);
            workgroupBarrier();
            for (var e = lane; e < AREA; e += LANES) {
                let row = row0 + e / SIDE;
                let token = first + row;
                if (token < p.tokens) {
                    let column = c * CHUNK + (part * CF + j) * SIDE + e % SIDE;
                    out[((item * p.tokens + token) * p.query_heads + head) * HEAD + column] = scores[strip + e] * rescale[row];
                }
            }
            workgroupBarrier();
        }
    }
}

// Scores of the keys from `key` on, NEG_INF where `query` does not attend to them.
fn masked(key: u32, keys: u32, query: u32, scores: vec4f) -> vec4f {
    let at = vec4u(key) + vec4u(0u, 1u, 2u, 3u);
    var there = at < vec4u(keys);
    if (CAUSAL) {
        there = there & (at <= vec4u(query));
    }
    return select(vec4f(NEG_INF), scores, there);
}
