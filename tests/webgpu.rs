//! The `webgpu` backend: its shaders in every variant, its memory and its limits. What its verbs mean is for the
//! conformance suite (`tests/conformance.rs`) and the goldens.
#![cfg(feature = "webgpu")]

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use pollster::block_on;
use std::io::Write;
use zimage::backend::webgpu::{Adapters, Shaders, WebGpu, WebGpuLinear, WebGpuTensor, adapters};
use zimage::backend::*;
use zimage::conformance::noise;
use zimage::tensor::{DType, HostTensor, Weight};

/// Every shader is valid, and can be written for Vulkan, Metal and Direct3D 12.
#[test]
fn shaders_are_portable() {
    let shaders = webgpu::shaders();
    assert!(shaders.len() > 100, "only {} shaders", shaders.len());
    for (name, entry, source) in shaders {
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&source)));
        assert!(!source.contains("// unroll"), "{name}: a loop is not unrolled");
        // What a shader uses is what it has to be allowed; the plain ones are allowed nothing.
        let mut allowed = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        let [halves, cooperative] =
            ["f16", "wgpu_cooperative_matrix"].map(|extension| source.contains(&format!("enable {extension};\n")));
        let subgroups = cooperative || source.contains("subgroupAdd");
        allowed.set(Capabilities::SHADER_FLOAT16, halves);
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
        // Cooperative matrices are for Vulkan alone (see `Shaders::Cooperative`): naga 30 cannot write them as HLSL, and the
        // MSL that it writes loads matrices from vectors, which Metal does not compile.
        if cooperative {
            continue;
        }
        // Subgroups came with Metal 2.1 and shader model 6.0; nothing else needs more than the first versions.
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

/// The backend with shaders that multiply halves, the kind with the most steps, or `None` with a line that says why where
/// this machine has no adapter for them.
fn webgpu() -> Option<WebGpu> {
    limited(u64::MAX)
}

/// The same on an adapter that gives shaders no larger buffers than `bytes`.
fn limited(bytes: u64) -> Option<WebGpu> {
    with(Shaders::Half, bytes)
}

fn with(shaders: Shaders, bytes: u64) -> Option<WebGpu> {
    let skip = |error| writeln!(std::io::stderr(), "skipped: webgpu: {error}");
    block_on(WebGpu::open_with(Adapters::Any, shaders, bytes)).map_err(skip).ok()
}

#[test]
fn an_adapter_is_opened_by_number_and_by_name() {
    let Some(any) = with(Shaders::Best, u64::MAX) else { return };
    let known = block_on(adapters());
    for (number, adapter) in known.iter().enumerate() {
        let open = |wanted: String| block_on(WebGpu::open_with(Adapters::Named(wanted), Shaders::Plain, u64::MAX));
        assert!(open(number.to_string()).unwrap().device().starts_with(&adapter.name));
        match open(adapter.name.to_uppercase()) {
            Ok(device) => assert!(device.device().starts_with(&adapter.name)),
            // Another one of this name, or by another interface.
            Err(error) => assert!(error.to_string().contains("several WebGPU adapters"), "{error}"),
        }
    }
    assert!(known.iter().any(|adapter| any.device().starts_with(&adapter.name)), "{known:?}");
}

#[test]
fn a_processor_in_place_of_a_gpu_runs_direct_shaders() {
    let Some(any) = with(Shaders::Best, u64::MAX) else { return };
    let known = block_on(adapters());
    let found = known.iter().find(|adapter| any.device().starts_with(&adapter.name)).unwrap();
    assert_eq!(found.kind == "computes on the processor", any.variant() == "shaders for the processor", "{found:?}");
}

/// What some verbs return, by name.
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
        run.found
    };
    assert_eq!(run(&small), run(&b));
}

#[test]
fn what_does_not_fit_is_refused_with_a_sentence() {
    let Some(b) = webgpu() else { return };
    let latents = b.upload(&HostTensor::from_f32(&[1, 1, 1, 1], &[1.0])).unwrap();
    let w = block_on(b.upload_linear(&[HostTensor::from_f32(&[4, 1], &[1.0; 4]).into()], &[])).unwrap();
    let pad = b.upload(&HostTensor::from_f32(&[4], &[1.0; 4])).unwrap();
    let error = b.embed_patches(&latents, 1, &w, &pad, 1 << 40, 1).unwrap_err();
    let sentence = error.to_string();
    assert!(matches!(error, zimage::Error::OutOfMemory(_)), "{sentence}");
    assert!(
        sentence.starts_with("embed_patches: a tensor of shape [1, 1099511627776, 4] takes 16777216.0 MiB"),
        "{sentence}"
    );
    // And the backend goes on.
    let x = b.embed_patches(&latents, 1, &w, &pad, 2, 1).unwrap();
    assert_eq!(block_on(b.download(&x)).unwrap().to_f32(), [1.0; 8]);
}

#[test]
fn a_table_is_only_looked_up_in() {
    let Some(b) = webgpu() else { return };
    let table = HostTensor::new(DType::Bf16, &[3, 2], vec![0; 12].into()).unwrap();
    let table = block_on(b.upload_table(&table.into())).unwrap();
    let w = block_on(b.upload_linear(&[HostTensor::from_f32(&[4, 2], &[1.0; 8]).into()], &[])).unwrap();
    let sentence = b.linear(&table, &w).unwrap_err().to_string();
    assert_eq!(sentence, "linear: F32 is needed, not BF16 [3, 2]");
}

/// `x·2` by a matrix of one element.
fn doubled(b: &WebGpu, two: &WebGpuLinear, x: &WebGpuTensor) -> WebGpuTensor {
    b.linear(x, two).unwrap()
}

#[test]
fn memory_is_reused_in_order() {
    let Some(b) = webgpu() else { return };
    let two = block_on(b.upload_linear(&[HostTensor::from_f32(&[1, 1], &[2.0]).into()], &[])).unwrap();
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

#[test]
fn a_picture_that_is_not_finite_is_refused() {
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
    // And the next picture is one again, also behind other tensors and in a recording.
    assert_eq!(block_on(b.download(&picture(&good))).unwrap().bytes()[..], levels);
    let values = b.upload(&HostTensor::from_f32(&[1, 1, 1, 3], &[f32::NAN; 3])).unwrap();
    let mut out = None;
    let recording = b.record(|b| {
        out = Some(b.to_rgb8(&values)?);
        Ok(())
    });
    let (recording, out) = (recording.unwrap(), out.unwrap());
    assert_eq!(block_on(b.download(&picture(&good))).unwrap().bytes()[..], levels, "nothing has run yet");
    b.replay(&recording).unwrap();
    assert!(block_on(b.download(&values)).unwrap().to_f32()[0].is_nan(), "only pictures are looked at");
    assert!(block_on(b.download(&out)).is_err());
}
