//! A model that is made of remote single files: it draws the picture of the same numbers in a
//! diffusers folder, reads by ranges, and fails as the same files on disk do.

#[path = "support/single_files.rs"]
mod single_files;
#[path = "support/slow.rs"]
mod slow;

use pollster::block_on;
use single_files::{expected, exports};
use slow::{PIECE, Slow};
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
#[cfg(feature = "webgpu")]
use zimage::backend::webgpu::{Adapters, Shaders, WebGpu};
use zimage::weights::{ModelFolder, Sources};
use zimage::{BackendChoice, Engine, Error, Model, Request};

const TOKENIZER: &str = "model/tokenizer/tokenizer.json";

fn paths(files: &[&str]) -> Vec<String> {
    files.iter().map(|&file| file.to_owned()).collect()
}

/// The model that files of `tests/single_files` make.
fn model_of(files: &Arc<Slow>, folder: Option<ModelFolder>, given: &[&str]) -> Result<Model, Error> {
    let folder = block_on(ModelFolder::from_files(folder, files.clone(), &paths(given)))?;
    block_on(Model::new(folder))
}

fn picture(model: &Model, backend: &BackendChoice) -> Vec<u8> {
    let quiet = &mut |_| ControlFlow::Continue(());
    let engine = block_on(Engine::load(model, backend.clone(), quiet)).unwrap();
    let request = Request { width: Some(32), height: Some(24), steps: Some(2), ..Request::new("a red fox") };
    block_on(engine.generate(&request, quiet)).unwrap().images.remove(0).pixels
}

/// The picture of the diffusers folder with the numbers of these exports.
fn folder_s_picture(transformer: Option<&str>, text_encoder: Option<&str>) -> Vec<u8> {
    let folder = expected(transformer, text_encoder);
    picture(&Model::open(folder.path()).unwrap(), &BackendChoice::Cpu)
}

/// Files, and the exports of the transformer and the text encoder that have their numbers, as
/// `gguf` and `comfy-kitchen` read them.
type Files = (&'static [&'static str], Option<&'static str>, Option<&'static str>);

const MODELS: [Files; 3] = [
    (&["all_in_one.safetensors", TOKENIZER], None, None),
    (&["gguf.gguf", "text_encoder_gguf.gguf", "ae.safetensors"], Some("gguf"), Some("text_encoder_gguf")),
    (
        &[TOKENIZER, "ae.safetensors", "text_encoder.safetensors", "comfy_quant.safetensors"],
        Some("comfy_quant"),
        Some("text_encoder"),
    ),
];

#[test]
fn remote_files_draw_the_folder_s_picture() {
    for (given, transformer, text_encoder) in MODELS {
        let files = Slow::new("tests/single_files", "");
        let model = model_of(&files, None, given).unwrap();
        assert_eq!(picture(&model, &BackendChoice::Cpu), folder_s_picture(transformer, text_encoder), "{given:?}");
        for file in given {
            let whole = fs::metadata(files.path(file)).unwrap().len() as usize;
            let fetched = files.fetched.lock().unwrap()[*file];
            // A GGUF header is read in pieces, and once more for the tokenizer in it.
            let most = if file.starts_with("text_encoder_gguf") { 2 * whole } else { whole + whole / 4 };
            assert!(fetched <= most, "{file}: {fetched} of {whole} bytes");
        }
    }
}

#[test]
fn only_headers_and_small_files_are_read_first() {
    let files = Slow::new("tests/single_files", "");
    let model = model_of(&files, None, MODELS[1].0).unwrap();
    assert_eq!(model.folder().name(), "gguf");
    let fetched = files.fetched.lock().unwrap();
    for file in ["gguf.gguf", "ae.safetensors"] {
        let whole = fs::metadata(files.path(file)).unwrap().len() as usize;
        assert!(fetched[file] < whole / 5, "{file}: {} of {whole} bytes", fetched[file]);
    }
}

