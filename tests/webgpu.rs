//! The `webgpu` backend: its shaders in every variant, its memory and its limits. The conformance
//! suite (`tests/conformance.rs`) and the goldens test its results.
#![cfg(feature = "webgpu")]

use bytes::Bytes;
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use pollster::block_on;
use std::io::Write;
use zimage::backend::webgpu::{
    Adapters, Field, Shader, Shaders, WebGpu, WebGpuLinear, WebGpuTensor, adapters, shaders,
};
use zimage::backend::*;
use zimage::conformance::noise;
use zimage::tensor::{DType, Format, HostTensor, Storage, Weight};

/// Every shader is valid, translates to Vulkan, Metal and Direct3D 12, and declares the `Params`
/// that Rust fills.
#[test]
fn shaders_translate_to_every_platform() {
    let shaders = shaders().unwrap();
    assert!(shaders.len() > 100, "only {} shaders", shaders.len());
    for Shader { label: name, entry, source, params } in shaders {
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&source)));
        assert_eq!(params_of(&module), params, "{name}");
        // A shader may use only the extensions that it enables. Plain shaders enable none.
        let mut allowed = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        let enables = |extension: &str| source.contains(&format!("enable {extension};\n"));
        let cooperative = enables("wgpu_cooperative_matrix");
        let subgroups = cooperative || source.contains("subgroupAdd");
        allowed.set(Capabilities::SHADER_FLOAT16, enables("f16"));
        allowed.set(Capabilities::SUBGROUP, subgroups);
        allowed.set(Capabilities::COOPERATIVE_MATRIX, cooperative);
        let info = Validator::new(ValidationFlags::all(), allowed)
            .validate(&module)
            .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&source)));
        if !cooperative {
            fits_the_smallest_adapter(&name, &module);
        }
        let pipeline = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: entry.into() };
        let version = match (cooperative, subgroups) {
            (true, _) => (1, 6),
            (false, true) => (1, 3),
            (false, false) => (1, 0),
        };
        let options = spv::Options { lang_version: version, ..spv::Options::default() };
        let words = spv::write_vec(&module, &info, &options, Some(&pipeline));
        assert!(words.unwrap_or_else(|error| panic!("{name} as SPIR-V: {error}")).len() > 100);
        // Cooperative matrices run on Vulkan only (see `Shaders::Cooperative`): naga 30 cannot
        // write them as HLSL, and its MSL loads matrices from vectors, which Metal does not
        // compile.
        if cooperative {
            continue;
        }
        // Subgroups need Metal 2.1 and shader model 6.0. Everything else runs on the first
        // versions.
        let lang_version = if subgroups { (2, 1) } else { (1, 0) };
        let options = msl::Options { fake_missing_bindings: true, lang_version, ..msl::Options::default() };
        let text = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default());
        let (text, _) = text.unwrap_or_else(|error| panic!("{name} as MSL: {error}"));
        assert!(text.contains("kernel void") && text.contains("simd_sum") == subgroups, "{name}: {text}");
        let mut text = String::new();
        let shader_model = if subgroups { hlsl::ShaderModel::V6_0 } else { hlsl::ShaderModel::V5_1 };
        let options = hlsl::Options { fake_missing_bindings: true, shader_model, ..hlsl::Options::default() };
        hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
            .write(&module, &info, None)
            .unwrap_or_else(|error| panic!("{name} as HLSL: {error}"));
        assert!(text.contains("numthreads") && text.contains("WaveActiveSum") == subgroups, "{name}: {text}");
    }
}

