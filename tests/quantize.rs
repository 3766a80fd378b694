//! `zimage quantize`: GGUF files of the embedded model and of the small models, as other programs
//! and this one read them.
#![cfg(feature = "cli")]

#[path = "support/program.rs"]
mod program;

use pollster::block_on;
use program::{fails, succeeds};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tempfile::tempdir;
use zimage::weights::{Gguf, Part, Sources, Tensors, WeightFormat};
use zimage::{BackendChoice, Engine, Model, Request};

fn root(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).to_str().unwrap().to_owned()
}

/// Writes `FOLDER/PART-TYPE.gguf` of the embedded model.
#[track_caller]
fn quantize(folder: &Path, part: &str, kind: &str) -> PathBuf {
    let file = format!("{part}-{kind}.gguf");
    let model = root("models/emoji");
    succeeds(folder, &["quantize", &model, "--type", kind, "--part", part, "-o", &file]);
    folder.join(file)
}

/// The digest of `tools/gguf/check.py`.
fn digest(file: &Path) -> String {
    let tensors = block_on(Tensors::open_file(file)).unwrap();
    let listed: BTreeMap<_, _> = tensors.iter().map(|tensor| (tensor.name.to_owned(), tensor.shape.to_vec())).collect();
    let mut digest = Sha256::new();
    for (name, shape) in listed {
        digest.update(format!("{name} {shape:?}"));
        let values = block_on(tensors.take(&name, &shape)).unwrap().to_f32();
        digest.update(bytemuck::cast_slice::<f32, u8>(&values));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn gguf_reads_what_this_program_reads() {
    let folder = tempdir().unwrap();
    let expected = fs::read(root("tests/goldens/gguf/emoji.json")).unwrap();
    let expected: BTreeMap<String, Value> = serde_json::from_slice(&expected).unwrap();
    assert_eq!(expected.len(), 9);
    for (name, expected) in expected {
        let (part, kind) = name.rsplit_once('-').unwrap();
        let file = quantize(folder.path(), part, kind);
        let gguf = block_on(Gguf::open(&file)).unwrap();
        let mut types = BTreeMap::new();
        gguf.tensors.values().for_each(|tensor| *types.entry(tensor.type_name().into_owned()).or_insert(0) += 1);
        assert_eq!(serde_json::to_value(types).unwrap(), expected["types"], "{name}");
        let own = gguf.metadata.iter().filter(|(key, _)| !key.starts_with("tokenizer."));
        let metadata = expected["metadata"].as_object().unwrap();
        assert_eq!(own.clone().map(|(key, _)| key).collect::<Vec<_>>(), {
            let mut keys: Vec<_> = metadata.keys().collect();
            keys.sort();
            keys
        });
        for (key, value) in own {
            assert_eq!(value.to_string(), metadata[key].as_str().map_or_else(|| number(&metadata[key]), str::to_owned));
        }
        assert_eq!(digest(&file), expected["sha256"], "{name}");
    }
}

/// A number of a JSON document as this program shows it.
fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| value.as_f64().unwrap().to_string(), |number| number.to_string())
}

/// A small picture on `cpu`.
fn picture(model: &Model) -> Vec<u8> {
    let quiet = &mut |_| ControlFlow::Continue(());
    let engine = block_on(Engine::load(model, BackendChoice::Cpu, quiet)).unwrap();
    assert_eq!(engine.warnings(), [""; 0]);
    let request = Request {
        width: Some(128),
        height: Some(128),
        steps: Some(2),
        guidance: Some(1.0),
        seed: 7,
        ..Request::new("a red fox")
    };
    block_on(engine.generate(&request, quiet)).unwrap().images.remove(0).pixels
}

