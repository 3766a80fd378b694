//! The ops of the diffusion transformer.

use super::super::super::{Modulation, SamplerRow, SamplerState};
use super::*;

#[test]
fn timestep_embedding() {
    // At u = 1000 an f32 angle is off by up to 3e-5, and so are its sine and cosine.
    for (case, tolerance) in
        [((1, 1, 2, 1, 3, 1.0f32), TOLERANCE), ((5, 2, 64, 33, 48, 1.0), TOLERANCE), ((3, 3, 256, 40, 16, 1e3), 1e-4)]
    {
        let (rows, r, width, hidden, out, scale) = case;
        let times = random(1, &[rows, r], scale);
        let (w1, v1) = stored(&random(2, &[hidden, width], 1.0), DType::Bf16, true);
        let (b1, c1) = stored(&random(3, &[hidden], 1.0), DType::Bf16, false);
        let (w2, v2) = stored(&random(4, &[out, hidden], 1.0), DType::F16, false);
        let (b2, c2) = stored(&random(5, &[out], 1.0), DType::F32, false);
        let (w1, w2) = (linear(&[w1], &[b1]), linear(&[w2], &[b2]));
        for step in [0, rows - 1] {
            let half = width / 2;
            let mut sinusoids = Vec::new();
            for u in &f64s(&times)[step * r..][..r] {
                let angle = |i: usize| u * 10_000f64.powf(-(i as f64) / half as f64);
                sinusoids.extend((0..half).map(|i| angle(i).cos()));
                sinusoids.extend((0..half).map(|i| angle(i).sin()));
            }
            let inner = naive_linear(&sinusoids, &v1, Some(&c1), width).into_iter().map(silu).collect::<Vec<_>>();
            let reference = naive_linear(&inner, &v2, Some(&c2), hidden);
            let step = HostTensor::from_u32(&[1], &[step as u32]);
            let ran = both([times.clone(), step], |b, [times, step]| b.timestep_embedding(times, step, &w1, &w2));
            expect_within(&case, &ran.out, &reference, tolerance);
        }
    }
}

#[test]
fn modulation() {
    for case in [(1, 1, 1, 1, 1.0), (1, 33, 4, 48, 1.0), (3, 16, 6, 5, 1e4)] {
        let (r, a, n, width, scale) = case;
        for activate in [false, true] {
            let t = random(10, &[r, a], scale);
            // Models store one part per block.
            let (mut parts, mut biases, mut w, mut bias) = (vec![], vec![], vec![], vec![]);
            for block in 0..n {
                let (part, values) = stored(&random(11 + block, &[width, a], 1.0), DType::Bf16, true);
                parts.push(part);
                w.extend(values);
                biases.push(random(100 + block, &[width], 1.0));
                bias.extend(f64s(&biases[block as usize]));
            }
            let layer = linear(&parts, &biases);
            let input: Vec<f64> = f64s(&t).into_iter().map(|t| if activate { silu(t) } else { t }).collect();
            let reference = naive_linear(&input, &w, Some(&bias), a);
            let ran = both([t], |b, [t]| {
                let table = b.modulation(t, &layer, activate, width)?;
                assert_eq!(table.shape(), [r, n as usize, width]);
                Ok(table)
            });
            expect(&(case, activate), &ran.out, &reference);
        }
    }
}

/// Latents `[B, C, H, W]`, patch, token width, tokens past the picture's end.
const PICTURES: [([usize; 4], usize, usize, usize); 5] = [
    ([1, 1, 1, 1], 1, 1, 0),
    ([2, 3, 4, 6], 2, 33, 5),
    ([3, 16, 2, 2], 2, 8, 31),
    ([1, 4, 6, 3], 3, 7, 0),
    ([2, 2, 5, 7], 1, 12, 1),
];

