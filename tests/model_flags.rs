//! The flags that say where a model comes from, on the command line: parts that are missing, files
//! of the wrong kind, and LoRA files from the flag to the picture's metadata.
#![cfg(feature = "cli")]

#[allow(dead_code, reason = "tests/drawn_files.rs uses the rest")]
#[path = "support/single_files.rs"]
mod single_files;

use assert_cmd::Command;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use sha2::Digest;
use single_files::exports;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir};
use zimage::{Image, PngText};

/// The program in an empty folder, with an empty cache of the hub that it may not leave.
struct Program(TempDir);

impl Program {
    fn new() -> Self {
        Self(tempdir().unwrap())
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// A copy of an export, away from all others.
    fn alone(&self, export: &str) -> String {
        let to = self.path(export).with_extension("").join(export);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(exports().join(export), &to).unwrap();
        to.to_str().unwrap().to_owned()
    }

    /// A file with zeros in tensors of these names and shapes.
    fn file(&self, name: &str, tensors: &[(&str, &[usize])]) -> String {
        let zeros = vec![0; 2 << 20];
        let views = tensors.iter().map(|(name, shape)| {
            let bytes = &zeros[..2 * shape.iter().product::<usize>()];
            (*name, TensorView::new(Dtype::F16, shape.to_vec(), bytes).unwrap())
        });
        fs::write(self.path(name), safetensors::serialize(views, None).unwrap()).unwrap();
        name.to_owned()
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zimage"));
        command.current_dir(self.0.path()).args(arguments);
        command.env("HF_HOME", self.path("hub")).env("HF_HUB_OFFLINE", "1").env_remove("HF_HUB_CACHE");
        let output = command.output().unwrap();
        let [said, errors] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), said, errors)
    }

    /// Draws a small picture with more arguments. Returns its pixels and what the program said.
    #[track_caller]
    fn draws(&self, arguments: &[&str]) -> (Vec<u8>, String) {
        let output = ["-o", "drawn.png"];
        let (code, _, said) = self.run(&[DRAW, arguments, &output].concat());
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        (Image::open(&self.path("drawn.png")).unwrap().pixels, said)
    }

    /// Asserts an error of one line, without a picture, that has these parts.
    #[track_caller]
    fn refuses(&self, arguments: &[&str], parts: &[&str]) {
        let (code, _, said) = self.run(&[DRAW, arguments].concat());
        assert_eq!(code, Some(3), "{arguments:?}: {said}");
        assert!(said.starts_with("error: ") && said.matches('\n').count() == 1, "{arguments:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{arguments:?}: {part:?} is not in {said:?}");
        }
        assert!(!self.path("zimage.png").exists(), "{arguments:?}");
    }
}

/// Arguments that draw quickly.
const DRAW: &[&str] =
    &["generate", "a red fox", "--backend", "cpu", "-W", "32", "-H", "32", "--steps", "1", "--seed", "7"];

fn tests(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path).to_str().unwrap().to_owned()
}

#[test]
fn a_missing_part_says_how_to_get_it() {
    let program = Program::new();
    let model = program.alone("comfy.safetensors");
    let [text_encoder, vae] = ["text_encoder.safetensors", "ae.safetensors"].map(|name| program.alone(name));
    let flags = ["--model", &model, "--text-encoder", &text_encoder, "--vae", &vae];
    let parts = [(2, "text encoder", "--text-encoder"), (4, "VAE", "--vae"), (6, "tokenizer", "--tokenizer")];
    for (given, part, flag) in parts {
        let missing = format!("comfy.safetensors: there is no {part} for this model; give it with {flag} (");
        program.refuses(&flags[..given], &[&missing, "fetch it once with zimage pull Tongyi-MAI/Z-Image-Turbo"]);
    }
    let tokenizer = exports().join("model/tokenizer");
    program.draws(&[&flags, &["--tokenizer", tokenizer.to_str().unwrap()][..]].concat());
}