#[test]
fn quantised_models_draw_nearly_the_same_picture() {
    let folder = tempdir().unwrap();
    let emoji = PathBuf::from(root("models/emoji"));
    let original = picture(&Model::open(&emoji).unwrap());
    let mean = |other: &[u8]| {
        let differences = original.iter().zip(other).map(|(a, b)| f64::from(a.abs_diff(*b)));
        differences.sum::<f64>() / original.len() as f64
    };
    // Levels of 255 by which a mean colour differs.
    for (kind, text_encoder, most) in [("q8_0", "q8_0", 2.0), ("q6_k", "q8_0", 3.0), ("q4_k", "q4_k", 10.0)] {
        let sources = Sources {
            text_encoder: Some(quantize(folder.path(), "text-encoder", text_encoder)),
            vae: Some(emoji.clone()),
            ..Sources::of(quantize(folder.path(), "transformer", kind))
        };
        let drawn = picture(&Model::from_sources(&sources).unwrap());
        let found = mean(&drawn);
        println!("{kind}: {found:.3}");
        assert!(found > 0.0 && found < most, "{kind}: {found}");
    }
}

/// `--weights` converts what `zimage quantize` converts, and a picture shows it.
#[test]
fn weights_become_those_of_a_file() {
    let folder = tempdir().unwrap();
    let emoji = PathBuf::from(root("models/emoji"));
    let original = Model::open(&emoji).unwrap();
    let quiet = &|_| Ok(());
    for (kind, most) in [("q8_0", 2.0), ("q4_k", 10.0)] {
        let format: WeightFormat = kind.parse().unwrap();
        let converted = original.clone().with_weights(format);
        let file = quantize(folder.path(), "transformer", kind);
        let written = Model::from_sources(&Sources {
            text_encoder: Some(emoji.clone()),
            vae: Some(emoji.clone()),
            ..Sources::of(file)
        });
        let of = |model: &Model| block_on(Tensors::of(model.folder(), Part::Transformer)).unwrap();
        let (written, converted_tensors) = (of(&written.unwrap()), of(&converted));
        let listed: Vec<_> =
            converted_tensors.iter().map(|tensor| (tensor.name.to_owned(), tensor.shape.to_vec())).collect();
        for (name, shape) in listed {
            let values = |tensors: &Tensors| {
                let weight = block_on(tensors.weight(&name, &shape, quiet)).unwrap();
                block_on(weight.whole()).unwrap().to_f32()
            };
            assert_eq!(values(&written), values(&converted_tensors), "{kind}: {name}");
        }
        let [plain, drawn] = [&original, &converted].map(picture);
        let differences = plain.iter().zip(&drawn).map(|(a, b)| f64::from(a.abs_diff(*b)));
        let mean = differences.sum::<f64>() / plain.len() as f64;
        assert!(mean > 0.0 && mean < most, "{kind}: {mean}");
    }
    let fp8 = picture(&original.clone().with_weights(WeightFormat::Fp8));
    assert!(fp8 != picture(&original));
}

