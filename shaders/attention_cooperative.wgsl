// attention on cooperative matrices: softmax(q·kᵀ/√D + mask)·v for every head of a fused projection in halves.
//
// A workgroup takes BQ queries of one head and walks over the keys BK at a time. Each subgroup makes SF matrices of the
// scores and CF·CHUNKS matrices of the output o, both of the same SIDE queries; ACROSS subgroups share these. The scores
// pass through workgroup memory as F32, where TEAM threads a query turn them into weights, in halves, for the product
// with the values.
//
// Heads of one chunk keep their queries in registers, and read the next keys while the present ones are multiplied,
// then the next values: three barriers for BK keys. Wider heads pass through `tile` CHUNK columns at a time, queries and
// keys side by side, then values.
//
// The softmax is online: weights are relative to a score `base`, w = 2^(s − base), and l sums them. A matrix cannot be
// scaled row by row but on a detour through workgroup memory. So the base stays until a score passes it by SLACK, which
// halves hold without loss, and only then o and l are brought to the new base; the quotient o/l never sees it.
//
// Groups: ⌈T/BQ⌉·HQ·B, blocks of queries first. Constants: HEAD (D), SUBGROUPS, LANES, QF and KF (matrices of queries and
// of keys at a time), CHUNK, CHUNKS, ROWS (of `tile`), TURNS (in which it is filled with queries), DF (matrices in a
// chunk), SF, CF, LOADS (fours of BK rows a thread), CAUSAL, HAS_LENGTHS.

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
// A matrix, a row of a chunk, and one of the weights, in fours. Rows are one or two fours longer than they need be: they
// start on 16 bytes, and neighbours meet different banks.
const SIDE4: u32 = SIDE / 4u;
const CHUNK4: u32 = CHUNK / 4u;
const KEYS4: u32 = BK / 4u;
const TILE_STEP: u32 = CHUNK4 + 2u;
const WEIGHT_STEP: u32 = KEYS4 + 2u;
// The same of the scores, in values.
const SCORE_STEP: u32 = BK + 4u;
// Queries that `tile` takes at a time.
const TURN_ROWS: u32 = BQ / TURNS;
// Where the values stand in `tile`, behind the keys.
const VALUES: u32 = BK * TILE_STEP;
const HIDDEN: f32 = -3.0e38;
const LOG2_E: f32 = 1.4426950408889634;
const SLACK: f32 = 8.0;

var<workgroup> tile: array<vec4<f16>, ROWS * TILE_STEP>;
var<workgroup> scores: array<f32, BQ * SCORE_STEP>;
var<workgroup> weights: array<vec4<f16>, BQ * WEIGHT_STEP>;
// What a query's part of o is to be multiplied by, and each thread's part of l.
var<workgroup> fade: array<f32, BQ>;
var<workgroup> sums: array<f32, THREADS>;
// Whether a thread of this subgroup raised its base.
var<workgroup> raised: array<u32, SUBGROUPS>;

// Rows `first`, … of a head, one chunk wide: where they start, how far they are apart, and how many there are.
struct Rows {
    start: u32,
    width: u32,
    count: u32,
}

