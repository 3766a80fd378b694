//! The ops on tokens.

use super::super::super::{Branch, Heads, Mask, Modulation, QkNormRope, RmsNorm, RopePairs};
use super::*;

#[test]
fn gather_rows() {
    for (dtype, odd) in [(DType::F32, false), (DType::F32, true), (DType::F16, true), (DType::Bf16, false)] {
        let (rows, width) = (11, 7);
        let (table, values) = stored(&random(1, &[rows, width], 1.0), dtype, odd);
        let ids = [0u32, 10, 3, 3, 9, 0];
        let table = Weight::from(table);
        let ran = both([HostTensor::from_u32(&[2, 3], &ids)], |b, [ids]| {
            b.gather_rows(&block_on(b.upload_table(&table)).unwrap(), ids)
        });
        for (i, &id) in ids.iter().enumerate() {
            for d in 0..width {
                assert_eq!(f64::from(ran.out[i * width + d]), values[id as usize * width + d], "{dtype} {i} {d}");
            }
        }
    }
}

#[test]
fn linear_of_any_shape_type_and_alignment() {
    let shapes: [(&[usize], &[usize], usize); 7] = [
        (&[1], &[1], 1),
        (&[1, 1], &[7], 33),
        (&[2, 3], &[33, 1, 5], 257),
        (&[257], &[8], 5),
        (&[3, 1], &[12, 4, 4], 16),
        // These need more than one panel of about a million elements, alone and before another
        // part.
        (&[2], &[2100], 1000),
        (&[1, 3], &[1100, 9], 1024),
    ];
    let types =
        [(DType::F32, false), (DType::F32, true), (DType::F16, true), (DType::Bf16, false), (DType::Bf16, true)];
    for (i, (tokens, parts, k)) in shapes.into_iter().enumerate() {
        for (j, (dtype, odd)) in types.into_iter().enumerate() {
            for (biased, scale) in [(false, 1.0), (true, 1.0), (true, 1e4)] {
                let case = (tokens, parts, k, dtype, odd, biased, scale);
                let seed = 1000 * (i * 10 + j) as u64;
                let x = random(seed, &[tokens, &[k]].concat(), scale);
                let (mut matrices, mut biases, mut w, mut bias) = (vec![], vec![], vec![], vec![]);
                for (p, &n) in parts.iter().enumerate() {
                    let (matrix, values) = stored(&random(seed + 1 + p as u64, &[n, k], 1.0), dtype, odd);
                    matrices.push(matrix);
                    w.extend(values);
                    let (part, values) = stored(&random(seed + 100 + p as u64, &[n], scale), dtype, odd);
                    biases.push(part);
                    bias.extend(values);
                }
                let layer = linear(&matrices, if biased { &biases } else { &[] });
                let reference = naive_linear(&f64s(&x), &w, biased.then_some(&bias), k);
                let ran = both([x], |b, [x]| {
                    let out = b.linear(x, &layer)?;
                    assert_eq!(out.shape(), [tokens, &[w.len() / k]].concat());
                    Ok(out)
                });
                expect(&case, &ran.out, &reference);
            }
        }
    }
}

#[test]
fn swiglu() {
    let cases = [
        (&[1, 1][..], 1, 1, DType::F32, 1.0),
        (&[2, 33], 257, 17, DType::Bf16, 1.0),
        (&[2, 3], 48, 64, DType::F16, 1e4),
        // Three panels.
        (&[1, 2], 2100, 1000, DType::Bf16, 0.1),
    ];
    for case in cases {
        let (tokens, hidden, k, dtype, scale) = case;
        let x = random(10, &[tokens, &[k]].concat(), scale);
        let (gate, g) = stored(&random(11, &[hidden, k], 1.0), dtype, true);
        // The second matrix has another type than the first.
        let (up, u) = stored(&random(12, &[hidden, k], 1.0), DType::F32, true);
        let w = expect_ready(Cpu::new().upload_swiglu(&gate.into(), &up.into())).unwrap();
        let (g, u) = (naive_linear(&f64s(&x), &g, None, k), naive_linear(&f64s(&x), &u, None, k));
        let reference: Vec<f64> = g.iter().zip(&u).map(|(&g, &u)| silu(g) * u).collect();
        let ran = both([x], |b, [x]| b.swiglu(x, &w));
        expect(&case, &ran.out, &reference);
    }
}

/// Row `row` of a table `[R, n, D]` for item `item`.
fn table_row(table: &[f64], [r, n, d]: [usize; 3], row: usize, item: usize) -> &[f64] {
    let r = if r == 1 { 0 } else { item };
    &table[(r * n + row) * d..][..d]
}