/// The fields of the uniform, in naga's layout.
fn params_of(module: &naga::Module) -> Vec<Field> {
    let uniform = module.global_variables.iter().find(|(_, variable)| variable.space == naga::AddressSpace::Uniform);
    let naga::TypeInner::Struct { members, span } = &module.types[uniform.unwrap().1.ty].inner else {
        panic!("the uniform is no struct")
    };
    assert_eq!(*span as usize, 4 * members.len(), "the struct has padding");
    let field = |member: &naga::StructMember| {
        let ty = match module.types[member.ty].inner {
            naga::TypeInner::Scalar(naga::Scalar::U32) => "u32",
            naga::TypeInner::Scalar(naga::Scalar::I32) => "i32",
            naga::TypeInner::Scalar(naga::Scalar::F32) => "f32",
            ref other => panic!("{other:?}"),
        };
        (member.name.clone().unwrap(), ty, member.offset as usize)
    };
    members.iter().map(field).map(|(name, ty, offset)| Field { name: name.leak(), ty, offset }).collect()
}

/// Asserts at most 8 storage buffers, 256 invocations and 16 KiB of workgroup memory: the limits of
/// every WebGPU adapter.
fn fits_the_smallest_adapter(name: &str, module: &naga::Module) {
    let mut layouts = naga::proc::Layouter::default();
    layouts.update(module.to_ctx()).unwrap();
    let mut storage = 0;
    let mut workgroup = 0;
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

/// The backend with F16 operands, the variant with the most steps.
fn webgpu() -> Option<WebGpu> {
    limited(u64::MAX)
}

/// The same on an adapter with a binding limit of `bytes`.
fn limited(bytes: u64) -> Option<WebGpu> {
    with(Shaders::Half, bytes)
}

/// The backend. Prints a line and returns `None` if this machine has no adapter for `shaders`.
fn with(shaders: Shaders, bytes: u64) -> Option<WebGpu> {
    let skip = |error| writeln!(std::io::stderr(), "skipped: webgpu: {error}");
    block_on(WebGpu::open_with(Adapters::Any, shaders, bytes)).map_err(skip).ok()
}

#[test]
fn adapters_open_by_number_and_name() {
    let Some(any) = with(Shaders::Best, u64::MAX) else { return };
    let known = block_on(adapters());
    for (number, adapter) in known.iter().enumerate() {
        let open = |wanted: String| block_on(WebGpu::open_with(Adapters::Named(wanted), Shaders::Plain, u64::MAX));
        assert!(open(number.to_string()).unwrap().device().starts_with(&adapter.name));
        match open(adapter.name.to_uppercase()) {
            Ok(device) => assert!(device.device().starts_with(&adapter.name)),
            // Another adapter may have this name, or this one may have two interfaces.
            Err(error) => assert!(error.to_string().contains("several WebGPU adapters"), "{error}"),
        }
    }
    assert!(known.iter().any(|adapter| any.device().starts_with(&adapter.name)), "{known:?}");
}

#[test]
fn software_adapters_run_direct_shaders() {
    let Some(any) = with(Shaders::Best, u64::MAX) else { return };
    let known = block_on(adapters());
    let found = known.iter().find(|adapter| any.device().starts_with(&adapter.name)).unwrap();
    assert_eq!(found.kind == "computes on the processor", any.variant() == "shaders for the processor", "{found:?}");
}

/// The results of some ops, by name.
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

    /// `n` blocks of random codes, each with its scale at the start or, in Q6_K, at the end.
    fn blocks(&mut self, format: Format, n: usize) -> Vec<u8> {
        self.seed += 1;
        let size = format.block().bytes;
        let mut blocks: Vec<u8> = noise(self.seed, n * size).iter().map(|v| ((v + 1.0) * 127.99) as u8).collect();
        let at = if format == Format::Q6K { size - 2 } else { 0 };
        for (block, scale) in blocks.chunks_exact_mut(size).zip(noise(self.seed + 1, n)) {
            block[at..at + 2].copy_from_slice(&half::f16::from_f32(scale / 1000.0).to_le_bytes());
        }
        blocks
    }

    fn tensor(&mut self, shape: &[usize], scale: f32) -> B::Tensor {
        let host = self.host(DType::F32, shape, scale);
        self.b.upload(&host).unwrap()
    }

    fn keep(&mut self, name: impl Into<String>, out: &B::Tensor) {
        let values = block_on(self.b.download(out)).unwrap().to_f32();
        self.found.push((name.into(), values));
    }
}