#[test]
fn a_second_run_writes_the_same_bytes() {
    let folder = tempdir().unwrap();
    for (part, kind) in [("transformer", "q4_k"), ("text-encoder", "q5_k")] {
        let first = fs::read(quantize(folder.path(), part, kind)).unwrap();
        assert!(first == fs::read(quantize(folder.path(), part, kind)).unwrap(), "{part} {kind}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
}

/// Blocks of the type asked for are copied: a quantiser would find other scales.
#[test]
fn a_written_file_is_a_model_again() {
    let folder = tempdir().unwrap();
    let again = folder.path().join("again.gguf");
    for (part, kind) in [("transformer", "q4_k"), ("transformer", "q6_k"), ("text-encoder", "q8_0")] {
        let file = quantize(folder.path(), part, kind);
        let arguments = ["quantize", file.to_str().unwrap(), "--type", kind, "--part", part, "-o", "again.gguf"];
        succeeds(folder.path(), &arguments);
        assert_eq!(digest(&file), digest(&again), "{part}");
        let tokenizer = |path: &Path| {
            let metadata = block_on(Gguf::open(path)).unwrap().metadata.into_iter();
            metadata.filter(|(key, _)| key.starts_with("tokenizer.")).map(|(key, value)| (key, value.to_string()))
        };
        assert!(tokenizer(&file).eq(tokenizer(&again)), "{part}");
    }
}

/// The configuration of this model does not follow from its shapes: the heads of 20, the axes of
/// positions and others.
#[test]
fn configurations_of_other_models_are_kept() {
    let folder = tempdir().unwrap();
    for model in ["single", "sharded"] {
        let path = root(&format!("tests/goldens/{model}"));
        for (part, file) in [("transformer", "t.gguf"), ("text-encoder", "e.gguf")] {
            succeeds(folder.path(), &["quantize", &path, "--type", "bf16", "--part", part, "-o", file]);
        }
        let file = |name| Some(folder.path().join(name));
        let sources = Sources {
            text_encoder: file("e.gguf"),
            vae: Some(path.clone().into()),
            ..Sources::of(file("t.gguf").unwrap())
        };
        let (own, written) = (Model::open(path.as_ref()).unwrap(), Model::from_sources(&sources).unwrap());
        let debug =
            |model: &Model| (format!("{:?}", model.config().transformer), format!("{:?}", model.config().text_encoder));
        assert_eq!(debug(&written), debug(&own), "{model}");
    }
}

#[test]
fn refiners_are_kept_on_request() {
    let folder = tempdir().unwrap();
    let model = root("models/emoji");
    for (flags, kind) in [(&[][..], "Q4_K"), (&["--keep-refiners"], "BF16")] {
        succeeds(folder.path(), &[&["quantize", &model, "--type", "q4_k", "-o", "a.gguf"], flags].concat());
        let gguf = block_on(Gguf::open(&folder.path().join("a.gguf"))).unwrap();
        for refiner in ["noise_refiner", "context_refiner"] {
            assert_eq!(gguf.tensors[&format!("{refiner}.0.attention.qkv.weight")].type_name(), kind);
        }
        assert_eq!(gguf.tensors["layers.0.attention.qkv.weight"].type_name(), "Q4_K");
        assert_eq!(gguf.tensors["layers.0.attention.qkv.weight"].shape, [768, 256]);
        assert_eq!(gguf.tensors["layers.0.adaLN_modulation.0.weight"].type_name(), "BF16");
        assert_eq!(gguf.tensors["layers.0.ffn_norm1.weight"].type_name(), "F32");
        assert_eq!(gguf.tensors["x_pad_token"].shape, [1, 256]);
    }
}

#[test]
fn the_report_names_what_is_not_quantised() {
    let folder = tempdir().unwrap();
    let model = root("models/emoji");
    let (_, words) = succeeds(folder.path(), &["quantize", &model, "--type", "q4_k", "-o", "a.gguf"]);
    assert!(words.contains("tensors not in Q4_K, rows that are not whole blocks: "), "{words}");
    assert!(words.contains("tensors not in Q4_K, sensitive to rounding: cap_embedder.1.weight (BF16)"), "{words}");
    assert!(words.contains("wrote a.gguf ("), "{words}");
    let arguments = ["quantize", &model, "--type", "q4_k", "--part", "text-encoder", "-o", "e.gguf", "--json"];
    let (json, _) = succeeds(folder.path(), &arguments);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&report["type"], &report["tokenizer"]), (&"Q4_K".into(), &true.into()), "{json}");
    assert_eq!(report["bytes"], fs::metadata(folder.path().join("e.gguf")).unwrap().len());
    let kept: Vec<_> = report["kept"].as_array().unwrap().iter().map(|kept| (&kept["type"], &kept["reason"])).collect();
    assert_eq!(kept, [(&Value::from("Q8_0"), &Value::from("rows")); 2], "the rows of ffn_down have 384 elements");
}

