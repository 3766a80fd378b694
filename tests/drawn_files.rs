//! Files that people have instead of a diffusers folder draw the picture of the folder that has
//! their numbers, as `comfy-kitchen` and `gguf` dequantise them: the same bytes on `cpu`, and
//! nearly the same on the other backends.

#[cfg(feature = "cuda")]
#[path = "support/emulated_cuda.rs"]
mod emulated_cuda;
#[allow(dead_code, reason = "tests/goldens.rs uses the rest")]
#[path = "support/golden.rs"]
mod golden;
#[path = "support/single_files.rs"]
mod single_files;

use golden::{OnCpu, Tested};
use pollster::block_on;
use serde_json::{Value, json};
use single_files::{expected, exports};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use zimage::backend::Backend;
use zimage::pipeline::Pipeline;
use zimage::weights::Sources;
use zimage::{Model, Request};

/// A model from files, and the diffusers folder with its numbers.
struct Case {
    name: String,
    files: Sources,
    folder: TempDir,
}

fn file(name: &str) -> PathBuf {
    exports().join(name)
}

/// A transformer with the other parts of the diffusers folder.
fn with_folder(transformer: &str) -> Sources {
    let folder = || Some(file("model"));
    Sources { text_encoder: folder(), vae: folder(), tokenizer: folder(), ..Sources::of(file(transformer)) }
}

fn case(name: &str, files: Sources, transformer: Option<&str>, text_encoder: Option<&str>) -> Case {
    Case { name: name.to_owned(), files, folder: expected(transformer, text_encoder) }
}

/// Every export of the transformer, with the other parts of the diffusers folder.
fn transformers() -> Vec<Case> {
    let quantised = ["fp8", "fp8_scaled", "comfy_quant", "comfy_quant_metadata", "comfy_quant_int8"];
    let safetensors = quantised.iter().map(|name| (*name, "safetensors"));
    let exports = safetensors.chain([("gguf", "gguf"), ("gguf_floats", "gguf")]);
    let mut cases: Vec<Case> =
        exports.map(|(name, end)| case(name, with_folder(&format!("{name}.{end}")), Some(name), None)).collect();
    cases.push(case("comfy", with_folder("comfy.safetensors"), None, None));
    cases
}

/// Parts of several kinds together.
fn combinations() -> Vec<Case> {
    let parts = Sources {
        text_encoder: Some(file("text_encoder.safetensors")),
        vae: Some(file("ae.safetensors")),
        ..with_folder("comfy_quant.safetensors")
    };
    let gguf =
        Sources { text_encoder: Some(file("text_encoder_gguf.gguf")), tokenizer: None, ..with_folder("gguf.gguf") };
    let override_one = Sources { text_encoder: gguf.text_encoder.clone(), ..Sources::of(file("model")) };
    let tokenizer = Sources { tokenizer: gguf.text_encoder.clone(), ..Sources::of(file("model")) };
    let vae = Sources { vae: Some(file("ae.safetensors")), ..Sources::of(file("model")) };
    let all = Sources { tokenizer: Some(file("model/tokenizer")), ..Sources::of(file("all_in_one.safetensors")) };
    let own_text_encoder = Sources { text_encoder: Some(file("text_encoder.safetensors")), ..all.clone() };
    vec![
        case("three files of ComfyUI", parts, Some("comfy_quant"), Some("text_encoder")),
        case("two GGUF files with their tokenizer", gguf, Some("gguf"), Some("text_encoder_gguf")),
        case("a folder with a GGUF text encoder", override_one, None, Some("text_encoder_gguf")),
        case("a folder with the tokenizer of a GGUF file", tokenizer, None, None),
        case("a folder with the VAE of latent diffusion", vae, None, None),
        case("a checkpoint of all parts", all, None, None),
        case("a checkpoint with another text encoder", own_text_encoder, None, Some("text_encoder")),
        case("the folder of a transformer", Sources::of(file("model/transformer")), None, None),
        shifted(),
    ]
}