/// A matrix of `n` rows of one block.
fn quantized(format: Format, n: usize, blocks: &[u8]) -> Weight<'static> {
    let bytes = Bytes::copy_from_slice(blocks);
    Weight::quantized(Storage::Plain(format), &[n, format.block().elements], bytes).unwrap()
}

#[test]
fn matrices_and_tables_are_split_at_the_buffer_limit() {
    let Some(small) = limited(16 << 10) else { return };
    let Some(b) = webgpu() else { return };
    let run = |b: &WebGpu| {
        let mut run = Run { b, seed: 3, found: Vec::new() };
        for (m, n, k) in [(2, 130, 40), (20, 100, 61)] {
            let x = run.tensor(&[m, k], 1.0);
            let parts = [run.host(DType::Bf16, &[n, k], 1.0), run.host(DType::Bf16, &[n, k], 1.0)];
            let matrices = [&parts[0], &parts[1]].map(Weight::from);
            let bias = [n, n].map(|n| run.host(DType::F32, &[n], 1.0));
            run.keep("linear", &b.linear(&x, &block_on(b.upload_linear(&matrices, &bias)).unwrap()).unwrap());
            let out = b.swiglu(&x, &block_on(b.upload_swiglu(&matrices[0], &matrices[1])).unwrap()).unwrap();
            run.keep("swiglu", &out);
        }
        for dtype in [DType::F32, DType::Bf16] {
            let table = block_on(b.upload_table(&run.host(dtype, &[1000, 10], 1.0).into())).unwrap();
            let ids = b.upload(&HostTensor::from_u32(&[5], &[999, 0, 127, 128, 500])).unwrap();
            run.keep("gather_rows", &b.gather_rows(&table, &ids).unwrap());
        }
        for (name, format) in [("Q8_0", Format::Q8_0), ("Q6_K", Format::Q6K)] {
            let x = run.tensor(&[9, format.block().elements], 1.0);
            let parts = [run.blocks(format, 130), run.blocks(format, 33)];
            let matrices = [(130, &parts[0]), (33, &parts[1])].map(|(n, blocks)| quantized(format, n, blocks));
            let out = b.linear(&x, &block_on(b.upload_linear(&matrices, &[])).unwrap()).unwrap();
            run.keep(format!("linear with {name}"), &out);
            let out = b.swiglu(&x, &block_on(b.upload_swiglu(&matrices[0], &matrices[0])).unwrap()).unwrap();
            run.keep(format!("swiglu with {name}"), &out);
            let table = run.blocks(format, 1000);
            let table = block_on(b.upload_table(&quantized(format, 1000, &table))).unwrap();
            let ids = b.upload(&HostTensor::from_u32(&[5], &[999, 0, 127, 128, 500])).unwrap();
            run.keep(format!("gather_rows of {name}"), &b.gather_rows(&table, &ids).unwrap());
        }
        run.found
    };
    assert_eq!(run(&small), run(&b));
}

#[test]
fn oversized_tensor_is_an_error() {
    let Some(b) = webgpu() else { return };
    let latents = b.upload(&HostTensor::from_f32(&[1, 1, 1, 1], &[1.0])).unwrap();
    let w = block_on(b.upload_linear(&[HostTensor::from_f32(&[4, 1], &[1.0; 4]).into()], &[])).unwrap();
    let pad = b.upload(&HostTensor::from_f32(&[4], &[1.0; 4])).unwrap();
    let error = b.embed_patches(&latents, 1, &w, &pad, 1 << 40, 1).unwrap_err();
    let sentence = error.to_string();
    assert!(matches!(error, zimage::Error::OutOfMemory { .. }), "{sentence}");
    assert!(
        sentence.starts_with("embed_patches: a tensor of shape [1, 1099511627776, 4] takes 16777216.0 MiB"),
        "{sentence}"
    );
    // The backend stays usable.
    let x = b.embed_patches(&latents, 1, &w, &pad, 2, 1).unwrap();
    assert_eq!(block_on(b.download(&x)).unwrap().to_f32(), [1.0; 8]);
}

