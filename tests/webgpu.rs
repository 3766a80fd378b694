//! The `webgpu` backend: its shaders in every variant, and its verbs against `cpu`.
#![cfg(feature = "webgpu")]

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use pollster::block_on;
use std::io::Write;
use zimage::Result;
use zimage::backend::cpu::Cpu;
use zimage::backend::webgpu::{Adapters, WebGpu, WebGpuLinear, WebGpuTensor};
use zimage::backend::{
    Backend, Branch, Conv2d, DType, DeviceTensor, Heads, HostTensor, Mask, Modulation, QkNormRope, RmsNorm, RopePairs,
};
use zimage::conformance::{noise, relative_error, replay_error};

/// Every shader is valid, and can be written for Vulkan, Metal and Direct3D 12.
#[test]
fn shaders_are_portable() {
    let shaders = zimage::backend::webgpu::shaders();
    assert!(shaders.len() > 100, "only {} shaders", shaders.len());
    for (name, entry, source) in shaders {
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&source)));
        let info = Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16_IN_FLOAT32)
            .validate(&module)
            .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&source)));
        fits_the_smallest_adapter(&name, &module);
        let pipeline = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: entry.into() };
        let words = spv::write_vec(&module, &info, &spv::Options::default(), Some(&pipeline));
        assert!(words.unwrap_or_else(|error| panic!("{name} as SPIR-V: {error}")).len() > 100);
        let options = msl::Options { fake_missing_bindings: true, ..msl::Options::default() };
        let text = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default());
        assert!(text.unwrap_or_else(|error| panic!("{name} as MSL: {error}")).0.contains("kernel void"));
        let mut text = String::new();
        let options = hlsl::Options { fake_missing_bindings: true, ..hlsl::Options::default() };
        hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
            .write(&module, &info, None)
            .unwrap_or_else(|error| panic!("{name} as HLSL: {error}"));
        assert!(text.contains("numthreads"));
    }
}

/// At most 8 storage buffers, 256 invocations and 16 KiB of workgroup memory: what every WebGPU adapter offers.
fn fits_the_smallest_adapter(name: &str, module: &naga::Module) {
    let mut layouts = naga::proc::Layouter::default();
    layouts.update(module.to_ctx()).unwrap();
    let (mut storage, mut workgroup) = (0, 0);
    for (_, variable) in module.global_variables.iter() {
        match variable.space {
            naga::AddressSpace::Storage { .. } => storage += 1,
            naga::AddressSpace::WorkGroup => workgroup += layouts[variable.ty].size,
            _ => {}
        }
    }
    assert!(storage <= 8, "{name}: {storage} storage buffers");
    assert!(workgroup <= 16 << 10, "{name}: {workgroup} bytes of workgroup memory");
    for entry in &module.entry_points {
        assert!(entry.workgroup_size.iter().product::<u32>() <= 256, "{name}");
    }
}

/// The backend, or `None` with a line that says why where this machine has no adapter at all.
fn webgpu() -> Option<WebGpu> {
    limited(u64::MAX)
}

/// The same on an adapter that gives shaders no larger buffers than `bytes`.
fn limited(bytes: u64) -> Option<WebGpu> {
    let skip = |error| writeln!(std::io::stderr(), "skipped: webgpu: {error}");
    block_on(WebGpu::open_limited(Adapters::Any, bytes)).map_err(skip).ok()
}

/// What the cases below return, by name.
struct Run<'a, B: Backend> {
    b: &'a B,
    seed: u64,
    found: Vec<(String, Vec<f32>)>,
}

