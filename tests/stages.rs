//! `zimage stages` on the command line: its results match those of diffusers, and inputs of wrong
//! shape get one sentence.
#![cfg(feature = "cli")]

#[allow(dead_code)]
#[path = "support/golden.rs"]
mod golden;
#[path = "support/single_files.rs"]
mod single_files;

use assert_cmd::Command;
use golden::{MODELS, Tensors, json, numbers, path, text};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::fs;
use std::path::Path;
use std::process::Output;
use tempfile::tempdir;
use zimage::conformance::relative_error;
use zimage::pipeline::prompt::Tokenizer;
use zimage::tensor::{DType, HostTensor};

/// The tolerance of a stage on `cpu`, equal to that of `tests/goldens.rs`.
const TOLERANCE: f64 = 1e-4;

/// Named tensors in their stored form.
#[derive(Default)]
struct Inputs(Vec<(String, Dtype, Vec<usize>, Vec<u8>)>);

impl Inputs {
    fn push(&mut self, name: &str, tensor: &HostTensor) {
        self.0.push((name.to_owned(), Dtype::F32, tensor.shape().to_vec(), tensor.bytes().to_vec()));
    }

    fn zeros(mut self, name: &str, shape: &[usize]) -> Self {
        self.push(name, &HostTensor::from_f32(shape, &vec![0.0; shape.iter().product()]));
        self
    }

    fn ids(mut self, name: &str, ids: &[i64]) -> Self {
        let bytes = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        self.0.push((name.to_owned(), Dtype::I64, vec![ids.len()], bytes));
        self
    }

    fn write(&self, file: &Path) {
        let views = self.0.iter().map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
            (name.clone(), view)
        });
        safetensors::serialize_to_file(views, None, file).unwrap();
    }
}

/// Runs the program in `folder`, which holds its inputs.
fn stages(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zimage"));
    command.current_dir(folder).args(["stages", "--inputs", "in.safetensors", "-o", "out.safetensors"]);
    command.args(arguments).output().unwrap()
}