/// A file without a scheduler, with another shift than its model's.
fn shifted() -> Case {
    let files = Sources { shift: Some(1.5), ..with_folder("comfy.safetensors") };
    let case = case("another shift", files, None, None);
    let scheduler = case.folder.path().join("scheduler/scheduler_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&scheduler).unwrap()).unwrap();
    config["shift"] = json!(1.5);
    fs::write(scheduler, config.to_string()).unwrap();
    case
}

/// Draws a small picture on a backend, and returns both.
fn draw<B: Backend>(backend: B, model: &Model) -> (B, Vec<u8>) {
    let quiet = &mut |_| ControlFlow::Continue(());
    let pipeline = block_on(Pipeline::load(backend, model, quiet)).unwrap();
    assert_eq!(pipeline.warnings(), [""; 0], "{}", model.name());
    let request = Request { width: Some(32), height: Some(24), steps: Some(2), ..Request::new("a red fox") };
    let job = request.check(pipeline.config()).unwrap();
    let (pictures, _) = block_on(pipeline.generate(&job, quiet)).unwrap();
    (pipeline.into_backend(), pictures[0].bytes().to_vec())
}

/// Draws a case from its files and from its folder.
fn draw_both<B: Backend>(backend: B, case: &Case) -> (B, [Vec<u8>; 2]) {
    let (backend, drawn) = draw(backend, &Model::from_sources(&case.files).unwrap());
    let (backend, wanted) = draw(backend, &Model::open(case.folder.path()).unwrap());
    (backend, [drawn, wanted])
}

/// Asserts that at most `far` values in a thousand differ by more than one level.
#[track_caller]
fn agrees(case: &Case, [drawn, wanted]: &[Vec<u8>; 2], far: usize) {
    assert_eq!(drawn.len(), wanted.len(), "{}", case.name);
    let wrong = drawn.iter().zip(wanted).filter(|(a, b)| a.abs_diff(**b) > 1).count();
    assert!(wrong * 1000 <= far * drawn.len(), "{}: {wrong} of {} values are wrong", case.name, drawn.len());
}

#[test]
fn transformers_draw_the_picture_of_their_numbers() {
    for case in transformers() {
        let (_, [drawn, wanted]) = draw_both(OnCpu::open().unwrap(), &case);
        assert!(drawn == wanted, "{}: another picture", case.name);
    }
}

#[test]
fn parts_from_files_draw_the_picture_of_their_numbers() {
    for case in combinations() {
        let (_, [drawn, wanted]) = draw_both(OnCpu::open().unwrap(), &case);
        assert!(drawn == wanted, "{}: another picture", case.name);
    }
}

/// The parts next to a transformer's file are found: in ComfyUI's folders, and the tokenizer in a
/// folder of its name.
#[test]
fn parts_next_to_the_file_are_found() {
    let root = tempfile::tempdir().unwrap();
    let put = |from: &str, to: &str| {
        let to = root.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file(from), to).unwrap();
    };
    put("fp8_scaled.safetensors", "diffusion_models/z_image_turbo.safetensors");
    put("text_encoder.safetensors", "text_encoders/qwen_3_4b.safetensors");
    put("ae.safetensors", "vae/ae.safetensors");
    put("model/tokenizer/tokenizer.json", "diffusion_models/tokenizer/tokenizer.json");
    put("model/tokenizer/tokenizer_config.json", "diffusion_models/tokenizer/tokenizer_config.json");
    let files = Sources::of(root.path().join("diffusion_models/z_image_turbo.safetensors"));
    let case = case("ComfyUI's folders", files, Some("fp8_scaled"), Some("text_encoder"));
    let (_, [drawn, wanted]) = draw_both(OnCpu::open().unwrap(), &case);
    assert!(drawn == wanted, "another picture");
}

/// A `config.json` next to the file gives what shapes do not tell.
#[test]
fn the_configuration_next_to_the_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let transformer = folder.path().join("z.safetensors");
    fs::copy(file("comfy.safetensors"), &transformer).unwrap();
    let files = Sources { model: transformer, ..with_folder("comfy.safetensors") };
    let mut config: Value = serde_json::from_slice(&fs::read(file("model/transformer/config.json")).unwrap()).unwrap();
    config["rope_theta"] = json!(64.0);
    let beside = case("a config.json beside", files, None, None);
    for to in [folder.path().join("config.json"), beside.folder.path().join("transformer/config.json")] {
        fs::write(to, config.to_string()).unwrap();
    }
    let (cpu, [drawn, wanted]) = draw_both(OnCpu::open().unwrap(), &beside);
    assert!(drawn == wanted, "another picture");
    let published = draw(cpu, &Model::open(Path::new(&file("model"))).unwrap()).1;
    assert!(drawn != published, "the configuration makes no difference");
}

/// The exports whose formats differ most, on a backend with a device. Prints the reason if there is
/// none.
#[cfg(feature = "webgpu")]
fn on_device<T: Tested>() {
    let Some(mut backend) = T::open() else { return };
    for case in transformers().into_iter().chain(combinations().into_iter().take(2)) {
        let (again, pictures) = draw_both(backend, &case);
        backend = again;
        agrees(&case, &pictures, T::FAR);
    }
}

#[cfg(feature = "webgpu")]
#[test]
fn plain_shaders_draw_the_picture_of_the_folder() {
    on_device::<golden::OnPlainShaders>();
}

#[cfg(feature = "webgpu")]
#[test]
fn half_shaders_draw_the_picture_of_the_folder() {
    on_device::<golden::OnHalves>();
}

#[cfg(feature = "cuda")]
#[test]
fn emulated_cuda_draws_the_picture_of_the_folder() {
    emulated_cuda::emulated("emulated_cuda_draws_the_picture_of_the_folder", &[], || {
        use zimage::backend::cuda::{Cuda, Placement};
        let mut backend = Cuda::open(0, Placement::Separate).unwrap();
        let quantised = |case: &Case| ["fp8_scaled", "comfy_quant", "gguf"].contains(&&*case.name);
        let parts = combinations().into_iter().take(2);
        for case in transformers().into_iter().filter(quantised).chain(parts) {
            let (again, pictures) = draw_both(backend, &case);
            backend = again;
            // BF16 operands round as coarsely as the F16 operands of the shaders, or more so.
            agrees(&case, &pictures, 20);
        }
    });
}
