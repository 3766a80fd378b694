//! The ops of the autoencoder.

use super::super::super::Conv2d;
use super::*;

struct Convolution {
    /// `[B, H, W, I]`.
    x: [usize; 4],
    /// `[O, kh, kw]`.
    kernel: [usize; 3],
    geometry: Conv2d,
}

fn convolutions() -> Vec<Convolution> {
    let plain = Conv2d { stride: 1, ..Conv2d::default() };
    let same = Conv2d { pad: [1; 4], ..plain };
    let case = |x, kernel, geometry| Convolution { x, kernel, geometry };
    vec![
        case([1, 1, 1, 1], [1, 1, 1], plain),
        case([2, 5, 7, 3], [4, 1, 1], plain),
        case([1, 1, 1, 2], [3, 3, 3], same),
        case([2, 5, 7, 3], [5, 3, 3], same),
        case([1, 6, 8, 4], [2, 3, 3], Conv2d { stride: 2, pad: [0, 0, 1, 1], ..plain }),
        case([2, 5, 7, 4], [2, 3, 3], Conv2d { stride: 2, pad: [0, 0, 1, 1], ..plain }),
        case([1, 5, 7, 2], [3, 2, 4], Conv2d { stride: 3, pad: [2, 0, 1, 3], ..plain }),
        case([2, 5, 7, 3], [5, 3, 3], Conv2d { upsample: true, ..same }),
        case([1, 1, 1, 3], [2, 3, 3], Conv2d { upsample: true, ..same }),
        case([1, 30, 19, 5], [35, 3, 3], Conv2d { upsample: true, ..same }),
        case([1, 2, 3, 2], [2, 1, 1], Conv2d { upsample: true, ..plain }),
        case([1, 3, 2, 2], [2, 3, 3], Conv2d { upsample: true, stride: 2, pad: [0, 1, 2, 0] }),
        case([1, 5, 5, 2], [2, 1, 1], Conv2d { stride: 2, ..plain }),
        // Several tasks of several rows.
        case([1, 33, 37, 32], [3, 3, 3], same),
        // The rows are wider than those that a task copies at a time.
        case([1, 3, 40, 1024], [2, 3, 3], same),
        case([1, 3, 41, 600], [1, 3, 3], Conv2d { upsample: true, ..same }),
        case([1, 3, 43, 1024], [2, 2, 3], Conv2d { stride: 2, pad: [0, 2, 1, 1], ..plain }),
    ]
}

#[test]
fn conv2d() {
    for (seed, Convolution { x: shape, kernel: [o, kh, kw], geometry }) in convolutions().into_iter().enumerate() {
        for (dtype, odd, biased, added, scale) in [
            (DType::F32, false, false, false, 1.0),
            (DType::F16, true, true, false, 1e4),
            (DType::Bf16, true, false, true, 1.0),
            (DType::Bf16, false, true, true, 1e4),
        ] {
            let [b, h, w, channels] = shape;
            let seed = 1000 + 10 * seed as u64;
            let x = random(seed, &shape, scale);
            let (kernel, values) = stored(&random(seed + 1, &[o, channels, kh, kw], 1.0), dtype, odd);
            let (bias, bs) = stored(&random(seed + 2, &[o], scale), dtype, odd);
            let Conv2d { stride, pad: [top, left, bottom, right], upsample } = geometry;
            let zoom = if upsample { 2 } else { 1 };
            let out = [b, (zoom * h + top + bottom - kh) / stride + 1, (zoom * w + left + right - kw) / stride + 1, o];
            let residual = random(seed + 3, &out, scale);
            let (xs, rs) = (f64s(&x), f64s(&residual));
            let mut reference = Vec::new();
            for item in 0..b {
                for y in 0..out[1] {
                    for x in 0..out[2] {
                        for channel_out in 0..o {
                            let mut sum = if biased { bs[channel_out] } else { 0.0 };
                            for ky in 0..kh {
                                for kx in 0..kw {
                                    let (py, px) = (y * stride + ky, x * stride + kx);
                                    let inside =
                                        (top..top + zoom * h).contains(&py) && (left..left + zoom * w).contains(&px);
                                    if !inside {
                                        continue;
                                    }
                                    let pixel = (item * h + (py - top) / zoom) * w + (px - left) / zoom;
                                    for i in 0..channels {
                                        let weight = values[((channel_out * channels + i) * kh + ky) * kw + kx];
                                        sum += xs[pixel * channels + i] * weight;
                                    }
                                }
                            }
                            sum += if added { rs[reference.len()] } else { 0.0 };
                            reference.push(sum);
                        }
                    }
                }
            }
            let layer = Cpu::new().upload_conv2d(&kernel, biased.then_some(&bias)).unwrap();
            let ran = both([x, residual], |b, [x, residual]| {
                let y = b.conv2d(x, &layer, geometry, added.then_some(residual))?;
                assert_eq!(y.shape(), out);
                Ok(y)
            });
            expect(&(shape, [o, kh, kw], geometry, dtype, biased, added), &ran.out, &reference);
        }
    }
}