/// The results of the stages of a model on `cpu`, by name.
fn results(arguments: &[&str], inputs: &Inputs) -> impl Fn(&str) -> HostTensor + use<> {
    let folder = tempdir().unwrap();
    inputs.write(&folder.path().join("in.safetensors"));
    let output = stages(folder.path(), &[&["--backend", "cpu"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = String::from_utf8(output.stderr).unwrap();
    assert!(report.starts_with("wrote out.safetensors (") && report.ends_with(" bytes)\n"), "{report}");
    assert!(output.stdout.is_empty() && report.matches('\n').count() == 1, "{report}");
    let file = fs::read(folder.path().join("out.safetensors")).unwrap();
    move |name| {
        let file = SafeTensors::deserialize(&file).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::F32);
        HostTensor::new(DType::F32, view.shape(), view.data().to_vec().into()).unwrap()
    }
}

#[track_caller]
fn expect(name: &str, out: &HostTensor, recorded: &HostTensor) {
    assert_eq!(out.shape(), recorded.shape(), "{name}");
    let error = relative_error(&out.to_f32(), &recorded.to_f32());
    assert!(error <= TOLERANCE, "{name}: {error:.1e}");
}

#[test]
fn stages_match_diffusers() {
    for model in MODELS {
        let (cases, recorded) = (json(&format!("{model}.json")), Tensors::read(&format!("{model}.safetensors")));
        let tokenizer = path(model).join("tokenizer/tokenizer.json");
        let tokenizer = Tokenizer::read(&fs::read(&tokenizer).unwrap(), &tokenizer).unwrap();
        let ids =
            |prompt: &str| -> Vec<i64> { tokenizer.encode(prompt).unwrap().ids.into_iter().map(i64::from).collect() };

        let mut inputs = Inputs::default();
        for case in cases["text"].as_array().unwrap() {
            inputs = inputs.ids(&format!("text.{}.ids", text(&case["name"])), &ids(text(&case["prompt"])));
        }
        let case = cases["loops"].as_array().unwrap().iter().find(|case| case["name"] == "cfg_normalized").unwrap();
        let prompts: Vec<&str> = [&case["prompts"], &case["negatives"]]
            .into_iter()
            .flat_map(|list| list.as_array().unwrap().iter().map(text))
            .collect();
        for (i, prompt) in prompts.iter().enumerate() {
            inputs = inputs.ids(&format!("text.loop-{i}.ids"), &ids(prompt));
        }
        for case in cases["transformer"].as_array().unwrap() {
            let prefix = format!("transformer.{}", text(&case["name"]));
            inputs.push(&format!("{prefix}.latents"), &recorded.f32(&format!("{prefix}.latents")));
            inputs.push(&format!("{prefix}.times"), &recorded.f32(&format!("{prefix}.times")));
            for i in 0..numbers(&case["caption_tokens"]).len() {
                let name = format!("{prefix}.caption.{i}");
                inputs.push(&name, &recorded.f32(&name));
            }
        }
        inputs.push("vae.decode.latents", &recorded.f32("vae.decode.latents"));
        let folder = path(model);
        let arguments = ["--model", folder.to_str().unwrap()];
        let result = results(&arguments, &inputs);

        for case in cases["text"].as_array().unwrap() {
            let name = format!("text.{}.features", text(&case["name"]));
            expect(&name, &result(&name), &recorded.f32(&name));
        }
        for case in cases["transformer"].as_array().unwrap() {
            let name = format!("transformer.{}.velocity", text(&case["name"]));
            expect(&name, &result(&name), &recorded.f32(&name));
        }
        let image = recorded.f32("vae.decode.image");
        expect("vae.decode.image", &result("vae.decode.image"), &channels_last(&image));

        // With guidance: two pictures with four captions, which the first run encoded.
        let mut inputs = Inputs::default();
        inputs.push("transformer.guided.latents", &recorded.f32("loop.cfg_normalized.step.0"));
        let times = recorded.f32(&format!("schedule.{}.times", case["steps"])).to_f32();
        inputs.push("transformer.guided.times", &HostTensor::from_f32(&[1], &times[1..2]));
        for i in 0..prompts.len() {
            inputs.push(&format!("transformer.guided.caption.{i}"), &result(&format!("text.loop-{i}.features")));
        }
        let velocity = results(&arguments, &inputs)("transformer.guided.velocity");
        expect("guided", &velocity, &recorded.f32("loop.cfg_normalized.velocity.1"));
    }
}

/// Converts `[B, C, H, W]` to `[B, H, W, C]`.
fn channels_last(image: &HostTensor) -> HostTensor {
    let (shape, values) = (image.shape(), image.to_f32());
    let [channels, pixels] = [shape[1], shape[2] * shape[3]];
    let pixel = |item: &[f32], i: usize| (0..channels).map(|c| item[c * pixels + i]).collect::<Vec<_>>();
    let items = values.chunks_exact(channels * pixels);
    let values: Vec<f32> =
        items.flat_map(|item| (0..pixels).flat_map(|i| pixel(item, i)).collect::<Vec<_>>()).collect();
    HostTensor::from_f32(&[shape[0], shape[2], shape[3], channels], &values)
}

/// The model's flags are those of `generate`: its parts may be files, and change their storage.
#[test]
fn parts_come_from_files_and_change_their_storage() {
    let model = single_files::exports().join("model");
    let file = single_files::exports().join("text_encoder_gguf.gguf");
    let converted = single_files::expected(None, Some("text_encoder_gguf"));
    let inputs = Inputs::default().ids("text.a.ids", &[5, 17, 42, 300, 8, 1]);
    let features = |model: &Path, flags: &[&str]| {
        let arguments = [&["--model", model.to_str().unwrap()], flags].concat();
        results(&arguments, &inputs)("text.a.features")
    };
    let distance = |a: &HostTensor, b: &HostTensor| relative_error(&a.to_f32(), &b.to_f32());
    let [own, values] = [features(&model, &[]), features(converted.path(), &[])];
    assert!(distance(&own, &values) > 1e-3, "the file has values of its own");
    expect("a GGUF text encoder", &features(&model, &["--text-encoder", file.to_str().unwrap()]), &values);
    // A row's values are at most 2^-4 of themselves away from their E4M3 codes.
    let rounded = distance(&features(&model, &["--weights", "fp8"]), &own);
    assert!((1e-4..0.1).contains(&rounded), "{rounded:.1e}");
}

#[test]
fn inputs_of_wrong_shape_are_one_sentence() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    let model = path("single");
    let says = |inputs: &Inputs, parts: &[&str]| {
        inputs.write(&f.join("in.safetensors"));
        fails(f, &["--model", model.to_str().unwrap()], 3, &[&["in.safetensors: "], parts].concat());
    };
    let new = Inputs::default;
    says(&new(), &["there is no tensor in it"]);
    says(&new().zeros("vae.a.latent", &[1]), &["tensor vae.a.latent: expected a name that a stage reads"]);
    says(&new().ids("text.a.ids", &[]), &["text.a.ids: expected 1 to 512 token ids, found 0"]);
    says(&new().ids("text.a.ids", &[7; 513]), &["found 513"]);
    says(&new().ids("text.a.ids", &[1, 640]), &["text.a.ids", "ids below 640", "found 640"]);
    says(&new().ids("text.a.ids", &[1, -1]), &["text.a.ids", "numbers from 0", "found -1"]);
    says(&new().ids("text.a.ids", &[1 << 32]), &["found 4294967296"]);
    says(&new().zeros("text.a.ids", &[3]), &["text.a.ids: expected a vector of U32, I32 or I64", "found F32 [3]"]);
    says(&new().zeros("vae.a.latents", &[1, 4, 2, 2]), &["latents [B, 16, h, w], found [1, 4, 2, 2]"]);
    says(&new().zeros("vae.a.latents", &[16, 2, 2]), &["latents [B, 16, h, w]"]);
    says(&new().zeros("vae.a.latents", &[1, 16, 0, 2]), &["latents [B, 16, h, w]"]);
    says(&new().ids("vae.a.latents", &[1]), &["latents [B, 16, h, w]"]);

    let latents = |shape: &[usize]| new().zeros("transformer.a.latents", shape);
    let size = [2, 16, 4, 4];
    says(&latents(&[1, 16, 3, 4]), &["latents [B, 16, h, w], h and w multiples of 2, found [1, 16, 3, 4]"]);
    says(&latents(&size), &["tensor transformer.a.caption.0: expected [1, 48]"]);
    let captioned = |count: usize| {
        (0..count).fold(latents(&size), |inputs, i| inputs.zeros(&format!("transformer.a.caption.{i}"), &[5, 48]))
    };
    says(&captioned(3), &["tensor transformer.a.caption: expected a multiple of 2 captions", "found 3"]);
    says(&captioned(2), &["tensor transformer.a.times: expected [1]"]);
    says(&captioned(4).zeros("transformer.a.times", &[4]), &["times: expected [1]", "found F32 [4]"]);
    says(
        &captioned(1).zeros("transformer.a.caption.1", &[5, 47]),
        &["caption.1: expected [5, 48]", "found F32 [5, 47]"],
    );
    let extra = captioned(2).zeros("transformer.a.times", &[2]).zeros("transformer.a.caption.3", &[5, 48]);
    says(&extra, &["tensor transformer.a.caption.3: expected a name that a stage reads"]);
    // There are 49 rows of patches, and the model has positions for 48.
    let tall = new().zeros("transformer.a.latents", &[1, 16, 98, 2]).zeros("transformer.a.caption.0", &[1, 48]);
    tall.zeros("transformer.a.times", &[1]).write(&f.join("in.safetensors"));
    fails(f, &["--model", model.to_str().unwrap()], 2, &["past the positions"]);

    fs::write(f.join("in.safetensors"), b"not safetensors").unwrap();
    fails(f, &[], 3, &["in.safetensors: expected a safetensors file"]);
    fs::remove_file(f.join("in.safetensors")).unwrap();
    fails(f, &[], 3, &["in.safetensors: there is no such file"]);
    fails(f, &["-o", "missing/out.safetensors"], 2, &["--output"]);
    fails(f, &["--backend", "auto"], 2, &["auto"]);
    assert!(!f.join("out.safetensors").exists());
}

#[track_caller]
fn fails(folder: &Path, arguments: &[&str], code: i32, parts: &[&str]) {
    let output = stages(folder, arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.starts_with("error: ") && error.lines().count() == 1 && output.stdout.is_empty(), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}