/// Batch, tokens, width; rows `R` of the modulation tables; scale of the activations.
const TOKENS: [([usize; 3], usize, f32); 6] = [
    ([1, 1, 1], 1, 1.0),
    ([1, 1, 64], 1, 1e4),
    ([2, 33, 48], 1, 1.0),
    ([2, 5, 257], 2, 1e4),
    ([3, 7, 130], 3, 1.0),
    ([3, 1, 6], 1, 1e-3),
];

#[test]
fn rms_norm() {
    for (shape @ [b, t, d], r, scale) in TOKENS {
        for modulated in [false, true] {
            let x = random(20, &shape, scale);
            let weight = near_one(21, &[d]);
            let (dims, row, eps) = ([r, 3, d], 1, 1e-3f32);
            let table = random(22, &dims, 1.0);
            let (xs, ws, ts) = (f64s(&x), f64s(&weight), f64s(&table));
            let mut reference = Vec::new();
            for item in 0..b {
                for token in 0..t {
                    let normed = naive_rms(&xs[(item * t + token) * d..][..d], f64::from(eps));
                    for i in 0..d {
                        let s = if modulated { table_row(&ts, dims, row, item)[i] } else { 0.0 };
                        reference.push(normed[i] * ws[i] * (1.0 + s));
                    }
                }
            }
            let ran = both([x, weight, table], |b, [x, weight, table]| {
                let scale = modulated.then_some(Modulation { table: &*table, row });
                b.rms_norm(x, RmsNorm { weight, scale, eps, output: Compute::Native })
            });
            expect(&(shape, r, modulated), &ran.out, &reference);
        }
    }
}

#[test]
fn residual_and_residual_norm() {
    let (eps, next_eps) = (1e-3f32, 1e-2f32);
    for (shape @ [b, t, d], r, scale) in TOKENS {
        for options in 0..8 {
            let [has_norm, gated, modulated] = [options & 1 > 0, options & 2 > 0, options & 4 > 0];
            let case = (shape, r, has_norm, gated, modulated);
            // The tables have different heights and are read at different rows.
            let (gate_dims, gate_row, scale_dims, scale_row) = ([r, 4, d], 3, [1, 2, d], 0);
            let inputs = [
                random(30, &shape, scale),
                random(31, &shape, scale),
                near_one(32, &[d]),
                random(33, &gate_dims, 2.0),
                near_one(34, &[d]),
                random(35, &scale_dims, 1.0),
            ];
            let [mut x, y, norm, gates, weight, scales] = inputs.each_ref().map(f64s);
            let mut reference = Vec::new();
            for token in 0..b * t {
                let (item, x) = (token / t, &mut x[token * d..][..d]);
                let y = &y[token * d..][..d];
                let normed = naive_rms(y, f64::from(eps));
                for i in 0..d {
                    let branch = if has_norm { normed[i] * norm[i] } else { y[i] };
                    let gate = if gated { table_row(&gates, gate_dims, gate_row, item)[i].tanh() } else { 1.0 };
                    x[i] += gate * branch;
                }
                let next = naive_rms(x, f64::from(next_eps));
                for i in 0..d {
                    let s = if modulated { table_row(&scales, scale_dims, scale_row, item)[i] } else { 0.0 };
                    reference.push(next[i] * weight[i] * (1.0 + s));
                }
            }
            let ran = both(inputs.clone(), |b, [x, y, norm, gates, weight, scales]| {
                let gate = gated.then_some(Modulation { table: &*gates, row: gate_row });
                let scale = modulated.then_some(Modulation { table: &*scales, row: scale_row });
                let branch = Branch { y, norm: has_norm.then_some(norm), gate, eps };
                b.residual_norm(x, branch, RmsNorm { weight, scale, eps: next_eps, output: Compute::Native })
            });
            expect(&case, &ran.out, &reference);
            expect(&case, &ran.inputs[0], &x);
            let [x0, y, norm, gates, ..] = inputs;
            let ran = both([x0, y, norm, gates], |b, [x, y, norm, gates]| {
                let gate = gated.then_some(Modulation { table: &*gates, row: gate_row });
                b.residual(x, Branch { y, norm: has_norm.then_some(norm), gate, eps })?;
                Ok(x.clone())
            });
            expect(&case, &ran.inputs[0], &x);
        }
    }
}

