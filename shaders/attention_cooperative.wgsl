// attention on cooperative matrices: softmax(q·kᵀ/√D + mask)·v for every head of a fused projection in halves.
//
// A workgroup takes BQ queries of one head and walks over the keys BK at a time. Each subgroup makes SF matrices of the
// scores and CF·CHUNKS matrices of the output o, both of the same SIDE queries; ACROSS subgroups share these. The scores
// pass through workgroup memory as F32, where TEAM threads a query turn them into weights, in halves, for the product
// with the values. k, then v, pass through `tile`, CHUNK columns at a time.
//
// The softmax is online: weights are relative to a score `base`, w = 2^(s − base), and l sums them. A matrix cannot be
// scaled row by row but on a detour through workgroup memory. So the base stays until a score passes it by SLACK, which
// halves hold without loss, and only then o and l are brought to the new base; the quotient o/l never sees it.
//
// Groups: ⌈T/BQ⌉·HQ·B, blocks of queries first. Constants: HEAD (D), SUBGROUPS, LANES, QF and KF (matrices of queries and
// of keys at a time), CHUNK, CHUNKS, DF (matrices in a chunk), SF, CF, ROUNDS (⌈BQ/BK⌉), CAUSAL, HAS_LENGTHS.

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
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;

const THREADS: u32 = SUBGROUPS * LANES;
const ACROSS: u32 = SUBGROUPS / QF;
const BQ: u32 = QF * SIDE;
const BK: u32 = KF * SIDE;
const TEAM: u32 = THREADS / BQ;
// A matrix, and the rows of a chunk, of scores and of weights, in fours. Rows are one or two fours longer than they need
// be, so that neighbours meet different banks.
const SIDE4: u32 = SIDE / 4u;
const CHUNK4: u32 = CHUNK / 4u;
const KEYS4: u32 = BK / 4u;
const TILE_STEP: u32 = CHUNK4 + 2u;
const SCORE_STEP: u32 = KEYS4 + 1u;
const WEIGHT_STEP: u32 = KEYS4 + 2u;
const HIDDEN: f32 = -3.0e38;
const LOG2_E: f32 = 1.4426950408889634;
const SLACK: f32 = 8.0;

var<workgroup> tile: array<vec4<f16>, BK * TILE_STEP>;
var<workgroup> scores: array<vec4f, BQ * SCORE_STEP>;
var<workgroup> weights: array<vec4<f16>, BQ * WEIGHT_STEP>;
// What a query's part of o is to be multiplied by, and each thread's part of l.
var<workgroup> fade: array<f32, BQ>;
var<workgroup> sums: array<f32, THREADS>;
// The last step at which a base had to be raised.
var<workgroup> raised: atomic<u32>;

