//! `zimage inspect` and `zimage models` on the files that people have: parts of Z-Image in every
//! format, LoRAs, ControlNets, other models, and unknown files.
//!
//! The exports of `tests/single_files` and `tests/lora` come from other programs. Files of other
//! models are their marks in tiny safetensors files.
#![cfg(feature = "cli")]

#[path = "support/other_models.rs"]
mod other_models;
#[path = "support/program.rs"]
mod program;

use other_models::{Z_IMAGE, others, write, write_bf16};
use program::{fails, succeeds, zimage};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::tempdir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn exports() -> PathBuf {
    root().join("tests/single_files")
}

fn inspect(path: &Path) -> Value {
    let (text, _) = succeeds(root(), &["inspect", path.to_str().unwrap(), "--json"]);
    serde_json::from_str(&text).unwrap()
}

/// The document of a file that can be used.
#[track_caller]
fn used(path: &Path, kind: &str, flag: &str) -> Value {
    let document = inspect(path);
    assert_eq!((&document["kind"], &document["flag"]), (&kind.into(), &flag.into()), "{document:#}");
    assert_eq!(document["problem"], Value::Null, "{document:#}");
    document
}

#[test]
fn exports_have_kinds_and_formats() {
    let needs = json!(["text encoder", "VAE", "tokenizer"]);
    // The counts are those of the notes beside the weights, and of the scales in the old file.
    let mixed = json!({
        "float8_e4m3fn": 1, "float8_e5m2": 1, "int8_tensorwise": 1, "int8_tensorwise with convrot": 1, "mxfp8": 1, "nvfp4": 2
    });
    let noted = json!({
        "float8_e5m2": 1, "int8_tensorwise": 2, "int8_tensorwise with convrot": 1, "mxfp8": 2, "nvfp4": 1
    });
    for (name, quantised) in [
        ("comfy", Value::Null),
        ("fp8", Value::Null),
        ("fp8_scaled", json!({"fp8_scaled": 7})),
        ("comfy_quant", mixed),
        ("comfy_quant_metadata", noted),
        ("comfy_quant_int8", json!({"int8_tensorwise": 3, "int8_tensorwise with convrot": 2})),
    ] {
        let document = used(&exports().join(format!("{name}.safetensors")), "transformer", "--model");
        assert_eq!((&document["needs"], &document["format"]), (&needs, &"safetensors".into()), "{name}");
        assert_eq!(document.get("quantised").unwrap_or(&Value::Null), &quantised, "{name}");
        let shape = &document["parts"]["transformer"]["shape"];
        let config = fs::read(exports().join("model/transformer/config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        for (ours, theirs) in [("dim", "dim"), ("layers", "n_layers"), ("caption_dim", "cap_feat_dim")] {
            assert_eq!(shape[ours], config[theirs], "{name}");
        }
    }
    for name in ["gguf", "gguf_floats"] {
        let document = used(&exports().join(format!("{name}.gguf")), "transformer", "--model");
        assert_eq!(document["format"], "gguf");
        assert!(document["version"] == 3 && document["types"].as_object().unwrap().len() > 1, "{document:#}");
    }
    let encoder = used(&exports().join("text_encoder_gguf.gguf"), "text_encoder", "--text-encoder");
    assert_eq!((&encoder["architecture"], &encoder["tokenizer"]), (&"qwen3".into(), &true.into()));
    assert_eq!(encoder["needs"], json!(["transformer", "VAE"]));
    used(&exports().join("text_encoder.safetensors"), "text_encoder", "--text-encoder");
    used(&exports().join("ae.safetensors"), "vae", "--vae");
    let all = used(&exports().join("all_in_one.safetensors"), "checkpoint", "--model");
    assert_eq!(all["parts"].as_object().unwrap().keys().collect::<Vec<_>>(), ["text_encoder", "transformer", "vae"]);
    assert_eq!(all["needs"], json!(["tokenizer"]));
}

#[test]
fn every_format_has_the_same_parameters() {
    let parameters = |path: &Path| inspect(path)["parts"]["transformer"]["parameters"].as_u64().unwrap();
    let of = |name: &str| parameters(&exports().join(name));
    let folder = parameters(&exports().join("model/transformer"));
    for name in
        ["comfy.safetensors", "fp8.safetensors", "fp8_scaled.safetensors", "gguf.gguf", "all_in_one.safetensors"]
    {
        assert_eq!(of(name), folder, "{name}");
    }
}

#[test]
fn text_is_for_people() {
    let path = exports().join("fp8_scaled.safetensors");
    let (text, _) = succeeds(root(), &["inspect", path.to_str().unwrap()]);
    for part in [
        "a Z-Image transformer",
        "safetensors, 537.4 kB",
        "F8_E4M3",
        "in fp8_scaled",
        "1 layer and 1 + 1 refiners",
        "--model; drawing also needs a text encoder, a VAE and a tokenizer",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!text.contains("problem"), "{text}");
}

#[test]
fn the_parts_of_a_folder_are_inspected_alone() {
    let model = exports().join("model");
    for (part, kind, flag, files) in [
        ("transformer", "transformer", "--model", 2),
        ("text_encoder", "text_encoder", "--text-encoder", 1),
        ("vae", "vae", "--vae", 1),
    ] {
        let document = used(&model.join(part), kind, flag);
        assert_eq!(document["files"], files, "{document:#}");
        assert_eq!(document["parts"].as_object().unwrap().keys().collect::<Vec<_>>(), [part]);
    }
    // A file's neighbours are no part of it.
    let folder = tempdir().unwrap();
    for name in ["comfy.safetensors", "text_encoder.safetensors", "ae.safetensors"] {
        fs::copy(exports().join(name), folder.path().join(name)).unwrap();
    }
    let document = used(&folder.path().join("comfy.safetensors"), "transformer", "--model");
    assert_eq!(document["parts"].as_object().unwrap().keys().collect::<Vec<_>>(), ["transformer"]);
}

#[test]
fn a_missing_shard_is_a_problem() {
    let folder = tempdir().unwrap();
    let from = exports().join("model/transformer");
    for name in [
        "config.json",
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model-00001-of-00002.safetensors",
    ] {
        fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    let document = inspect(folder.path());
    assert_eq!(document["flag"], Value::Null, "{document:#}");
    assert!(document["problem"].as_str().unwrap().contains("00002-of-00002.safetensors: there is no such file"));
}

#[test]
fn loras_have_methods_and_ranks() {
    for (name, layers, ranks) in [
        ("kohya", json!({"LoRA": 3}), json!([4, 4])),
        ("peft_dora", json!({"LoRA with DoRA": 1}), json!([4, 4])),
        ("lycoris_dokr", json!({"LoKr with DoRA": 1}), json!([3, 3])),
        ("core_loha", json!({"LoHa": 1}), json!([3, 3])),
        ("lycoris_lokr_full", json!({"LoKr": 1}), json!(null)),
        ("full", json!({"difference": 1}), json!(null)),
    ] {
        let document = used(&root().join(format!("tests/lora/{name}.safetensors")), "lora", "--lora");
        assert_eq!(document["description"], "a LoRA for the transformer of Z-Image", "{name}");
        assert_eq!((&document["lora"]["layers"], &document["lora"]["ranks"]), (&layers, &ranks), "{name}");
    }
    let folder = tempdir().unwrap();
    let path = folder.path().join("flux.safetensors");
    let layer = "transformer.single_transformer_blocks.0.attn.to_q";
    let tensors = [(format!("{layer}.lora_A.weight"), [4, 64]), (format!("{layer}.lora_B.weight"), [64, 4])];
    write_bf16(&path, &tensors.each_ref().map(|(name, shape)| (name.as_str(), &shape[..])));
    let document = inspect(&path);
    assert_eq!((&document["kind"], &document["flag"]), (&"lora".into(), &Value::Null));
    assert_eq!(document["description"], "a LoRA for FLUX or HunyuanVideo");
    let arguments = ["generate", "a fox", "--lora", "flux.safetensors", "--backend", "cpu"];
    fails(
        folder.path(),
        &arguments,
        3,
        "this is a LoRA for FLUX or HunyuanVideo; zimage draws with Z-Image models only",
    );
}

#[test]
fn controlnets_have_versions() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    let names: Vec<String> = (0..15).map(|i| format!("control_layers.{i}.after_proj.weight")).collect();
    let decides = "control_noise_refiner.0.before_proj.weight";
    let blocks = |count: usize| names[..count].iter().map(|name| (name.as_str(), &[2, 2][..]));
    for (count, refiner, version) in [(6, false, "1.0"), (3, true, "2.1 lite"), (15, false, "2.0"), (15, true, "2.0")] {
        let refiner = refiner.then_some((decides, &[2, 2][..]));
        write_bf16(&path, &blocks(count).chain(refiner).collect::<Vec<_>>());
        let description = format!("the Z-Image-Fun ControlNet {version}, and ControlNets are not supported");
        assert_eq!(inspect(&path)["description"], description);
    }
    // One value of the last tensor tells 2.1.
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() = 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(inspect(&path)["description"], "the Z-Image-Fun ControlNet 2.1, and ControlNets are not supported");
}

#[test]
fn other_models_are_named_everywhere() {
    let (folder, files) = others();
    for (file, says) in &files {
        let document = inspect(&folder.path().join(file));
        assert!(document["description"].as_str().unwrap().starts_with(says), "{document:#}");
        assert_eq!((&document["flag"], &document["needs"]), (&Value::Null, &json!([])), "{file}");
        let (text, _) = succeeds(folder.path(), &["inspect", file]);
        assert!(text.contains(says) && text.contains("use      none"), "{text}");
        let comfy = exports().join("comfy.safetensors");
        let comfy = comfy.to_str().unwrap();
        for (arguments, expected) in [
            (&["--model", file][..], "transformer"),
            (&["--model", comfy, "--text-encoder", file], "text encoder"),
            (
                &[
                    "--model",
                    comfy,
                    "--text-encoder",
                    &format!("{}/text_encoder.safetensors", exports().display()),
                    "--vae",
                    file,
                ],
                "VAE",
            ),
        ] {
            let sentence = format!("{file}: expected a {expected}, but this is {says}");
            fails(folder.path(), &[&["generate", "a fox", "--backend", "cpu"], arguments].concat(), 3, &sentence);
        }
        let lora = ["generate", "a fox", "--backend", "cpu", "--lora", file];
        let sentence = match *says {
            "a file with the tensors of no known model" => {
                "expected a LoRA, found 1 tensors with none of its names".into()
            }
            says => format!("{file}: expected a LoRA, but this is {says}"),
        };
        fails(folder.path(), &lora, 3, &sentence);
    }
}

#[test]
fn a_file_at_the_wrong_flag_has_another() {
    let file = |name: &str| exports().join(name).display().to_string();
    let (comfy, encoder, vae) = (file("comfy.safetensors"), file("text_encoder.safetensors"), file("ae.safetensors"));
    let lora = root().join("tests/lora/kohya.safetensors").display().to_string();
    for (arguments, says, advice) in [
        (&["--model", &vae][..], "expected a transformer, but this is a FLUX.1 VAE", "; give it with --vae"),
        (&["--model", &lora], "but this is a LoRA for the transformer of Z-Image", "; give it with --lora"),
        (&["--model", &comfy, "--text-encoder", &vae], "expected a text encoder, but", "; give it with --vae"),
        // The file is at its own flag too.
        (&["--model", &comfy, "--text-encoder", &encoder, "--vae", &encoder], "but this is a Qwen3", "text encoder"),
        (&["--lora", &encoder], "expected a LoRA, but this is a Qwen3", "; give it with --text-encoder"),
    ] {
        let arguments = [&["generate", "a fox", "--backend", "cpu"], arguments].concat();
        let output = zimage(tempdir().unwrap().path(), &arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{error}");
        assert!(error.contains(says) && error.trim_end().ends_with(advice), "{error}");
    }
}

#[test]
fn files_of_other_formats_are_named() {
    let folder = tempdir().unwrap();
    let f = folder.path();
    let html = "<!DOCTYPE html><html>not found</html>";
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
    let gguf = fs::read(exports().join("gguf.gguf")).unwrap();
    for (name, bytes, says) in [
        ("a.ckpt", &b"PK\x03\x04\x00\x00\x08\x08\x00\x00"[..], "PyTorch checkpoint (pickle), which is not supported"),
        ("a.pt", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20", "PyTorch checkpoint"),
        ("a.safetensors", html.as_bytes(), "a web page, as a failed download leaves it"),
        ("a.gguf", pointer.as_bytes(), "a git-lfs pointer, not the file itself"),
        ("b.safetensors", b"", "found a file of 0 bytes"),
        ("b.gguf", &gguf[..gguf.len() - 9], "it is truncated; download it again"),
        (
            "d.gguf",
            b"GGUX\x03\0\0\0\0\0",
            "expected a GGUF file, as the name says, found a file of 10 bytes that begins with \"GGUX\"",
        ),
        ("e.GGUF", b"GG", "expected a GGUF file, as the name says, found a file of 2 bytes"),
        ("e.gguf", &[0; 100], r#"that begins with "\0\0\0\0" instead of "GGUF""#),
        ("f.gguf", html.as_bytes(), "expected a GGUF file, as the name says, found a web page"),
        ("c.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "a picture"),
        ("c.txt", b"no weights in here", "it is truncated or of another format"),
        ("config.json", b"{}", "name the folder of the whole model"),
    ] {
        fs::write(f.join(name), bytes).unwrap();
        fails(f, &["inspect", name], 3, says);
        fails(f, &["inspect", name, "--json"], 3, says);
    }
    fails(f, &["inspect", "nowhere.gguf"], 3, "there is no such file");
    // The content decides, not the name.
    fs::copy(exports().join("gguf.gguf"), f.join("renamed.safetensors")).unwrap();
    assert_eq!(inspect(&f.join("renamed.safetensors"))["format"], "gguf");
    fs::copy(exports().join("ae.safetensors"), f.join("ae.bin")).unwrap();
    used(&f.join("ae.bin"), "vae", "--vae");
}

#[test]
fn files_that_cannot_be_used_have_a_problem() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("z.safetensors");
    write_bf16(&path, &Z_IMAGE);
    let document = inspect(&path);
    assert_eq!((&document["kind"], &document["flag"]), (&"transformer".into(), &Value::Null));
    assert!(document["problem"].as_str().unwrap().contains("layers.0.attention_norm1.weight"), "{document:#}");
    let mut tensors: Vec<_> = Z_IMAGE.into_iter().map(|(name, shape)| (name, "BF16", shape)).collect();
    tensors[8].1 = "F64";
    write(&path, &tensors);
    let problem = "tensor x_embedder.weight: expected F32, F16, BF16 or a quantised format, found F64 [48, 64], which is not \
                   read; convert the file to F32, F16 or BF16";
    assert!(inspect(&path)["problem"].as_str().unwrap().ends_with(problem));
}

/// The published transformer at full size, without its values.
#[cfg(target_os = "linux")]
#[test]
fn the_published_sizes_are_derived() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("z_image_turbo_bf16.safetensors");
    let (dim, hidden, caption) = (3840, 10240, 2560);
    let mut tensors: Vec<(String, Vec<usize>)> = [
        ("x_embedder.weight", vec![dim, 64]),
        ("x_embedder.bias", vec![dim]),
        ("final_layer.linear.weight", vec![64, dim]),
        ("final_layer.linear.bias", vec![64]),
        ("final_layer.adaLN_modulation.1.weight", vec![dim, 256]),
        ("final_layer.adaLN_modulation.1.bias", vec![dim]),
        ("t_embedder.mlp.0.weight", vec![1024, 256]),
        ("t_embedder.mlp.0.bias", vec![1024]),
        ("t_embedder.mlp.2.weight", vec![256, 1024]),
        ("t_embedder.mlp.2.bias", vec![256]),
        ("cap_embedder.0.weight", vec![caption]),
        ("cap_embedder.1.weight", vec![dim, caption]),
        ("cap_embedder.1.bias", vec![dim]),
        ("x_pad_token", vec![1, dim]),
        ("cap_pad_token", vec![1, dim]),
    ]
    .map(|(name, shape)| (name.to_owned(), shape))
    .to_vec();
    for (stack, blocks) in [("layers", 30), ("noise_refiner", 2), ("context_refiner", 2)] {
        for i in 0..blocks {
            let mut add = |name: &str, shape: &[usize]| tensors.push((format!("{stack}.{i}.{name}"), shape.to_vec()));
            add("attention.qkv.weight", &[3 * dim, dim]);
            add("attention.out.weight", &[dim, dim]);
            for name in ["attention.q_norm.weight", "attention.k_norm.weight"] {
                add(name, &[128]);
            }
            for name in ["attention_norm1.weight", "attention_norm2.weight", "ffn_norm1.weight", "ffn_norm2.weight"] {
                add(name, &[dim]);
            }
            add("feed_forward.w1.weight", &[hidden, dim]);
            add("feed_forward.w2.weight", &[dim, hidden]);
            add("feed_forward.w3.weight", &[hidden, dim]);
            if stack != "context_refiner" {
                add("adaLN_modulation.0.weight", &[4 * dim, 256]);
                add("adaLN_modulation.0.bias", &[4 * dim]);
            }
        }
    }
    write_bf16(&path, &tensors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect::<Vec<_>>());
    let document = used(&path, "transformer", "--model");
    // The count that the model's card rounds to 6B.
    assert_eq!(document["parameters"], 6_154_908_736_u64);
    let shape = &document["parts"]["transformer"]["shape"];
    assert_eq!((&shape["dim"], &shape["layers"], &shape["heads"]), (&3840.into(), &30.into(), &30.into()));
    assert_eq!((&shape["head_dim"], &shape["feed_forward_dim"]), (&128.into(), &10240.into()));
}

#[test]
fn models_lists_every_file() {
    let (folder, files) = others();
    let f = folder.path();
    fs::create_dir_all(f.join("loras/deep")).unwrap();
    fs::copy(exports().join("comfy.safetensors"), f.join("comfy.SAFETENSORS")).unwrap();
    fs::copy(exports().join("text_encoder_gguf.gguf"), f.join("qwen.gguf")).unwrap();
    fs::copy(root().join("tests/lora/kohya.safetensors"), f.join("loras/deep/k.safetensors")).unwrap();
    fs::write(f.join("broken.gguf"), "GGUF\x03\0\0\0").unwrap();
    fs::write(f.join("page.safetensors"), "<html>404</html>").unwrap();
    write_bf16(&f.join("z.safetensors"), &Z_IMAGE);
    let vae = f.join("part");
    fs::create_dir(&vae).unwrap();
    for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
        fs::copy(exports().join("model/vae").join(name), vae.join(name)).unwrap();
    }
    let models = |more: &[&str]| {
        let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_zimage"))
            .current_dir(f)
            .env("HF_HUB_CACHE", f.join("no_cache"))
            .args(["models", "--models-dir", "."])
            .args(more)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let list = models(&[]);
    let use_of = |name: &str| {
        let line = list.lines().find(|line| line.split("  ").next() == Some(&format!("./{name}")));
        line.unwrap_or_else(|| panic!("{name} is not in {list}")).split_once("B  ").unwrap().1
    };
    assert_eq!(use_of("comfy.SAFETENSORS"), "a Z-Image transformer: --model");
    assert_eq!(use_of("qwen.gguf"), "a Qwen3 text encoder: --text-encoder");
    assert_eq!(use_of("part"), "a FLUX.1 VAE, which Z-Image shares: --vae");
    assert_eq!(use_of("loras/deep/k.safetensors"), "a LoRA for the transformer of Z-Image: --lora");
    assert!(use_of("broken.gguf").starts_with("none: "), "{list}");
    assert!(use_of("page.safetensors").starts_with("none: expected a safetensors file, found a web page"), "{list}");
    assert!(use_of("z.safetensors").starts_with("none: a Z-Image transformer; tensor layers.0."), "{list}");
    for (file, says) in &files {
        assert!(use_of(file).starts_with(&format!("none: {says}")), "{list}");
    }
    assert_eq!(list.lines().count(), 7 + files.len(), "{list}");
    let document: Value = serde_json::from_str(&models(&["--json"])).unwrap();
    let entry = |name: &str| {
        let models = document["models"].as_array().unwrap();
        models.iter().find(|entry| entry["name"] == format!("./{name}")).unwrap().clone()
    };
    assert_eq!(
        (&entry("qwen.gguf")["kind"], &entry("qwen.gguf")["flag"]),
        (&json!("text_encoder"), &json!("--text-encoder"))
    );
    assert_eq!((&entry("broken.gguf")["kind"], &entry("broken.gguf")["flag"]), (&Value::Null, &Value::Null));
    assert_eq!(
        (&entry("z.safetensors")["kind"], &entry("z.safetensors")["flag"]),
        (&json!("transformer"), &Value::Null)
    );
}

/// Names on the hub are looked up in the cache, and nothing is asked of the hub.
#[cfg(unix)]
#[test]
fn names_are_looked_up_in_the_cache() {
    let cache = tempdir().unwrap();
    let commit = "0".repeat(40);
    let repository = |name: &str| cache.path().join(format!("models--org--{name}"));
    let snapshot = |name: &str| repository(name).join("snapshots").join(&commit);
    for name in ["one", "two", "encoder"] {
        fs::create_dir_all(snapshot(name)).unwrap();
        fs::create_dir_all(repository(name).join("refs")).unwrap();
        fs::write(repository(name).join("refs/main"), &commit).unwrap();
    }
    fs::copy(exports().join("comfy.safetensors"), snapshot("one").join("z.safetensors")).unwrap();
    fs::copy(exports().join("ae.safetensors"), snapshot("two").join("ae.safetensors")).unwrap();
    fs::copy(exports().join("gguf.gguf"), snapshot("two").join("z.gguf")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(exports().join("model/text_encoder").join(name), snapshot("encoder").join(name)).unwrap();
    }
    let inspect = |name: &str| {
        let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_zimage"))
            .current_dir(cache.path())
            .env("HF_HUB_CACHE", cache.path())
            .env("HF_ENDPOINT", "http://127.0.0.1:9")
            .args(["inspect", name])
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout) + &text(output.stderr))
    };
    for (name, code, says) in [
        ("org/one", 0, "a Z-Image transformer"),
        ("org/one/z.safetensors", 0, "a Z-Image transformer"),
        ("org/two/ae.safetensors", 0, "a FLUX.1 VAE"),
        ("hf://org/two/z.gguf", 0, "GGUF version 3"),
        ("org/encoder", 0, "a Qwen3 text encoder"),
        ("org/two", 3, "name one of its files: ae.safetensors, z.gguf"),
        ("org/two/other.gguf", 3, "lacks other.gguf"),
        ("org/none", 3, "inspect downloads nothing, and zimage pull org/none fetches it"),
        ("hf://org", 2, "no name on the hub"),
    ] {
        let (found, text) = inspect(name);
        assert!(found == code && text.contains(says), "{name}: {text}");
    }
}