#[test]
fn a_file_in_the_wrong_place_is_named() {
    let program = Program::new();
    let export = |name: &str| exports().join(name).to_str().unwrap().to_owned();
    let [folder, transformer, gguf] = ["model", "comfy.safetensors", "gguf.gguf"].map(export);
    let [text_encoder, vae] = ["text_encoder.safetensors", "ae.safetensors"].map(export);
    let [lora, small] = [tests("lora/core_lora.safetensors"), tests("goldens/single")];
    let sdxl = program.file(
        "sdxl.safetensors",
        &[
            ("model.diffusion_model.input_blocks.0.0.weight", &[320, 4, 3, 3]),
            ("model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", &[64, 2048]),
        ],
    );
    let flux = program.file(
        "flux.safetensors",
        &[("double_blocks.0.img_attn.qkv.weight", &[96, 32]), ("single_blocks.0.linear1.weight", &[64, 32])],
    );
    let sd_vae = program.file(
        "sd.safetensors",
        &[("decoder.conv_in.weight", &[512, 4, 3, 3]), ("decoder.mid.block_1.conv1.weight", &[64, 64, 3, 3])],
    );
    let unknown = program.file("unknown.safetensors", &[("a.weight", &[2, 2])]);

    for (model, says) in [
        (&lora, "this is a LoRA for the transformer of Z-Image"),
        (&text_encoder, "this is a Qwen3 text encoder"),
        (&vae, "this is a FLUX.1 VAE"),
        (&sdxl, "this is an SDXL model"),
        (&flux, "this is a FLUX.1 transformer"),
        (&unknown, "the tensors of no known model"),
    ] {
        program.refuses(&["--model", model], &[model, says]);
    }
    for (flag, path, says) in [
        ("--text-encoder", &vae, "expected a text encoder"),
        ("--text-encoder", &vae, "this is a FLUX.1 VAE"),
        ("--text-encoder", &gguf, "this is a Z-Image transformer"),
        ("--text-encoder", &sdxl, "this is an SDXL model"),
        ("--vae", &text_encoder, "expected a VAE"),
        ("--vae", &text_encoder, "this is a Qwen3 text encoder"),
        ("--vae", &sd_vae, "which has 4 latent channels"),
        ("--vae", &lora, "this is a LoRA for the transformer of Z-Image"),
        ("--tokenizer", &gguf, "expected a tokenizer"),
        ("--tokenizer", &vae, "expected a tokenizer"),
    ] {
        program.refuses(&["--model", &folder, flag, path], &[path, says]);
    }
    for path in [&transformer, &vae, &sdxl] {
        program.refuses(&["--model", &small, "--lora", path], &[path]);
    }
    let nowhere = program.path("nowhere.safetensors").to_str().unwrap().to_owned();
    for flag in ["--text-encoder", "--vae", "--tokenizer", "--lora"] {
        program.refuses(&["--model", &small, flag, &nowhere], &["nowhere.safetensors"]);
    }
}

#[test]
fn a_lora_of_strength_zero_changes_nothing() {
    let program = Program::new();
    let small = tests("goldens/single");
    let lora = |strength: &str| tests("lora/strength.safetensors") + strength;
    let (plain, _) = program.draws(&["--model", &small]);
    let (zero, said) = program.draws(&["--model", &small, "--lora", &lora(":0")]);
    assert!(zero == plain, "strength 0 draws another picture");
    assert!(said.contains("strength.safetensors: ") && said.contains("strength 0\n"), "{said}");
    let (one, _) = program.draws(&["--model", &small, "--lora", &lora("")]);
    let (more, _) = program.draws(&["--model", &small, "--lora", &lora(":2.5")]);
    assert!(one != plain && more != plain && more != one, "the strength makes no difference");
}

#[test]
fn a_lora_is_reported_and_recorded() {
    let program = Program::new();
    let small = tests("goldens/single");
    let (first, second) = (tests("lora/strength.safetensors"), tests("lora/core_lora.safetensors"));
    let (_, said) = program.draws(&["--model", &small, "--lora", &format!("{first}:-0.75"), "--lora", &second]);
    for report in [
        "strength.safetensors: 2 of 2 tensors applied (1 layer), strength -0.75\n",
        "core_lora.safetensors: 4 of 4 tensors applied (1 layer), strength 1\n",
    ] {
        assert!(said.contains(report), "{report:?} is not in {said}");
    }
    let drawn = program.path("drawn.png");
    let text = PngText::open(&drawn).unwrap();
    let loras = text.info.unwrap().loras;
    let (_, shown, _) = program.run(&["inspect", "drawn.png"]);
    let (_, document, _) = program.run(&["inspect", "drawn.png", "--json"]);
    let document: Value = serde_json::from_str(&document).unwrap();
    for (i, (file, name, strength)) in
        [(&first, "strength", -0.75), (&second, "core_lora", 1.0)].into_iter().enumerate()
    {
        let hash: String =
            sha2::Sha256::digest(fs::read(file).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((&*loras[i].name, loras[i].strength, &loras[i].sha256), (name, strength, &hash));
        assert!(shown.contains(&format!("{name}, strength {strength}, SHA-256 {hash}\n")), "{shown}");
        let recorded = &document["zimage"]["loras"][i];
        assert_eq!((recorded["name"].as_str(), recorded["strength"].as_f64()), (Some(name), Some(f64::from(strength))));
        let parameters = text.parameters.as_ref().unwrap();
        assert!(parameters.contains(&format!("{name}: {}", &hash[..10])), "{parameters}");
    }
}

#[test]
fn unused_tensors_are_an_error_or_a_warning() {
    let program = Program::new();
    let small = tests("goldens/single");
    let lora = program.file(
        "half.safetensors",
        &[
            ("layers.0.attention.to_k.lora_A.weight", &[2, 64]),
            ("layers.0.attention.to_k.lora_B.weight", &[64, 2]),
            ("layers.9.attention.to_k.lora_A.weight", &[2, 64]),
            ("layers.9.attention.to_k.lora_B.weight", &[64, 2]),
        ],
    );
    let unused = "2 of 4 tensors cannot be applied: layers.9.attention.to_k";
    program.refuses(&["--model", &small, "--lora", &lora], &["half.safetensors", unused]);
    let (_, said) = program.draws(&["--model", &small, "--lora", &lora, "--lora-allow-unused"]);
    let warnings: Vec<&str> = said.lines().filter(|line| line.starts_with("warning: half.safetensors: ")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains(unused), "{said}");
    assert!(said.contains("half.safetensors: 2 of 4 tensors applied (1 layer), strength 1\n"), "{said}");
}