// Rows `first`, … of a head, `count` of them there, one chunk wide, into the tile; zeros behind.
fn load_rows(start: u32, width: u32, first: u32, count: u32, thread: u32) {
    for (var i = thread; i < BK * CHUNK4; i += THREADS) {
        let row = first + i / CHUNK4;
        var v = vec4<f16>();
        if (row < count) {
            v = x4(start + row * width + i % CHUNK4 * 4u, 4u);
        }
        tile[i / CHUNK4 * TILE_STEP + i % CHUNK4] = v;
    }
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
    let width = (p.query_heads + 2u * p.key_heads) * HEAD;
    let q_base = item * p.tokens * width + head * HEAD;
    let k_base = item * p.tokens * width + (p.query_heads + head / (p.query_heads / p.key_heads)) * HEAD;
    let v_base = k_base + p.key_heads * HEAD;

    var keys = p.tokens;
    if (HAS_LENGTHS) {
        keys = clamp(lengths[item], 1u, p.tokens);
    }
    // The keys that any query of this block sees.
    var seen = keys;
    if (CAUSAL) {
        seen = min(keys, first + BQ);
    }
    let score_unit = x_unit() * x_unit() * p.scale * LOG2_E;

    // This subgroup's queries, and its part of what they share.
    let row0 = subgroup / ACROSS * SIDE;
    let part = subgroup % ACROSS;
    // Where its matrices pass through the memory of the scores.
    let strip = subgroup * SIDE * SIDE4;
    // This thread's query.
    let query = thread / TEAM;
    let member = thread % TEAM;
    var base = HIDDEN;
    var l = 0.0;

    var q: array<Left, DF>;
    var s: array<Sums, SF>;
    var o: array<array<Sums, CF>, CHUNKS>;
    if (thread == 0u) {
        atomicStore(&raised, 0u);
    }

    for (var k0 = 0u; k0 < seen; k0 += BK) {
        for (var j = 0u; j < SF; j++) { // unroll
            s[j] = Sums();
        }
        for (var c = 0u; c < CHUNKS; c++) { // unroll
            // Queries of one chunk stay in registers; of more, they come again.
            if (CHUNKS > 1u || k0 == 0u) {
                for (var round = 0u; round < ROUNDS; round++) { // unroll
                    workgroupBarrier();
                    load_rows(q_base + c * CHUNK, width, first + round * BK, p.tokens, thread);
                    workgroupBarrier();
                    if (row0 / BK == round) {
                        for (var d = 0u; d < DF; d++) { // unroll
                            q[d] = coopLoadT<Left>(&tile[row0 % BK * TILE_STEP + d * SIDE4], TILE_STEP);
                        }
                    }
                }
            }
            workgroupBarrier();
            load_rows(k_base + c * CHUNK, width, k0, keys, thread);
            workgroupBarrier();
            for (var d = 0u; d < DF; d++) { // unroll
                for (var j = 0u; j < SF; j++) { // unroll
                    let k = coopLoad<Right>(&tile[(part * SF + j) * SIDE * TILE_STEP + d * SIDE4], TILE_STEP);
                    s[j] = coopMultiplyAdd(q[d], k, s[j]);
                }
            }
        }
        for (var j = 0u; j < SF; j++) { // unroll
            coopStoreT(s[j], &scores[row0 * SCORE_STEP + (part * SF + j) * SIDE4], SCORE_STEP);
        }
        workgroupBarrier();

        // Everybody of a team sees all scores of its query, and turns its own part of them into weights.
        var most = vec4f(HIDDEN);
        for (var i = 0u; i < KEYS4; i++) {
            most = max(most, shown(k0 + 4u * i, keys, first + query, scores[query * SCORE_STEP + i] * score_unit));
        }
        let now = max(max(most.x, most.y), max(most.z, most.w));
        var change = 1.0;
        if (k0 == 0u) {
            base = now;
        } else if (now > base + SLACK) {
            change = exp2(base - now);
            base = now;
            atomicStore(&raised, k0);
        }
        l *= change;
        if (member == 0u) {
            fade[query] = change;
        }
        for (var i = member; i < KEYS4; i += TEAM) {
            let score = shown(k0 + 4u * i, keys, first + query, scores[query * SCORE_STEP + i] * score_unit);
            let w = select(exp2(score - base), vec4f(), score == vec4f(HIDDEN));
            l += dot(w, vec4f(1.0));
            weights[query * WEIGHT_STEP + i] = vec4<f16>(w);
        }
        workgroupBarrier();
        if (k0 > 0u && atomicLoad(&raised) == k0) {
            for (var c = 0u; c < CHUNKS; c++) { // unroll
                for (var j = 0u; j < CF; j++) { // unroll
                    coopStoreT(o[c][j], &scores[strip], SIDE4);
                    workgroupBarrier();
                    for (var e = lane; e < SIDE * SIDE4; e += LANES) {
                        scores[strip + e] *= fade[row0 + e / SIDE4];
                    }
                    workgroupBarrier();
                    o[c][j] = coopLoadT<Sums>(&scores[strip], SIDE4);
                    workgroupBarrier();
                }
            }
        }

        for (var c = 0u; c < CHUNKS; c++) { // unroll
            if (c > 0u) {
                workgroupBarrier();
            }
            load_rows(v_base + c * CHUNK, width, k0, keys, thread);
            workgroupBarrier();
            for (var k = 0u; k < KF; k++) { // unroll
                let w = coopLoadT<Left>(&weights[row0 * WEIGHT_STEP + k * SIDE4], WEIGHT_STEP);
                for (var j = 0u; j < CF; j++) { // unroll
                    let v = coopLoadT<Right>(&tile[k * SIDE * TILE_STEP + (part * CF + j) * SIDE4], TILE_STEP);
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
            coopStoreT(o[c][j], &scores[strip], SIDE4);
            workgroupBarrier();
            for (var e = lane; e < SIDE * SIDE4; e += LANES) {
                let row = row0 + e / SIDE4;
                let token = first + row;
                if (token < p.tokens) {
                    let column = c * CHUNK4 + (part * CF + j) * SIDE4 + e % SIDE4;
                    let start = ((item * p.tokens + token) * p.query_heads + head) * (HEAD / 4u);
                    out[start + column] = scores[strip + e] * fade[row];
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