#[cfg(feature = "webgpu")]
#[test]
fn weights_reach_the_device_in_pieces() {
    let backend = BackendChoice::WebGpu(Shaders::Plain, Adapters::Any);
    if let Err(error) = block_on(WebGpu::open_with(Adapters::Any, Shaders::Plain, u64::MAX)) {
        let _ = writeln!(std::io::stderr(), "skipped: webgpu: {error}");
        return;
    }
    let given = MODELS[1].0;
    let files = Slow::new("tests/single_files", "gguf.gguf");
    let model = model_of(&files, None, given).unwrap();
    files.longest.store(0, SeqCst);
    files.held.most.store(0, SeqCst);
    let [transformer, text_encoder, vae] = [0, 1, 2].map(|i| files.path(given[i]));
    let on_disk = Sources { text_encoder: Some(text_encoder), vae: Some(vae), ..Sources::of(transformer) };
    assert_eq!(picture(&model, &backend), picture(&Model::from_sources(&on_disk).unwrap(), &backend));
    let held = files.held.most.load(SeqCst);
    assert!(held > 0 && held < 8 * PIECE as usize, "{held} bytes of the transformer were allocated at once");
}

#[test]
fn files_replace_the_parts_of_a_folder() {
    let copy = expected(None, None);
    fs::copy(exports().join("gguf.gguf"), copy.path().join("gguf.gguf")).unwrap();
    let files = Slow::new(copy.path(), "");
    let base = block_on(ModelFolder::remote("base", files.clone())).unwrap();
    let model = model_of(&files, Some(base), &["gguf.gguf"]).unwrap();
    assert_eq!(model.folder().name(), "gguf");
    assert_eq!(model.folder().path("vae/config.json"), Path::new("base/vae/config.json"));
    assert_eq!(picture(&model, &BackendChoice::Cpu), folder_s_picture(Some("gguf"), None));
}

#[test]
fn a_single_part_replaces_that_of_a_checkpoint() {
    let same = folder_s_picture(Some("gguf"), None);
    for given in
        [["gguf.gguf", "all_in_one.safetensors", TOKENIZER], ["all_in_one.safetensors", TOKENIZER, "gguf.gguf"]]
    {
        let model = model_of(&Slow::new("tests/single_files", ""), None, &given).unwrap();
        assert_eq!(model.folder().name(), "gguf");
        assert_eq!(picture(&model, &BackendChoice::Cpu), same, "{given:?}");
    }
}