// Four values of a row, zeros where there is none; `at` counts fours of a chunk.
fn four(rows: Rows, first: u32, at: u32) -> vec4<f16> {
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
        put(to, at, four(rows, first, at));
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
    let blocks = (p.tokens + BQ - 1u) / BQ;
    let at = flat(group, groups);
    let first = at % blocks * BQ;
    let head = at / blocks % p.query_heads;
    let item = at / blocks / p.query_heads;
    if (item >= p.items) {
        return;
    }
    var keys = p.tokens;
    if (HAS_LENGTHS) {
        keys = clamp(lengths[item], 1u, p.tokens);
    }
    // The keys that any query of this block sees.
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
    let score_unit = x_unit() * x_unit() * p.scale * LOG2_E;

    // This subgroup's queries, and its part of what they share.
    let row0 = subgroup / ACROSS * SIDE;
    let part = subgroup % ACROSS;
    // Where its matrices pass through the memory of the scores.
    let strip = subgroup * AREA;
    // This thread's query.
    let query = thread / TEAM;
    let member = thread % TEAM;
    var base = HIDDEN;
    var l = 0.0;

    var q: array<Left, DF>;
    var o: array<array<Sums, CF>, CHUNKS>;
    var next: array<vec4<f16>, LOADS>;
    if (CHUNKS == 1u) {
        for (var turn = 0u; turn < TURNS; turn++) { // unroll
            load(0u, q_rows, first + turn * TURN_ROWS, TURN_ROWS, thread);
            workgroupBarrier();
            if (row0 / TURN_ROWS == turn) {
                for (var d = 0u; d < DF; d++) { // unroll
                    q[d] = coopLoadT<Left>(&tile[row0 % TURN_ROWS * TILE_STEP + d * SIDE4], TILE_STEP);
                }
            }
            workgroupBarrier();
        }
        load(0u, k_rows, 0u, BK, thread);
        for (var i = 0u; i < LOADS; i++) { // unroll
            next[i] = four(v_rows, 0u, i * THREADS + thread);
        }
    }

    for (var k0 = 0u; k0 < seen; k0 += BK) {
        var s: array<Sums, SF>;
        workgroupBarrier();
        if (CHUNKS == 1u) {
            for (var i = 0u; i < LOADS; i++) { // unroll
                if (i * THREADS + thread < BK * CHUNK4) {
                    put(VALUES, i * THREADS + thread, next[i]);
                }
                next[i] = four(k_rows, k0 + BK, i * THREADS + thread);
            }
        }
        for (var c = 0u; c < CHUNKS; c++) { // unroll
            if (CHUNKS > 1u) {
                if (c > 0u) {
                    workgroupBarrier();
                }
                load(0u, Rows(k_start + c * CHUNK, width, keys), k0, BK, thread);
                load(VALUES, Rows(q_start + c * CHUNK, width, p.tokens), first, BQ, thread);
                workgroupBarrier();
                for (var d = 0u; d < DF; d++) { // unroll
                    q[d] = coopLoadT<Left>(&tile[VALUES + row0 * TILE_STEP + d * SIDE4], TILE_STEP);
                }
            }
            for (var d = 0u; d < DF; d++) { // unroll
                for (var j = 0u; j < SF; j++) { // unroll
                    let k = coopLoad<Right>(&tile[(part * SF + j) * SIDE * TILE_STEP + d * SIDE4], TILE_STEP);
                    s[j] = coopMultiplyAdd(q[d], k, s[j]);
                }
            }
        }
        for (var j = 0u; j < SF; j++) { // unroll
            coopStoreT(s[j], &scores[row0 * SCORE_STEP + (part * SF + j) * SIDE], SCORE_STEP);
        }
        workgroupBarrier();

        // Everybody of a team sees all scores of its query, and turns its own part of them into weights.
        var most = vec4f(HIDDEN);
        for (var i = 0u; i < KEYS4; i++) {
            most = max(most, shown(k0 + 4u * i, keys, first + query, score4(query * SCORE_STEP + 4u * i) * score_unit));
        }
        let now = max(max(most.x, most.y), max(most.z, most.w));
        var change = 1.0;
        if (k0 == 0u) {
            base = now;
        } else if (now > base + SLACK) {
            change = exp2(base - now);
            base = now;
        }
        l *= change;
        if (member == 0u) {
            fade[query] = change;
        }
        let any = subgroupAny(change != 1.0);
        if (lane == 0u) {
            raised[subgroup] = select(0u, 1u, any);
        }
        for (var i = member; i < KEYS4; i += TEAM) {
            let score = shown(k0 + 4u * i, keys, first + query, score4(query * SCORE_STEP + 4u * i) * score_unit);
            let w = select(exp2(score - base), vec4f(), score == vec4f(HIDDEN));
            l += dot(w, vec4f(1.0));
            weights[query * WEIGHT_STEP + i] = vec4<f16>(w);
        }
        if (CHUNKS == 1u) {
            for (var i = 0u; i < LOADS; i++) { // unroll
                if (i * THREADS + thread < BK * CHUNK4) {
                    put(0u, i * THREADS + thread, next[i]);
                }
                next[i] = four(v_rows, k0 + BK, i * THREADS + thread);
            }
        }
        workgroupBarrier();
        var rises = 0u;
        for (var i = 0u; i < SUBGROUPS; i++) {
            rises += raised[i];
        }
        if (rises > 0u) {
            for (var c = 0u; c < CHUNKS; c++) { // unroll
                for (var j = 0u; j < CF; j++) { // unroll
                    coopStoreT(o[c][j], &scores[strip], SIDE);
                    workgroupBarrier();
                    for (var e = lane; e < AREA; e += LANES) {
                        scores[strip + e] *= fade[row0 + e / SIDE];
                    }
                    workgroupBarrier();
                    o[c][j] = coopLoadT<Sums>(&scores[strip], SIDE);
                    workgroupBarrier();
                }
            }
        }

        for (var c = 0u; c < CHUNKS; c++) { // unroll
            if (CHUNKS > 1u) {
                if (c > 0u) {
                    workgroupBarrier();
                }
                load(VALUES, Rows(v_start + c * CHUNK, width, keys), k0, BK, thread);
                workgroupBarrier();
            }
            for (var k = 0u; k < KF; k++) { // unroll
                let w = coopLoadT<Left>(&weights[row0 * WEIGHT_STEP + k * SIDE4], WEIGHT_STEP);
                for (var j = 0u; j < CF; j++) { // unroll
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
        fade[query] = x_unit() / total;
    }
    for (var c = 0u; c < CHUNKS; c++) { // unroll
        for (var j = 0u; j < CF; j++) { // unroll
            coopStoreT(o[c][j], &scores[strip], SIDE);
            workgroupBarrier();
            for (var e = lane; e < AREA; e += LANES) {
                let row = row0 + e / SIDE;
                let token = first + row;
                if (token < p.tokens) {
                    let column = c * CHUNK + (part * CF + j) * SIDE + e % SIDE;
                    out[((item * p.tokens + token) * p.query_heads + head) * HEAD + column] = scores[strip + e] * fade[row];
                }
            }
            workgroupBarrier();
        }
    }
}

// Scores of the keys from `key` on, HIDDEN where `query` does not see them.
fn shown(key: u32, keys: u32, query: u32, scores: vec4f) -> vec4f {
    let at = vec4u(key) + vec4u(0u, 1u, 2u, 3u);
    var there = at < vec4u(keys);
    if (CAUSAL) {
        there = there & (at <= vec4u(query));
    }
    return select(vec4f(HIDDEN), scores, there);
}
