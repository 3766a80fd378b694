// attention: softmax(q·kᵀ/√D + mask)·v for every head of a fused projection, with an online
// softmax.
//
// qkv[b, t] lists the query heads, the key heads and the value heads; head h reads key head h /
// (HQ/HKV). A workgroup takes BQ queries of one head and walks over the keys 64 at a time. For
// every query it keeps the row_max score m so far and, relative to it, the sum l of the weights and
// the weighted sum o of the values:
//   s = q·kᵀ, m' = max(m, s), w = exp((s − m')/√D), l = l·exp((m − m')/√D) + Σ w, o = o·exp((m −
// m')/√D) + w·v,
// and out = o/l. Keys past the item's length, or after the query with CAUSAL, have the weight 0.
//
// 16×8 threads: thread (x, y) has the queries y·RQ …, the scores of keys 4x … 4x + 3, and the
// values' columns 4x … 4x + 3 of every 64. q and k, then v, pass through `tile`, sixteen columns or
// sixteen keys at a time; the weights pass through `weight`.
//
// Groups: ⌈T/BQ⌉·HQ·B, tiles of queries first. Constants: HEAD (D), RQ (queries a thread), OV
// (⌈D/64⌉), CAUSAL, HAS_LENGTHS.

#import shared/dispatch
#import shared/input

const HEAD: u32 = 128u;
const RQ: u32 = 4u;
const OV: u32 = 2u;
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

const BQ: u32 = 8u * RQ;
const BK: u32 = 64u;
// Vectors of four columns in a tile of q and k, and the length of its rows.
const STEPS: u32 = 4u;
const STEP: u32 = STEPS + 1u;
const HEAD4: u32 = (HEAD + 3u) / 4u;
const NEG_INF: f32 = -3.0e38;

var<workgroup> tile: array<Value4, (BQ + BK) * STEP>;
var<workgroup> weight: array<vec4f, BQ * BK / 4u>;