const HEADS: [Heads; 5] = [
    Heads { query: 1, key_value: 1, dim: 2 },
    Heads { query: 4, key_value: 2, dim: 8 },
    Heads { query: 6, key_value: 2, dim: 10 },
    Heads { query: 3, key_value: 1, dim: 64 },
    Heads { query: 5, key_value: 5, dim: 6 },
];

#[test]
fn qk_norm_rope() {
    let eps = 1e-3f32;
    for heads @ Heads { query, key_value, dim } in HEADS {
        for (b, t, r, scale) in [(1, 1, 1, 1.0), (2, 5, 1, 1e4), (3, 4, 3, 1.0), (2, 33, 2, 1e-2)] {
            for pairs in [RopePairs::Interleaved, RopePairs::Halves] {
                let width = (query + 2 * key_value) * dim;
                let qkv = random(40, &[b, t, width], scale);
                let norms = [near_one(41, &[dim]), near_one(42, &[dim])];
                let rotation = random(43, &[r, t, dim / 2, 2], 1.0);
                let (mut reference, angles) = (f64s(&qkv), f64s(&rotation));
                for token in 0..b * t {
                    for h in 0..query + key_value {
                        let weight = f64s(&norms[usize::from(h >= query)]);
                        let head = &mut reference[token * width + h * dim..][..dim];
                        let normed = naive_rms(head, f64::from(eps));
                        for i in 0..dim / 2 {
                            let (first, second) = match pairs {
                                RopePairs::Interleaved => (2 * i, 2 * i + 1),
                                RopePairs::Halves => (i, dim / 2 + i),
                            };
                            let row = if r == 1 { token % t } else { token };
                            let (cos, sin) = (angles[row * dim + 2 * i], angles[row * dim + 2 * i + 1]);
                            let (a, b) = (normed[first] * weight[first], normed[second] * weight[second]);
                            head[first] = a * cos - b * sin;
                            head[second] = a * sin + b * cos;
                        }
                    }
                }
                let [q_norm, k_norm] = norms;
                let ran = both([qkv, q_norm, k_norm, rotation], |b, [qkv, q_norm, k_norm, rotation]| {
                    b.qk_norm_rope(qkv, heads, QkNormRope { q_norm, k_norm, eps, rotation, pairs })?;
                    Ok(qkv.clone())
                });
                expect(&(heads, b, t, r, pairs), &ran.inputs[0], &reference);
            }
        }
    }
}

#[test]
fn attention() {
    for heads in HEADS {
        let cases: [(usize, &[u32]); 6] =
            [(1, &[1]), (5, &[1, 5, 3]), (33, &[33, 1]), (32, &[31]), (40, &[7, 33]), (257, &[250])];
        for (tokens, lengths) in cases {
            for (causal, ragged, scale) in
                [(false, false, 3.0), (false, true, 3.0), (true, false, 3.0), (true, true, 3.0), (false, true, 1e4)]
            {
                attention_case(heads, tokens, lengths, causal, ragged, scale);
            }
        }
    }
}

fn attention_case(heads: Heads, tokens: usize, lengths: &[u32], causal: bool, ragged: bool, scale: f32) {
    let Heads { query, key_value, dim } = heads;
    let width = (query + 2 * key_value) * dim;
    let qkv = random(50, &[lengths.len(), tokens, width], scale);
    let values = f64s(&qkv);
    let mut reference = Vec::new();
    for (item, &length) in lengths.iter().enumerate() {
        let at = |token: usize, head: usize, i: usize| values[(item * tokens + token) * width + head * dim + i];
        for t in 0..tokens {
            for h in 0..query {
                let shared = h / (query / key_value);
                let mut scores = Vec::new();
                for key in 0..tokens {
                    if (ragged && key >= length as usize) || (causal && key > t) {
                        continue;
                    }
                    let product: f64 = (0..dim).map(|i| at(t, h, i) * at(key, query + shared, i)).sum();
                    scores.push((key, product / (dim as f64).sqrt()));
                }
                let max = scores.iter().map(|s| s.1).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s.1 - max).exp()).sum();
                for i in 0..dim {
                    let weighted =
                        scores.iter().map(|s| (s.1 - max).exp() / sum * at(s.0, query + key_value + shared, i));
                    reference.push(weighted.sum());
                }
            }
        }
    }
    let ran = both([qkv, HostTensor::from_u32(&[lengths.len()], lengths)], |b, [qkv, lengths]| {
        b.attention(qkv, heads, Mask { causal, lengths: ragged.then_some(lengths) }, Compute::Native)
    });
    expect(&(heads, tokens, lengths, causal, ragged, scale), &ran.out, &reference);
}