impl<B: Backend> Run<'_, B> {
    fn host(&mut self, dtype: DType, shape: &[usize], scale: f32) -> HostTensor {
        self.seed += 1;
        let values: Vec<f32> = noise(self.seed, shape.iter().product()).iter().map(|v| v * scale).collect();
        let bytes: Vec<u8> = match dtype {
            DType::Bf16 => values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect(),
            DType::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            _ => return HostTensor::from_f32(shape, &values),
        };
        HostTensor::new(dtype, shape, bytes.into()).unwrap()
    }

    fn tensor(&mut self, shape: &[usize], scale: f32) -> B::Tensor {
        let host = self.host(DType::F32, shape, scale);
        self.b.upload(&host).unwrap()
    }

    fn keep(&mut self, name: impl Into<String>, out: &B::Tensor) {
        let values = block_on(self.b.download(out)).unwrap().to_f32();
        self.found.push((name.into(), values));
    }

    fn products(&mut self) -> Result<()> {
        let b = self.b;
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for (m, n, k) in
                [(1, 5, 3), (1, 64, 256), (3, 33, 20), (8, 17, 7), (9, 100, 64), (70, 3, 18), (300, 130, 96)]
            {
                let x = self.tensor(&[m, k], 1.0);
                let parts = [self.host(dtype, &[n, k], 1.0), self.host(dtype, &[n + 1, k], 1.0)];
                let biases = [self.host(DType::F32, &[n], 1.0), self.host(dtype, &[n + 1], 1.0)];
                let w = b.upload_linear(&parts, &biases)?;
                self.keep(format!("linear {dtype} {m} {n} {k}"), &b.linear(&x, &w)?);
                let w = b.upload_swiglu(&parts[0], &self.host(dtype, &[n, k], 1.0))?;
                self.keep(format!("swiglu {dtype} {m} {n} {k}"), &b.swiglu(&x, &w)?);
                let w = b.upload_linear(&parts, &[])?;
                self.keep(format!("modulation {dtype} {m} {n} {k}"), &b.modulation(&x, &w, true, 2 * n + 1)?);
            }
        }
        let x = self.tensor(&[2, 4099, 48], 1e4);
        let w = b.upload_linear(&[self.host(DType::Bf16, &[200, 48], 1.0)], &[])?;
        self.keep("linear large", &b.linear(&x, &w)?);
        for (r, hidden, k) in [(1, 64, 32), (3, 20, 256), (11, 33, 6)] {
            let times: Vec<f32> = noise(7, 4 * r).iter().map(|v| v * 1000.0).collect();
            let times = b.upload(&HostTensor::from_f32(&[4, r], &times))?;
            let step = b.upload(&HostTensor::from_u32(&[1], &[2]))?;
            let w1 = self.host(DType::Bf16, &[hidden, k], 1.0);
            let w1 = b.upload_linear(&[w1], &[self.host(DType::F32, &[hidden], 1.0)])?;
            let w2 = b.upload_linear(&[self.host(DType::F32, &[12, hidden], 1.0)], &[])?;
            self.keep(format!("timestep_embedding {r} {k}"), &b.timestep_embedding(&times, &step, &w1, &w2)?);
        }
        Ok(())
    }

    fn patches(&mut self) -> Result<()> {
        let b = self.b;
        for (items, c, h, w, patch, d, copies) in
            [(1, 16, 8, 12, 2, 64, 1), (2, 3, 6, 4, 2, 20, 2), (3, 5, 3, 3, 1, 7, 1)]
        {
            let latents = self.tensor(&[items, c, h, w], 1.0);
            let values = patch * patch * c;
            let tokens = h * w / patch / patch + 5;
            let bias = self.host(DType::F32, &[d], 1.0);
            let linear = b.upload_linear(&[self.host(DType::Bf16, &[d, values], 1.0)], &[bias])?;
            let pad = self.tensor(&[d], 1.0);
            let x = b.embed_patches(&latents, patch, &linear, &pad, tokens, copies)?;
            self.keep(format!("embed_patches {c} {d}"), &x);
            let bias = self.host(DType::F32, &[values], 1.0);
            let linear = b.upload_linear(&[self.host(DType::Bf16, &[values, d], 1.0)], &[bias])?;
            for rows in [1, items * copies] {
                let table = self.tensor(&[rows, 3, d], 1.0);
                let scale = Modulation { table: &table, row: 2 };
                let out = b.final_layer(&x, scale, 1e-6, &linear, patch, [h, w])?;
                self.keep(format!("final_layer {c} {d} {rows}"), &out);
            }
        }
        Ok(())
    }

    fn norms(&mut self) -> Result<()> {
        let b = self.b;
        for (items, tokens, d) in [(1, 1, 5), (2, 7, 64), (3, 5, 1000)] {
            for scale in [1.0, 1e4] {
                let mut x = self.tensor(&[items, tokens, d], scale);
                let y = self.tensor(&[items, tokens, d], scale);
                let (weight, other) = (self.tensor(&[d], 1.0), self.tensor(&[d], 1.0));
                for rows in [1, items] {
                    let table = self.tensor(&[rows, 4, d], 2.0);
                    let at = |row| Some(Modulation { table: &table, row });
                    for (with_norm, with_gate) in [(true, true), (true, false), (false, true), (false, false)] {
                        let name = format!("{items} {tokens} {d} {scale} {rows} {with_norm} {with_gate}");
                        let branch = || Branch {
                            y: &y,
                            norm: with_norm.then_some(&other),
                            gate: if with_gate { at(1) } else { None },
                            eps: 1e-5,
                        };
                        let norm =
                            || RmsNorm { weight: &weight, scale: if with_gate { at(3) } else { None }, eps: 1e-6 };
                        let out = b.rms_norm(&x, norm())?;
                        self.keep(format!("rms_norm {name}"), &out);
                        let out = b.residual_norm(&mut x, branch(), norm())?;
                        self.keep(format!("residual_norm {name}"), &out);
                        self.keep(format!("residual_norm x {name}"), &x);
                        b.residual(&mut x, branch())?;
                        self.keep(format!("residual {name}"), &x);
                    }
                }
            }
        }
        for (items, h, w, c, groups) in [
            (1, 1, 1, 8, 4),
            (2, 5, 7, 96, 16),
            (1, 30, 41, 32, 16),
            (1, 3, 4, 600, 2),
            (1, 9, 9, 20, 1),
            (1, 70, 70, 512, 32),
        ] {
            let x = self.tensor(&[items, h, w, c], 30.0);
            let (weight, bias) = (self.tensor(&[c], 1.0), self.tensor(&[c], 1.0));
            for silu in [false, true] {
                let out = b.group_norm(&x, &weight, &bias, groups, 1e-6, silu)?;
                self.keep(format!("group_norm {h} {w} {c} {groups} {silu}"), &out);
            }
        }
        Ok(())
    }

    fn attentions(&mut self) -> Result<()> {
        let b = self.b;
        for (items, tokens, query, key_value, dim) in [
            (1, 1, 1, 1, 16),
            (2, 33, 4, 2, 20),
            (3, 65, 2, 1, 24),
            (1, 130, 3, 3, 48),
            (2, 100, 4, 4, 64),
            (1, 70, 1, 1, 96),
            (1, 40, 2, 2, 128),
            (1, 37, 1, 1, 384),
            (1, 20, 1, 1, 512),
            (1, 9, 1, 1, 6),
        ] {
            let heads = Heads { query, key_value, dim };
            let mut qkv = self.tensor(&[items, tokens, heads.fused_width()], 3.0);
            let name = format!("{tokens} {query} {dim}");
            for (pairs, rows) in [(RopePairs::Interleaved, 1), (RopePairs::Halves, items)] {
                let (q_norm, k_norm) = (self.tensor(&[dim], 1.0), self.tensor(&[dim], 1.0));
                let rotation = self.tensor(&[rows, tokens, dim / 2, 2], 1.0);
                let how = QkNormRope { q_norm: &q_norm, k_norm: &k_norm, eps: 1e-6, rotation: &rotation, pairs };
                b.qk_norm_rope(&mut qkv, heads, how)?;
                self.keep(format!("qk_norm_rope {pairs:?} {name}"), &qkv);
            }
            let qkv = self.tensor(&[items, tokens, heads.fused_width()], 3.0);
            let lengths: Vec<u32> = (0..items as u32).map(|i| (tokens as u32).saturating_sub(7 * i).max(1)).collect();
            let lengths = b.upload(&HostTensor::from_u32(&[items], &lengths))?;
            for (causal, ragged) in [(false, false), (true, false), (false, true), (true, true)] {
                let mask = Mask { causal, lengths: ragged.then_some(&lengths) };
                self.keep(format!("attention {name} {causal} {ragged}"), &b.attention(&qkv, heads, mask)?);
            }
        }
        Ok(())
    }

    fn pictures(&mut self) -> Result<()> {
        let b = self.b;
        let same = Conv2d { stride: 1, pad: [1; 4], upsample: false };
        let down = Conv2d { stride: 2, pad: [0, 0, 1, 1], upsample: false };
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for (items, h, w, i, o, side, geometry) in [
                (1, 1, 1, 3, 5, 3, same),
                (2, 5, 7, 16, 20, 3, same),
                (1, 6, 4, 6, 33, 3, down),
                (1, 9, 5, 8, 64, 3, Conv2d { upsample: true, ..same }),
                (2, 4, 4, 10, 3, 1, Conv2d { pad: [0; 4], ..same }),
                (1, 60, 60, 4, 130, 3, same),
                (1, 200, 200, 3, 3, 3, same),
            ] {
                let x = self.tensor(&[items, h, w, i], 1.0);
                let (kernel, bias) = (self.host(dtype, &[o, i, side, side], 1.0), self.host(dtype, &[o], 1.0));
                let conv = b.upload_conv2d(&kernel, Some(&bias))?;
                let out = b.conv2d(&x, &conv, geometry, None)?;
                self.keep(format!("conv2d {dtype} {h} {w} {i} {o}"), &out);
                let conv = b.upload_conv2d(&kernel, None)?;
                let residual = b.conv2d(&x, &conv, geometry, Some(&out))?;
                self.keep(format!("conv2d residual {dtype} {h} {w} {i} {o}"), &residual);
            }
        }
        let latents = self.tensor(&[2, 5, 3, 7], 1.0);
        let x = b.unscale_latents(&latents, 0.3611, 0.1159)?;
        self.keep("unscale_latents", &x);
        self.keep("scale_latents", &b.scale_latents(&x, 3, 0.3611, 0.1159)?);
        self.keep("to_rgb8", &b.to_rgb8(&x)?);
        let pixels: Vec<u8> = (0..=254).collect();
        let pixels = b.upload(&HostTensor::from_u8(&[1, 5, 17, 3], &pixels))?;
        let levels = b.normalize_rgb8(&pixels)?;
        self.keep("normalize_rgb8", &levels);
        self.keep("to_rgb8 of all", &b.to_rgb8(&levels)?);
        Ok(())
    }

    fn sequences(&mut self) -> Result<()> {
        let b = self.b;
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let table = self.host(dtype, &[11, 13], 1.0);
            let table = b.upload(&table)?;
            let ids = b.upload(&HostTensor::from_u32(&[2, 3], &[10, 0, 3, 3, 7, 1]))?;
            self.keep(format!("gather_rows {dtype}"), &b.gather_rows(&table, &ids)?);
        }
        let mut x = self.tensor(&[3, 5, 7], 1.0);
        let token = self.host(DType::Bf16, &[7], 1.0);
        let token = b.upload(&token)?;
        let lengths = b.upload(&HostTensor::from_u32(&[3], &[0, 5, 2]))?;
        b.pad_rows(&mut x, &token, &lengths)?;
        self.keep("pad_rows", &x);
        let caption = self.tensor(&[2, 4, 7], 1.0);
        let captions = b.upload(&HostTensor::from_u32(&[6], &[1, 0, 1, 1, 0, 0]))?;
        self.keep("join_sequence", &b.join_sequence(&x, &caption, &captions)?);
        for (items, c, h, w) in [(1, 1, 1, 1), (2, 16, 40, 36)] {
            for copies in [1, 2] {
                let mut latents = self.tensor(&[items, c, h, w], 1.0);
                let prediction = self.tensor(&[copies * items, c, h, w], 1.0);
                let rows = [0.5, 3.0, 0.7, -0.2, 2.0, 0.0, 0.1, 4.0, 100.0];
                let table = b.upload(&HostTensor::from_f32(&[3, 3], &rows))?;
                let mut step = b.upload(&HostTensor::from_u32(&[1], &[0]))?;
                for i in 0..3 {
                    b.guide_and_step(&mut latents, &prediction, &table, &mut step)?;
                    self.keep(format!("guide_and_step {items} {copies} {i}"), &latents);
                }
                self.keep("step", &step);
                assert_eq!(latents.shape(), [items, c, h, w]);
            }
        }
        Ok(())
    }
}