#[test]
fn embed_patches() {
    for case @ (shape @ [b, c, height, width], p, d, spare) in PICTURES {
        for copies in [1, 2, 3] {
            let latents = random(20, &shape, 3.0);
            let (w, values) = stored(&random(21, &[d, p * p * c], 1.0), DType::Bf16, true);
            let (bias, pad) = (random(22, &[d], 1.0), random(23, &[d], 1.0));
            let (x, bs, ps) = (f64s(&latents), f64s(&bias), f64s(&pad));
            let (down, across) = (height / p, width / p);
            let tokens = down * across + spare;
            let mut reference = vec![0.0; copies * b * tokens * d];
            for n in 0..copies * b {
                for t in 0..tokens {
                    for j in 0..d {
                        let out = &mut reference[(n * tokens + t) * d + j];
                        if t >= down * across {
                            *out = ps[j];
                            continue;
                        }
                        *out = bs[j];
                        let (y0, x0) = (t / across * p, t % across * p);
                        for row in 0..p {
                            for column in 0..p {
                                for channel in 0..c {
                                    let value = x[((n % b * c + channel) * height + y0 + row) * width + x0 + column];
                                    *out += value * values[j * p * p * c + (row * p + column) * c + channel];
                                }
                            }
                        }
                    }
                }
            }
            let layer = linear(&[w], &[bias]);
            let ran = both([latents, pad], |b, [x, pad]| b.embed_patches(x, p, &layer, pad, tokens, copies));
            expect(&(case, copies), &ran.out, &reference);
        }
    }
}

#[test]
fn final_layer() {
    let eps = 1e-3f32;
    for case @ ([b, c, height, width], p, d, spare) in PICTURES {
        for (r, scale) in [(1, 1.0), (b, 1e4)] {
            let tokens = height / p * (width / p) + spare;
            let x = random(30, &[b, tokens, d], scale);
            let (n, row) = (3, 2);
            let table = random(31, &[r, n, d], 1.0);
            let (w, values) = stored(&random(32, &[p * p * c, d], 1.0), DType::F16, true);
            let bias = random(33, &[p * p * c], 1.0);
            let (xs, ts, bs) = (f64s(&x), f64s(&table), f64s(&bias));
            let mut reference = vec![0.0; b * c * height * width];
            for item in 0..b {
                for channel in 0..c {
                    for y in 0..height {
                        for x in 0..width {
                            let t = y / p * (width / p) + x / p;
                            let line = (y % p * p + x % p) * c + channel;
                            let token = &xs[(item * tokens + t) * d..][..d];
                            let mean = token.iter().sum::<f64>() / d as f64;
                            let variance = token.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / d as f64;
                            let mut sum = bs[line];
                            for i in 0..d {
                                let s = ts[((if r == 1 { 0 } else { item }) * n + row) * d + i];
                                let normed = (token[i] - mean) / (variance + f64::from(eps)).sqrt();
                                sum += values[line * d + i] * normed * (1.0 + s);
                            }
                            reference[((item * c + channel) * height + y) * width + x] = sum;
                        }
                    }
                }
            }
            let layer = linear(&[w], &[bias]);
            let ran = both([x, table], |b, [x, table]| {
                b.final_layer(x, Modulation { table, row }, eps, &layer, p, [height, width])
            });
            expect(&(case, r, scale), &ran.out, &reference);
        }
    }
}

#[test]
fn pad_rows() {
    for (tokens, lengths) in [(1, &[1u32][..]), (1, &[0]), (5, &[0, 5, 3]), (33, &[32, 1])] {
        let d = 7;
        let (x, token) = (random(40, &[lengths.len(), tokens, d], 1e4), random(41, &[d], 1.0));
        let mut reference = x.to_f32();
        for (item, &length) in lengths.iter().enumerate() {
            for t in length as usize..tokens {
                for i in 0..d {
                    reference[(item * tokens + t) * d + i] = token.to_f32()[i];
                }
            }
        }
        let lengths = HostTensor::from_u32(&[lengths.len()], lengths);
        let ran = both([x, token, lengths], |b, [x, token, lengths]| {
            b.pad_rows(x, token, lengths)?;
            Ok(x.clone())
        });
        assert_eq!(ran.inputs[0], reference);
    }
}