#[test]
fn wrong_requests_are_one_sentence() {
    let folder = tempdir().unwrap();
    let (f, model) = (folder.path(), root("models/emoji"));
    let with = |arguments: &[&str], code: i32, says: &str| fails(f, &[&["quantize"], arguments].concat(), code, says);
    with(&[&model, "--type", "q3_k", "-o", "a.gguf"], 2, "q4_0, q4_k, q5_k, q6_k, q8_0, bf16, f16");
    with(&[&model, "--type", "q4_k", "-o", "a.bin"], 2, "only GGUF is written; try -o a.gguf");
    with(&[&model, "--type", "q4_k", "-o", "missing/a.gguf"], 3, "no such folder to write to");
    with(&[&model, "--type", "q4_k", "-o", "-", "--json"], 2, "both need standard output");
    with(
        &[&root("tests/single_files/ae.safetensors"), "--type", "q4_k", "-o", "a.gguf"],
        3,
        "expected a transformer, but",
    );
    with(&["nowhere.gguf", "--type", "q4_k", "-o", "a.gguf"], 3, "there is no such file or folder");
    with(&[f.to_str().unwrap(), "--type", "q4_k", "-o", "a.gguf"], 3, "expected a transformer, found a folder");
    assert_eq!(fs::read_dir(f).unwrap().count(), 0);
    #[cfg(target_os = "linux")]
    with(&[&model, "--type", "q4_k", "-o", "/dev/full"], 3, "/dev/full: No space left on device");

    let file = quantize(f, "transformer", "q8_0");
    let bytes = fs::read(&file).unwrap();
    let own = file.to_str().unwrap();
    with(&[own, "--type", "q4_k", "-o", own], 3, "this is a file of the model itself");
    assert!(fs::read(&file).unwrap() == bytes);
}

#[test]
fn values_that_are_not_finite_name_their_tensor() {
    let folder = tempdir().unwrap();
    let model = root("models/emoji/transformer/diffusion_pytorch_model.safetensors");
    let emoji = root("models/emoji");
    let bytes = fs::read(model).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    // Tensors of NVFP4 get a scale that is not finite, or become zeros in BF16 with one such value.
    for (name, value, scale) in [
        ("layers.3.attention.to_k.weight", half::bf16::NAN, ""),
        ("layers.0.feed_forward.w1.weight", half::bf16::INFINITY, ""),
        ("layers.3.attention.to_k.weight", half::bf16::INFINITY, "_scale_2"),
        ("layers.0.feed_forward.w1.weight", half::bf16::NAN, "_scale_2"),
        ("layers.0.ffn_norm1.weight", half::bf16::NEG_INFINITY, ""),
        ("all_x_embedder.2-1.weight", half::bf16::NAN, ""),
    ] {
        let changed = format!("{name}{scale}");
        let stored = file.tensor(&changed).unwrap();
        let (dtype, shape, mut data) = match stored.dtype() {
            Dtype::U8 => (Dtype::BF16, vec![stored.shape()[0], 256], vec![0; 2 * 256 * stored.shape()[0]]),
            dtype => (dtype, stored.shape().to_vec(), stored.data().to_vec()),
        };
        let end = data.len();
        match dtype {
            Dtype::F32 => data[end - 4..].copy_from_slice(&f32::from(value).to_le_bytes()),
            _ => data[end - 2..].copy_from_slice(&value.to_le_bytes()),
        }
        let beside = |other: &str| stored.dtype() == Dtype::U8 && other.starts_with(name) && other != name;
        let tensors = file.tensors().into_iter().filter(|(other, _)| !beside(other));
        let tensors = tensors.map(|(other, view)| match other == changed {
            true => (other, TensorView::new(dtype, shape.clone(), &data).unwrap()),
            false => (other, view),
        });
        let damaged = safetensors::serialize(tensors, None).unwrap();
        fs::write(folder.path().join("model.safetensors"), damaged).unwrap();
        let arguments = ["quantize", "model.safetensors", "--type", "q4_k", "-o", "a.gguf"];
        let sentence = format!("model.safetensors: tensor {name}: expected finite values, found infinity or NaN");
        fails(folder.path(), &arguments, 3, &sentence);
        assert!(!folder.path().join("a.gguf").exists());
        for format in
            ["q4_k", "fp8"].into_iter().filter(|_| name.contains(".attention.") || name.contains(".feed_forward."))
        {
            let parts = ["-m", "model.safetensors", "--text-encoder", &emoji, "--vae", &emoji];
            let arguments = [&["generate", "a", "--backend", "cpu", "--weights", format][..], &parts].concat();
            fails(folder.path(), &arguments, 3, &sentence);
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}
