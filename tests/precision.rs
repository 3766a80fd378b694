//! Networks with FP8 operands: near the backend's own on `cpu`, and alike on the emulated `cuda`.

#[cfg(feature = "cuda")]
#[path = "support/emulated_cuda.rs"]
mod emulated_cuda;

use pollster::block_on;
use serde_json::{Value, json};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use zimage::backend::cpu::Cpu;
#[cfg(feature = "cuda")]
use zimage::backend::cuda::{Cuda, Placement};
use zimage::backend::{Backend, Runtime};
use zimage::conformance::{Options, compare};
use zimage::model::config::ModelConfig;
use zimage::pipeline::Pipeline;
use zimage::tensor::Format;
use zimage::weights::{ModelFolder, RandomTensors, WeightFormat};
use zimage::{BackendChoice, Engine, LoadOptions, Model, Precision, Request};

/// FP8 in the transformer, with its attention.
const FP8_ATTENTION: Precision = Precision::Fp8 { attention: true };

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/single")
}

/// A config file of the golden model with other values.
fn config(part: &str, values: &[(&str, Value)]) -> (String, bytes::Bytes) {
    let name = format!("{part}/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(golden().join(&name)).unwrap()).unwrap();
    for (key, value) in values {
        config[*key] = value.clone();
    }
    (name, config.to_string().into())
}

/// A model with random weights in E4M3 whose every large matrix may be the operand of an FP8 gemm:
/// heads of 128, and widths that are multiples of 16.
fn model(precision: Precision) -> Model {
    let transformer = [
        ("dim", json!(384)),
        ("n_heads", json!(3)),
        ("n_kv_heads", json!(3)),
        ("n_layers", json!(2)),
        ("cap_feat_dim", json!(64)),
        ("axes_dims", json!([32, 48, 48])),
    ];
    let text_encoder = [
        ("hidden_size", json!(64)),
        ("intermediate_size", json!(144)),
        ("num_attention_heads", json!(2)),
        ("num_key_value_heads", json!(1)),
        ("head_dim", json!(128)),
    ];
    let files = vec![config("transformer", &transformer), config("text_encoder", &text_encoder)];
    let folder = ModelFolder::open(&golden()).unwrap().with_files("random", files);
    let random = RandomTensors::quantized(Format::F8E4m3);
    block_on(Model::new(folder.with_random_weights(random)))
        .unwrap()
        .with_fp8(precision.fp8_networks())
        .with_fp8_attention(precision.has_fp8_attention())
}

/// The values of a picture.
fn draw<B: Backend>(backend: B, precision: Precision) -> Vec<f32> {
    let quiet = &mut |_| ControlFlow::Continue(());
    let pipeline = block_on(Pipeline::load(backend, &model(precision), quiet)).unwrap();
    let request = Request { width: Some(64), height: Some(48), steps: Some(2), ..Request::new("a red fox") };
    let job = request.check(pipeline.config()).unwrap();
    let (pictures, _) = block_on(pipeline.generate(&job, quiet)).unwrap();
    pictures[0].to_f32()
}

/// Peak signal to noise ratio in decibels.
fn psnr(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    10.0 * (255.0 * 255.0 * a.len() as f64 / squares).log10()
}

#[test]
fn cpu_runs_the_cases_with_fp8_operands() {
    let options = Options { filter: "/fp8".into(), ..Options::default() };
    let report = block_on(compare(&Cpu::new(), &Cpu::new(), &options)).unwrap();
    assert!(report.passed() && report.cases() > 30 && report.without_fp8 == 0, "{report}");
}

#[test]
fn fp8_is_near_the_backend_s_own() {
    let own = draw(Cpu::new(), Precision::Auto);
    let precisions = [Precision::FP8, Precision::FP8_ALL, FP8_ATTENTION];
    let [transformer, all, attention] = precisions.map(|precision| draw(Cpu::new(), precision));
    for (name, picture) in precisions.iter().zip([&transformer, &all, &attention]) {
        let near = psnr(picture, &own);
        println!("{name}: {near:.1} dB");
        assert!((20.0..60.0).contains(&near), "{name}: {near:.1} dB");
    }
    assert!(transformer != all, "the text encoder is not in FP8");
    assert!(transformer != attention, "attention is not in FP8");
}

/// The cases with FP8 operands on the emulated device. `hopper`: it has kernels of its own.
#[cfg(feature = "cuda")]
fn fp8_ops_agree(test: &str, settings: &[(&str, &str)], hopper: bool) {
    emulated_cuda::emulated(test, settings, || {
        let cuda = Cuda::open(0, Placement::Separate).unwrap();
        assert_eq!(cuda.device().ends_with("kernels for Hopper"), hopper, "{}", cuda.device());
        let options = Options { filter: "/fp8".into(), ..Options::default() };
        let report = block_on(compare(&Cpu::new(), &cuda, &options)).unwrap();
        assert!(report.passed() && report.cases() > 30 && report.without_fp8 == 0, "{report}");
    });
}

#[cfg(feature = "cuda")]
#[test]
fn fp8_ops_agree_on_hopper() {
    fp8_ops_agree("fp8_ops_agree_on_hopper", &[("EMULATED_CUDA_CAPABILITY", "9")], true);
}

#[cfg(feature = "cuda")]
#[test]
fn fp8_ops_agree_on_hopper_in_any_thread_order() {
    // With one SM, a CTA computes several tiles, and wide ones.
    let settings =
        [("EMULATED_CUDA_CAPABILITY", "9"), ("EMULATED_CUDA_SEED", "3"), ("EMULATED_CUDA_MULTIPROCESSORS", "1")];
    fp8_ops_agree("fp8_ops_agree_on_hopper_in_any_thread_order", &settings, true);
}

/// Blackwell has the kernels of other devices, and so has Ada.
#[cfg(feature = "cuda")]
#[test]
fn fp8_ops_agree_on_blackwell() {
    fp8_ops_agree("fp8_ops_agree_on_blackwell", &[("EMULATED_CUDA_CAPABILITY", "12")], false);
}

#[cfg(feature = "cuda")]
#[test]
fn emulated_hopper_draws_the_picture_of_cpu() {
    let test = "emulated_hopper_draws_the_picture_of_cpu";
    emulated_cuda::emulated(test, &[("EMULATED_CUDA_CAPABILITY", "9")], || {
        let cuda = || Cuda::open(0, Placement::Separate).unwrap();
        assert!(cuda().device().ends_with("kernels for Hopper"), "{}", cuda().device());
        for precision in [Precision::Auto, Precision::FP8, Precision::FP8_ALL, FP8_ATTENTION] {
            let near = psnr(&draw(cuda(), precision), &draw(Cpu::new(), precision));
            println!("{precision}: {near:.1} dB");
            assert!(near > 30.0, "{precision}: {near:.1} dB");
        }
    });
}

#[cfg(feature = "cuda")]
#[test]
fn devices_without_fp8_say_so() {
    // Compute capability 8.0.
    emulated_cuda::emulated("devices_without_fp8_say_so", &[], || {
        let options = LoadOptions {
            backend: BackendChoice::Cuda { index: 0 },
            precision: Precision::FP8,
            ..LoadOptions::default()
        };
        let quiet = &mut |_| ControlFlow::Continue(());
        let error = block_on(Engine::load(&model(Precision::Auto), options, quiet)).unwrap_err().to_string();
        assert!(error.contains("no FP8 gemms on this device"), "{error}");
    });
}

#[test]
fn a_storage_that_no_network_has_is_refused() {
    let load = |precision, weights| {
        let model = model(Precision::Auto).with_weights(weights);
        let options = LoadOptions { backend: BackendChoice::Cpu, precision, ..LoadOptions::default() };
        block_on(Engine::load(&model, options, &mut |_| ControlFlow::Continue(()))).map(drop)
    };
    let q4_k = WeightFormat::Format(Format::Q4K);
    let error = load(Precision::FP8_ALL, q4_k).unwrap_err().to_string();
    assert!(error.contains("stores the matrices of both networks in FP8, so q4_k is the storage of none"), "{error}");
    load(Precision::FP8_ALL, WeightFormat::Fp8).unwrap();
    load(Precision::FP8, q4_k).unwrap();
}

#[test]
fn an_engine_has_the_precision_that_it_is_given() {
    let picture = |precision| {
        let quiet = &mut |_| ControlFlow::Continue(());
        let options = LoadOptions { backend: BackendChoice::Cpu, precision, ..LoadOptions::default() };
        let engine = block_on(Engine::load(&model(Precision::Auto), options, quiet)).unwrap();
        let request = Request { width: Some(64), height: Some(48), steps: Some(2), ..Request::new("a red fox") };
        block_on(engine.generate(&request, quiet)).unwrap().images.remove(0).pixels
    };
    let pictures = [Precision::Auto, Precision::FP8, Precision::FP8_ALL, FP8_ATTENTION].map(picture);
    for (i, one) in pictures.iter().enumerate() {
        assert!(pictures[..i].iter().all(|other| other != one), "picture {i}");
    }
}

#[test]
fn golden_models_have_few_matrices_for_fp8() {
    // Their feed-forward layers and heads are no operands of FP8 gemms, their projections are.
    let model = Model::open(&golden()).unwrap();
    let ModelConfig { transformer, .. } = model.config();
    assert!(transformer.dim % 16 == 0 && transformer.ffn_dim() % 16 != 0 && transformer.head_dim() != 128);
    let request = Request { width: Some(32), height: Some(32), steps: Some(2), ..Request::new("a red fox") };
    let picture = |model: &Model| {
        let quiet = &mut |_| ControlFlow::Continue(());
        let pipeline = block_on(Pipeline::load(Cpu::new(), model, quiet)).unwrap();
        let job = request.check(pipeline.config()).unwrap();
        block_on(pipeline.generate(&job, quiet)).unwrap().0[0].to_f32()
    };
    let near = psnr(&picture(&model.clone().with_fp8(Precision::FP8.fp8_networks())), &picture(&model));
    assert!((25.0..70.0).contains(&near), "{near:.1} dB");
}