/// The configurations give what the shapes do not tell, and a scheduler its shift.
#[test]
fn configurations_belong_to_their_parts() {
    let copy = expected(None, None);
    fs::copy(exports().join("all_in_one.safetensors"), copy.path().join("all_in_one.safetensors")).unwrap();
    let scheduler = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 6.5}"#;
    fs::write(copy.path().join("scheduler/scheduler_config.json"), scheduler).unwrap();
    let config = fs::read_to_string(copy.path().join("vae/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["scaling_factor"] = 0.25.into();
    fs::write(copy.path().join("vae/config.json"), config.to_string()).unwrap();
    let given = [
        "all_in_one.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "vae/config.json",
        "scheduler/scheduler_config.json",
    ];
    let model = model_of(&Slow::new(copy.path(), ""), None, &given).unwrap();
    let same = Model::open(copy.path()).unwrap();
    let changed = picture(&model, &BackendChoice::Cpu);
    assert_eq!(changed, picture(&same, &BackendChoice::Cpu));
    let without = model_of(&Slow::new(copy.path(), ""), None, &given[..3]).unwrap();
    assert_ne!(changed, picture(&without, &BackendChoice::Cpu));
}

#[track_caller]
fn refuses(given: &[&str], expected: &str) {
    let error = model_of(&Slow::new("tests/single_files", ""), None, given).unwrap_err();
    assert_eq!(error.to_string(), expected, "{given:?}");
}

#[test]
fn what_does_not_make_a_model_is_refused() {
    let (transformer, encoder, vae) = ("gguf.gguf", "text_encoder.safetensors", "ae.safetensors");
    refuses(&[vae], "ae.safetensors: there is no transformer for this model");
    refuses(&[vae, transformer], "gguf.gguf: there is no text encoder for this model");
    refuses(&[transformer, encoder], "gguf.gguf: there is no VAE for this model");
    refuses(&[transformer, encoder, vae], "gguf.gguf: there is no tokenizer for this model");
    let second = "comfy.safetensors: expected one transformer, found another one in gguf.gguf";
    refuses(&[transformer, "comfy.safetensors"], second);
    let vae_config = "model/vae/config.json";
    refuses(
        &[vae_config, vae_config],
        "model/vae/config.json: expected one configuration of the same part, found another one in model/vae/config.json",
    );
    refuses(
        &["model/scheduler/scheduler_config.json", transformer, "text_encoder_gguf.gguf", TOKENIZER],
        "gguf.gguf: there is no VAE for this model",
    );
    refuses(
        &["model/model_index.json"],
        "model/model_index.json: expected a .safetensors, .sft or .gguf file, tokenizer.json, config.json or \
         scheduler_config.json",
    );
    refuses(
        &["all_in_one.safetensors", "model/tokenizer/tokenizer_config.json"],
        "model/tokenizer/tokenizer_config.json: expected a tokenizer.json or vocab.json with it",
    );
    let files = Slow::new("tests/single_files", "");
    let base = block_on(ModelFolder::remote("base", Slow::new("tests/single_files/model", ""))).unwrap();
    let error = model_of(&files, Some(base), &[vae_config]).unwrap_err().to_string();
    assert_eq!(error, "model/vae/config.json: expected the VAE of this configuration with it");
}

/// Files that cannot be used have one message, whether they are remote or on disk.
#[test]
fn remote_files_fail_as_those_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    let gguf = fs::read(exports().join("gguf.gguf")).unwrap();
    let comfy = fs::read(exports().join("comfy.safetensors")).unwrap();
    write("short.gguf", &gguf[..gguf.len() - 1000]);
    write("cut.gguf", &gguf[..100]);
    write("cut.safetensors", &comfy[..1000]);
    write("empty.sft", b"");
    write("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n");
    write("page.safetensors", b"<!doctype html><p>Please log in");
    fs::copy(exports().join("../lora/full.safetensors"), dir.path().join("lora.safetensors")).unwrap();
    let files = Slow::new(dir.path(), "");
    for name in ["short.gguf", "cut.gguf", "cut.safetensors", "empty.sft", "page.safetensors", "lora.safetensors"] {
        let remote = model_of(&files, None, &[name]).unwrap_err().to_string();
        let path = dir.path().join(name);
        let native = Model::from_sources(&Sources::of(&path)).unwrap_err().to_string();
        // On disk the file is named as the model, so it has to be a transformer.
        let native = native.replace(path.to_str().unwrap(), name).replace("expected a transformer, but ", "");
        assert_eq!(remote, native);
        assert!(remote.starts_with(name) && remote.len() > name.len() + 20, "{remote}");
    }
    let pointer = model_of(&files, None, &["pointer.safetensors"]).unwrap_err().to_string();
    assert!(pointer.contains("git-lfs pointer, not the file itself"), "{pointer}");
    let missing = model_of(&files, None, &["missing.gguf"]).unwrap_err().to_string();
    assert!(missing.starts_with("missing.gguf: there is no such file"), "{missing}");
    let outside = model_of(&files, None, &["../secret.gguf"]).unwrap_err().to_string();
    assert!(outside.starts_with("../secret.gguf: expected a path inside"), "{outside}");
    files.broken.store(true, SeqCst);
    let lost = model_of(&files, None, &["cut.gguf"]).unwrap_err().to_string();
    assert!(lost.ends_with("the connection is lost"), "{lost}");
}