fn head4(start: u32, c4: u32) -> Value4 {
    return x4(start + 4u * c4, HEAD - 4u * c4);
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let q_tiles = (p.tokens + BQ - 1u) / BQ;
    let at = workgroup_index(group, groups);
    let first = at % q_tiles * BQ;
    let head = at / q_tiles % p.query_heads;
    let item = at / q_tiles / p.query_heads;
    if (item >= p.items) {
        return;
    }
    let width = (p.query_heads + 2u * p.key_heads) * HEAD;
    let base = item * p.tokens * width;
    let key_head = head / (p.query_heads / p.key_heads);
    let q_base = base + head * HEAD;
    let k_base = base + (p.query_heads + key_head) * HEAD;
    let v_base = k_base + p.key_heads * HEAD;

    var keys = p.tokens;
    if (HAS_LENGTHS) {
        keys = clamp(lengths[item], 1u, p.tokens);
    }
    // The keys that any query of this tile attends to.
    var seen = keys;
    if (CAUSAL) {
        seen = min(keys, first + BQ);
    }

    let scale = p.scale * x_scale() * x_scale();
    let tx = thread % 16u;
    let ty = thread / 16u;
    var row_max: array<f32, RQ>;
    var row_sum: array<f32, RQ>;
    var o: array<array<vec4f, OV>, RQ>;
    for (var r = 0u; r < RQ; r++) {
        row_max[r] = NEG_INF;
        row_sum[r] = 0.0;
        for (var c = 0u; c < OV; c++) {
            o[r][c] = vec4f();
        }
    }

    for (var k0 = 0u; k0 < seen; k0 += BK) {
        // Scores. Key 4x + j is row BQ + 16·j + x of the tile, so that 16 threads read 16 adjacent
        // rows.
        var s: array<vec4f, RQ>;
        for (var r = 0u; r < RQ; r++) {
            s[r] = vec4f();
        }
        for (var c0 = 0u; c0 < HEAD4; c0 += STEPS) {
            for (var i = thread; i < (BQ + BK) * STEPS; i += 128u) {
                let row = i / STEPS;
                let c4 = c0 + i % STEPS;
                var v = Value4();
                if (c4 < HEAD4) {
                    if (row < BQ) {
                        if (first + row < p.tokens) {
                            v = head4(q_base + (first + row) * width, c4);
                        }
                    } else {
                        let key = k0 + (row - BQ) % 16u * 4u + (row - BQ) / 16u;
                        if (key < keys) {
                            v = head4(k_base + key * width, c4);
                        }
                    }
                }
                tile[row * STEP + i % STEPS] = v;
            }
            workgroupBarrier();
            for (var c = 0u; c < STEPS; c++) {
                let ka = vec4f(tile[(BQ + tx) * STEP + c]);
                let kb = vec4f(tile[(BQ + 16u + tx) * STEP + c]);
                let kc = vec4f(tile[(BQ + 32u + tx) * STEP + c]);
                let kd = vec4f(tile[(BQ + 48u + tx) * STEP + c]);
                for (var r = 0u; r < RQ; r++) {
                    let q = vec4f(tile[(ty * RQ + r) * STEP + c]);
                    s[r] += vec4f(dot(q, ka), dot(q, kb), dot(q, kc), dot(q, kd));
                }
            }
            workgroupBarrier();
        }

        // The largest score of each row: every thread reads all scores of its rows.
        let key = vec4u(k0 + 4u * tx) + vec4u(0u, 1u, 2u, 3u);
        var visible: array<vec4<bool>, RQ>;
        for (var r = 0u; r < RQ; r++) {
            visible[r] = key < vec4u(keys);
            if (CAUSAL) {
                visible[r] = visible[r] & (key <= vec4u(first + ty * RQ + r));
            }
            s[r] = select(vec4f(NEG_INF), s[r], visible[r]);
            weight[(ty * RQ + r) * 16u + tx] = s[r];
        }
        workgroupBarrier();
        for (var r = 0u; r < RQ; r++) {
            var m = vec4f(row_max[r]);
            for (var i = 0u; i < 16u; i++) {
                m = max(m, weight[(ty * RQ + r) * 16u + i]);
            }
            let now = max(max(m.x, m.y), max(m.z, m.w));
            let rescale = exp((row_max[r] - now) * scale);
            row_max[r] = now;
            s[r] = select(vec4f(), exp((s[r] - now) * scale), visible[r]);
            // The thread's part of the sum. The parts are added at the end.
            row_sum[r] = row_sum[r] * rescale + dot(s[r], vec4f(1.0));
            for (var c = 0u; c < OV; c++) {
                o[r][c] *= rescale;
            }
        }
        workgroupBarrier();
        for (var r = 0u; r < RQ; r++) {
            weight[(ty * RQ + r) * 16u + tx] = s[r];
        }

        // Values: sixteen keys by 64 columns at a time.
        for (var c = 0u; c < OV; c++) {
            for (var part = 0u; part < 4u; part++) {
                workgroupBarrier();
                for (var i = thread; i < 256u; i += 128u) {
                    let value = k0 + part * 16u + i / 16u;
                    let c4 = c * 16u + i % 16u;
                    var v = Value4();
                    if (value < keys && c4 < HEAD4) {
                        v = head4(v_base + value * width, c4);
                    }
                    tile[i] = v;
                }
                workgroupBarrier();
                for (var k = 0u; k < 4u; k++) {
                    let va = vec4f(tile[(4u * k) * 16u + tx]);
                    let vb = vec4f(tile[(4u * k + 1u) * 16u + tx]);
                    let vc = vec4f(tile[(4u * k + 2u) * 16u + tx]);
                    let vd = vec4f(tile[(4u * k + 3u) * 16u + tx]);
                    for (var r = 0u; r < RQ; r++) {
                        let w = weight[(ty * RQ + r) * 16u + part * 4u + k];
                        o[r][c] += w.x * va + w.y * vb + w.z * vc + w.w * vd;
                    }
                }
            }
        }
        workgroupBarrier();
    }

    for (var r = 0u; r < RQ; r++) {
        weight[(ty * RQ + r) * 16u + tx] = vec4f(row_sum[r], 0.0, 0.0, 0.0);
    }
    workgroupBarrier();
    for (var r = 0u; r < RQ; r++) {
        var l = 0.0;
        for (var i = 0u; i < 16u; i++) {
            l += weight[(ty * RQ + r) * 16u + i].x;
        }
        let token = first + ty * RQ + r;
        if (token < p.tokens) {
            let row = ((item * p.tokens + token) * p.query_heads + head) * HEAD;
            for (var c = 0u; c < OV; c++) {
                let column = c * 64u + 4u * tx;
                let v = o[r][c] * x_scale() / l;
                for (var j = 0u; j < 4u; j++) {
                    if (column + j < HEAD) {
                        out[row + column + j] = v[j];
                    }
                }
            }
        }
    }
}