#[test]
fn join_sequence() {
    // Captions are shared by several pictures, reordered, and left out.
    let cases = [(1, 1, &[0u32][..]), (2, 1, &[0, 0, 0, 0]), (2, 2, &[1, 0]), (2, 3, &[2, 0, 1, 2, 2, 0])];
    for (b, p, captions) in cases {
        for [s, t, d] in [[1, 1, 1], [6, 5, 7], [1, 33, 4]] {
            let (image, caption) = (random(50, &[b, s, d], 1.0), random(51, &[p, t, d], 1.0));
            let mut reference = Vec::new();
            for (n, &c) in captions.iter().enumerate() {
                for row in 0..s + t {
                    for i in 0..d {
                        reference.push(if row < s {
                            image.to_f32()[(n % b * s + row) * d + i]
                        } else {
                            caption.to_f32()[(c as usize * t + row - s) * d + i]
                        });
                    }
                }
            }
            let captions = HostTensor::from_u32(&[captions.len()], captions);
            let ran = both([image, caption, captions], |b, [image, caption, captions]| {
                b.join_sequence(image, caption, captions)
            });
            assert_eq!(ran.out, reference);
        }
    }
}

/// The definition for one item. Also returns whether the cap took effect.
fn naive_step(x: &[f64], p: &[f64], q: Option<&[f64]>, [delta, g, c]: [f64; 3]) -> (Vec<f64>, bool) {
    let length = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
    let mut v = p.to_vec();
    let mut bites = false;
    if let Some(q) = q {
        for i in 0..v.len() {
            v[i] = p[i] + g * (p[i] - q[i]);
        }
        let (long, limit) = (length(&v), c * length(p));
        bites = c > 0.0 && long > limit;
        if bites {
            v.iter_mut().for_each(|v| *v *= limit / long);
        }
    }
    (x.iter().zip(&v).map(|(x, v)| x + delta * v).collect(), bites)
}

#[test]
fn sampler_step() {
    let rows = [[-0.1, 3.0, 0.0], [0.25, 2.5, 1.5], [-0.5, 0.0, 1.0], [-0.3, 4.0, 1.0]];
    let values = rows.map(|[delta, guidance, cap]: [f32; 3]| SamplerRow::euler(delta, guidance, cap).values());
    let table = HostTensor::from_f32(&[4, 7], values.as_flattened());
    for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [3, 16, 1, 2]] {
        for (guided, step, scale) in [(true, 0, 1.0), (true, 1, 1.0), (true, 2, 1e4), (true, 3, 1e4), (false, 1, 1.0)] {
            let [b, item] = [shape[0], shape[1] * shape[2] * shape[3]];
            let latents = random(60, &shape, scale);
            let mut prediction = random(61, &[b, shape[1], shape[2], shape[3]], scale).to_f32();
            if guided {
                // The first item's predictions are opposites and the others' nearly equal, so a cap
                // of 1.5 affects only one item.
                let other = noise(62, b * item);
                let q: Vec<f32> = (0..b * item)
                    .map(|i| if i < item { -prediction[i] } else { prediction[i] * (1.0 + 0.01 * other[i]) })
                    .collect();
                prediction.extend(q);
            }
            let items = if guided { 2 * b } else { b };
            let prediction = HostTensor::from_f32(&[items, shape[1], shape[2], shape[3]], &prediction);
            let (x, p) = (f64s(&latents), f64s(&prediction));
            let mut reference = Vec::new();
            for n in 0..b {
                let at = |n: usize| n * item..(n + 1) * item;
                let q = guided.then(|| &p[at(b + n)]);
                let (next, bites) = naive_step(&x[at(n)], &p[at(n)], q, rows[step].map(f64::from));
                if guided && step == 1 {
                    assert_eq!(bites, n == 0, "the cap must bite on one item and not on another");
                }
                reference.extend(next);
            }
            let counter = HostTensor::from_u32(&[1], &[step as u32]);
            let ran = both([latents, prediction, table.clone(), counter], |b, [latents, prediction, table, step]| {
                b.sampler_step(latents, prediction, SamplerState { table, history: None, noise: None }, step)?;
                Ok(latents.clone())
            });
            expect(&(shape, guided, step), &ran.inputs[0], &reference);
            assert_eq!(ran.inputs[3], [step as f32 + 1.0]);
        }
    }
}