fn run<B: Backend>(b: &B) -> Vec<(String, Vec<f32>)> {
    let mut run = Run { b, seed: 0, found: Vec::new() };
    run.products().unwrap();
    run.patches().unwrap();
    run.norms().unwrap();
    run.attentions().unwrap();
    run.pictures().unwrap();
    run.sequences().unwrap();
    run.found
}

#[test]
fn verbs_mean_what_they_mean_on_the_cpu() {
    let Some(b) = webgpu() else { return };
    println!("{}", b.device());
    let (found, expected) = (run(&b), run(&Cpu::new()));
    assert_eq!(found.len(), expected.len());
    let mut wrong = Vec::new();
    for ((name, out), (_, reference)) in found.iter().zip(&expected) {
        let error = relative_error(out, reference);
        if error > 2e-6 {
            println!("{name}: {error:.1e}");
        }
        if error > 2e-5 {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn recordings_replay_what_was_called() {
    let Some(b) = webgpu() else { return };
    for seed in 0..4 {
        assert_eq!(block_on(replay_error(&b, seed)).unwrap(), 0.0);
    }
}

#[test]
fn weights_larger_than_a_buffer_are_split() {
    let Some(small) = limited(16 << 10) else { return };
    let Some(b) = webgpu() else { return };
    let run = |b: &WebGpu| {
        let mut run = Run { b, seed: 3, found: Vec::new() };
        for (m, n, k) in [(2, 130, 40), (20, 100, 61)] {
            let x = run.tensor(&[m, k], 1.0);
            let parts = [run.host(DType::Bf16, &[n, k], 1.0), run.host(DType::Bf16, &[n, k], 1.0)];
            let bias = [n, n].map(|n| run.host(DType::F32, &[n], 1.0));
            run.keep("linear", &b.linear(&x, &b.upload_linear(&parts, &bias).unwrap()).unwrap());
            let out = b.swiglu(&x, &b.upload_swiglu(&parts[0], &parts[1]).unwrap()).unwrap();
            run.keep("swiglu", &out);
        }
        for dtype in [DType::F32, DType::Bf16] {
            let table = b.upload(&run.host(dtype, &[1000, 10], 1.0)).unwrap();
            let ids = b.upload(&HostTensor::from_u32(&[5], &[999, 0, 127, 128, 500])).unwrap();
            run.keep("gather_rows", &b.gather_rows(&table, &ids).unwrap());
        }
        run.found
    };
    assert_eq!(run(&small), run(&b));
}

#[test]
fn what_does_not_fit_is_refused_with_a_sentence() {
    let Some(b) = webgpu() else { return };
    let latents = b.upload(&HostTensor::from_f32(&[1, 1, 1, 1], &[1.0])).unwrap();
    let w = b.upload_linear(&[HostTensor::from_f32(&[4, 1], &[1.0; 4])], &[]).unwrap();
    let pad = b.upload(&HostTensor::from_f32(&[4], &[1.0; 4])).unwrap();
    let error = b.embed_patches(&latents, 1, &w, &pad, 1 << 40, 1).unwrap_err();
    let sentence = error.to_string();
    assert!(matches!(error, zimage::Error::Device(_)), "{sentence}");
    assert!(
        sentence.starts_with("embed_patches: a tensor of shape [1, 1099511627776, 4] takes 16777216.0 MiB"),
        "{sentence}"
    );
    // And the backend goes on.
    let x = b.embed_patches(&latents, 1, &w, &pad, 2, 1).unwrap();
    assert_eq!(block_on(b.download(&x)).unwrap().to_f32(), [1.0; 8]);
}

/// `x·2` by a matrix of one element.
fn doubled(b: &WebGpu, two: &WebGpuLinear, x: &WebGpuTensor) -> WebGpuTensor {
    b.linear(x, two).unwrap()
}

#[test]
fn memory_is_reused_in_order() {
    let Some(b) = webgpu() else { return };
    let two = b.upload_linear(&[HostTensor::from_f32(&[1, 1], &[2.0])], &[]).unwrap();
    let upload = |value: f32| b.upload(&HostTensor::from_f32(&[5, 1], &[value; 5])).unwrap();
    let read = |x: &WebGpuTensor| block_on(b.download(x)).unwrap().to_f32();

    // A recording of tensors that nobody else keeps, between verbs that want memory of the same size.
    let kept = upload(0.0);
    let recording = {
        let (mut sum, outside) = (kept.clone(), upload(3.0));
        b.record(|b| {
            let mut y = doubled(b, &two, &outside);
            for _ in 0..3 {
                y = doubled(b, &two, &y);
            }
            let (mut x, y) = (sum.reshaped(&[1, 5, 1])?, y.reshaped(&[1, 5, 1])?);
            b.residual(&mut x, Branch { y: &y, norm: None, gate: None, eps: 0.0 })?;
            sum = x;
            assert!(b.record(|_| Ok(())).is_err(), "recordings nest");
            Ok(())
        })
        .unwrap()
    };
    let mut found = Vec::new();
    for i in 0..150 {
        let y = doubled(&b, &two, &doubled(&b, &two, &upload(i as f32)));
        found.push(y);
        if i % 50 == 0 {
            b.replay(&recording).unwrap();
        }
    }
    for (i, y) in found.iter().enumerate() {
        assert_eq!(read(y), [4.0 * i as f32; 5]);
    }
    assert_eq!(read(&kept), [3.0 * 48.0; 5]);
}

#[test]
fn a_dispatch_longer_than_a_dimension_is_folded() {
    let Some(b) = webgpu() else { return };
    let (h, w) = (4200, 4096);
    let values = noise(1, h * w);
    let latents = b.upload(&HostTensor::from_f32(&[1, 1, h, w], &values)).unwrap();
    let out = block_on(b.download(&b.unscale_latents(&latents, 0.5, 1.0).unwrap())).unwrap().to_f32();
    assert!(out.iter().zip(&values).all(|(out, value)| *out == value / 0.5 + 1.0));
}