/// `x·2`, as a gemm with a matrix of one element.
fn doubled(b: &WebGpu, two: &WebGpuLinear, x: &WebGpuTensor) -> WebGpuTensor {
    b.linear(x, two).unwrap()
}

#[test]
fn reused_memory_preserves_queue_order() {
    let Some(b) = webgpu() else { return };
    let two = block_on(b.upload_linear(&[HostTensor::from_f32(&[1, 1], &[2.0]).into()], &[])).unwrap();
    let upload = |value: f32| b.upload(&HostTensor::from_f32(&[5, 1], &[value; 5])).unwrap();
    let read = |x: &WebGpuTensor| block_on(b.download(x)).unwrap().to_f32();

    // The recording owns its tensors, and the ops around it allocate the same sizes.
    let total = upload(0.0);
    let recording = {
        let mut sum = total.clone();
        let outside = upload(3.0);
        b.record(|b| {
            let mut y = doubled(b, &two, &outside);
            for _ in 0..3 {
                y = doubled(b, &two, &y);
            }
            let mut x = sum.reshaped(&[1, 5, 1])?;
            let y = y.reshaped(&[1, 5, 1])?;
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
    assert_eq!(read(&total), [3.0 * 48.0; 5]);
}

#[test]
fn long_dispatches_use_two_dimensions() {
    let Some(b) = webgpu() else { return };
    let h = 4200;
    let w = 4096;
    let values = noise(1, h * w);
    let latents = b.upload(&HostTensor::from_f32(&[1, 1, h, w], &values)).unwrap();
    let out = block_on(b.download(&b.unscale_latents(&latents, 0..1, 0.5, 1.0).unwrap())).unwrap().to_f32();
    assert!(out.iter().zip(&values).all(|(out, value)| *out == value / 0.5 + 1.0));
}

#[test]
fn non_finite_pictures_are_errors() {
    let Some(b) = webgpu() else { return };
    let picture = |values: &[f32]| {
        let x = b.upload(&HostTensor::from_f32(&[1, 1, values.len() / 3, 3], values)).unwrap();
        b.to_rgb8(&x).unwrap()
    };
    let good = [-1.0, 0.0, 1.0, f32::MAX, f32::MIN, 2.0];
    let levels = [0, 128, 255, 255, 0, 255];
    assert_eq!(block_on(b.download(&picture(&good))).unwrap().bytes()[..], levels);
    for broken in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::INFINITY, f32::NEG_INFINITY] {
        for at in 0..good.len() {
            let mut values = good;
            values[at] = broken;
            let error = block_on(b.download(&picture(&values))).unwrap_err();
            assert!(matches!(error, zimage::Error::NonFinitePicture), "{error}");
        }
    }
    // The next picture is finite again, also after other tensors and in a recording.
    assert_eq!(block_on(b.download(&picture(&good))).unwrap().bytes()[..], levels);
    let values = b.upload(&HostTensor::from_f32(&[1, 1, 1, 3], &[f32::NAN; 3])).unwrap();
    let mut out = None;
    let recording = b.record(|b| {
        out = Some(b.to_rgb8(&values)?);
        Ok(())
    });
    let recording = recording.unwrap();
    let out = out.unwrap();
    assert_eq!(block_on(b.download(&picture(&good))).unwrap().bytes()[..], levels, "nothing has run yet");
    b.replay(&recording).unwrap();
    assert!(block_on(b.download(&values)).unwrap().to_f32()[0].is_nan(), "only pictures are checked");
    assert!(block_on(b.download(&out)).is_err());
}

/// A picture of the embedded model, its plan, and the measured peak of the device's memory.
#[cfg(feature = "embedded-model")]
fn draw(
    shaders: Shaders,
    residency: zimage::pipeline::plan::Residency,
) -> zimage::Result<(Vec<u8>, zimage::Plan, u64)> {
    use zimage::pipeline::plan::{Expected, Residency};
    let model = zimage::Model::embedded()?;
    let (width, height, steps) = (48, 32, 3);
    let expected = Some(Expected { size: [width, height], ..Expected::default_of(model.config()) });
    let backend = zimage::BackendChoice::WebGpu(shaders, Adapters::Any);
    let residency = Residency { expected, ..residency };
    let options = zimage::LoadOptions { backend, residency, ..zimage::LoadOptions::default() };
    let progress = &mut |_| std::ops::ControlFlow::Continue(());
    let engine = block_on(zimage::Engine::load(&model, options, progress))?;
    let (width, height, steps) = (Some(width), Some(height), Some(steps));
    let request = zimage::Request { width, height, steps, ..zimage::Request::new("a red fox") };
    let output = block_on(engine.generate(&request, progress))?;
    let again = block_on(engine.generate(&request, progress))?;
    assert!(output.images[0].pixels == again.images[0].pixels);
    let (plan, peak) = (engine.plan().clone(), engine.peak_memory().unwrap());
    assert_eq!(output.run.offload, plan.offload());
    println!("{shaders:?}: {plan}; {peak} bytes at the peak");
    Ok((output.images[0].pixels.clone(), plan, peak))
}

#[cfg(feature = "embedded-model")]
#[test]
fn streamed_weights_draw_the_same_picture() {
    use zimage::Offload;
    use zimage::model::Streaming::{self, AllBut};
    use zimage::pipeline::plan::Residency;
    use zimage::tensor::StreamSource;
    for shaders in [Shaders::Best, Shaders::Half] {
        let Some(b) = with(shaders, u64::MAX) else { return };
        if b.overheads().streamed.is_none() {
            let _ = writeln!(std::io::stderr(), "skipped: webgpu: {} does not stream", b.device());
            return;
        }
        let (resident, all, most) = draw(shaders, Offload::None.into()).unwrap();
        assert_eq!(all.transformer, Streaming::None);
        let (streamed, none, least) = draw(shaders, Offload::Stream.into()).unwrap();
        assert!(matches!(none.transformer, AllBut { resident: 0, .. }), "{none}");
        assert!(streamed == resident);
        // The blocks are not on the device; the buffer through which they are copied is.
        let saved = none.streamed - none.buffer;
        assert!(least <= most - saved, "{least} bytes streamed, {most} resident, {saved} to be saved");
        let limit = (none.peak + all.peak) / 2;
        let limited = |offload| Residency { offload, max_memory: Some(limit), ..Residency::default() };
        let (streamed, plan, peak) = draw(shaders, limited(Offload::Stream)).unwrap();
        assert!(matches!(plan.transformer, AllBut { resident: 1..=8, .. }), "{plan}");
        assert!(streamed == resident && (least..most.min(limit)).contains(&peak), "{plan}: {peak} of {limit}");
        let (streamed, plan, peak) = draw(shaders, limited(Offload::Auto)).unwrap();
        assert!(streamed == resident && plan.offload() != Offload::None && peak <= limit, "{plan}: {peak} of {limit}");
        if shaders == Shaders::Half {
            // The host has no memory for either network, but files hold their matrices.
            let from_files =
                Residency { offload: Offload::Stream, max_host_memory: Some(500_000), ..Residency::default() };
            let (streamed, plan, peak) = draw(shaders, from_files).unwrap();
            assert!(matches!(plan.transformer, AllBut { source: StreamSource::Files, .. }), "{plan}");
            assert!(streamed == resident && peak <= most - saved, "{peak} bytes from files, {most} resident");
        }
    }
}

#[cfg(feature = "embedded-model")]
#[test]
fn a_limit_that_nothing_fits_is_an_error() {
    use zimage::pipeline::plan::Residency;
    let Some(b) = webgpu() else { return };
    let error = draw(Shaders::Half, Residency { max_memory: Some(1 << 20), ..Residency::default() }).unwrap_err();
    let sentence = error.to_string();
    assert!(matches!(error, zimage::Error::OutOfMemory { .. }), "{sentence}");
    assert!(sentence.contains(": the limit of 1.0 MiB on ") && !sentence.contains('\n'), "{sentence}");
    drop(b);
}