#[test]
fn group_norm() {
    // Batch, height, width, channels; groups; scale; offset added to every value.
    let cases = [
        ([1, 1, 1, 1], 1, 1.0, 0.0),
        ([1, 1, 1, 6], 1, 1.0, 0.0),
        ([2, 1, 1, 6], 6, 1.0, 5.0),
        ([2, 5, 7, 12], 1, 1.0, 0.0),
        ([2, 5, 7, 12], 4, 1e4, 0.0),
        ([3, 5, 7, 12], 12, 1.0, 0.5),
        // Values close together and far from 0.
        ([1, 4, 4, 8], 2, 1.0, 300.0),
        // A task sums fewer values than this.
        ([1, 65, 33, 32], 8, 1.0, 0.1),
    ];
    let eps = 1e-6f32;
    for case @ (shape @ [b, h, w, c], groups, scale, offset) in cases {
        for activate in [false, true] {
            let x: Vec<f32> = random(70, &shape, scale).to_f32().iter().map(|v| v + offset).collect();
            let x = HostTensor::from_f32(&shape, &x);
            let (weight, bias) = (near_one(71, &[c]), random(72, &[c], 1.0));
            let (xs, ws, bs) = (f64s(&x), f64s(&weight), f64s(&bias));
            let (pixels, wide) = (h * w, c / groups);
            let mut reference = vec![0.0; xs.len()];
            for item in 0..b {
                for g in 0..groups {
                    let mut members = Vec::new();
                    for pixel in 0..pixels {
                        for channel in g * wide..(g + 1) * wide {
                            members.push((item * pixels + pixel) * c + channel);
                        }
                    }
                    let count = members.len() as f64;
                    let mean = members.iter().map(|&at| xs[at]).sum::<f64>() / count;
                    let variance = members.iter().map(|&at| (xs[at] - mean).powi(2)).sum::<f64>() / count;
                    for at in members {
                        let y = (xs[at] - mean) / (variance + f64::from(eps)).sqrt() * ws[at % c] + bs[at % c];
                        reference[at] = if activate { silu(y) } else { y };
                    }
                }
            }
            let ran =
                both([x, weight, bias], |b, [x, weight, bias]| b.group_norm(x, weight, bias, groups, eps, activate));
            expect(&(case, activate), &ran.out, &reference);
        }
    }
}

#[test]
fn scale_and_unscale_latents() {
    let (scale, shift) = (0.3611f32, 0.1159f32);
    for [b, c, h, w] in [[1, 1, 1, 1], [2, 3, 5, 7], [1, 16, 2, 3]] {
        let latents = random(80, &[b, c, h, w], 3.0);
        // The input has one channel more than requested, as an encoder's output has.
        let stored = c + 1;
        let encoded = random(81, &[b, h, w, stored], 3.0);
        let (ls, es) = (f64s(&latents), f64s(&encoded));
        let (mut decoder, mut encoder) = (vec![0.0; ls.len()], vec![0.0; ls.len()]);
        for item in 0..b {
            for y in 0..h {
                for x in 0..w {
                    for channel in 0..c {
                        let (first, last) =
                            (((item * c + channel) * h + y) * w + x, ((item * h + y) * w + x) * c + channel);
                        decoder[last] = ls[first] / f64::from(scale) + f64::from(shift);
                        let value = es[((item * h + y) * w + x) * stored + channel];
                        encoder[first] = (value - f64::from(shift)) * f64::from(scale);
                    }
                }
            }
        }
        let ran = both([latents], |b, [x]| b.unscale_latents(x, 0..x.shape()[0], scale, shift));
        expect(&[b, c, h, w], &ran.out, &decoder);
        let ran = both([encoded], |b, [x]| b.scale_latents(x, c, scale, shift));
        expect(&[b, c, h, w], &ran.out, &encoder);
    }
}

#[test]
fn every_byte_survives_the_round_trip() {
    let pixels: Vec<u8> = (0..=255).chain(0..6).collect();
    let reference: Vec<f64> = pixels.iter().map(|&p| f64::from(p) / 127.5 - 1.0).collect();
    let ran = both([HostTensor::from_u8(&[2, 1, 131, 1], &pixels)], |b, [pixels]| b.normalize_rgb8(pixels));
    expect(&"normalize_rgb8", &ran.out, &reference);
    let ran = both([HostTensor::from_f32(&[2, 1, 131, 1], &ran.out)], |b, [x]| b.to_rgb8(x));
    assert_eq!(ran.out, pixels.iter().map(|&p| f32::from(p)).collect::<Vec<_>>());
}

#[test]
fn to_rgb8_rounds_halves_to_even_and_clamps() {
    let rgb =
        |values: &[f32]| both([HostTensor::from_f32(&[1, 1, values.len(), 1], values)], |b, [x]| b.to_rgb8(x)).out;
    assert_eq!(
        rgb(&[-1.0, 1.0, -1.5, 1.5, f32::MIN, f32::MAX, -1e30, 1e30, 0.0]),
        [0.0, 255.0, 0.0, 255.0, 0.0, 255.0, 0.0, 255.0, 128.0]
    );
    let b = Cpu::new();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let broken = b.upload(&HostTensor::from_f32(&[1, 1, 1, 3], &[0.0, value, 0.0])).unwrap();
        assert!(matches!(b.to_rgb8(&broken), Err(crate::Error::NonFinitePicture)), "white or black would hide {value}");
    }
    // These values are exact halves in f32; rounding away from 0 would give the odd neighbour.
    let level = |x: f32| (x / 2.0 + 0.5) * 255.0;
    let near = |n: i32| ((n as f32 + 0.5) / 127.5 - 1.0).to_bits();
    let candidates = (0..255).step_by(2).flat_map(|n| (near(n) - 9..near(n) + 9).map(f32::from_bits));
    let halves: Vec<f32> = candidates.filter(|&x| level(x).fract() == 0.5 && level(x) as i32 % 2 == 0).collect();
    assert!(halves.len() > 10, "{}", halves.len());
    assert_eq!(rgb(&halves), halves.iter().map(|&x| level(x).floor()).collect::<Vec<_>>());
    let values = noise(90, 1000);
    for (x, out) in values.iter().zip(rgb(&values)) {
        assert!((255.0 * (f64::from(*x) / 2.0 + 0.5) - f64::from(out)).abs() <= 0.5 + 1e-4, "{x} is not {out}");
    }
}
