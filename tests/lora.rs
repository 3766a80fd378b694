//! LoRA files: the merged weights are those of PEFT, diffusers and LyCORIS (`tools/lora` makes
//! them), every rule for the scale holds, and files that do not fit are refused with a list.

#[path = "support/slow.rs"]
mod slow;

use pollster::block_on;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::sync::Arc;
use zimage::tensor::{DType, HostTensor, Weight};
use zimage::weights::{BoundLora, Lora, LoraStack, ModelFolder, Report, Targets, Tensors, Transform, Unused};

/// The layer that most tests change, of `[64, 48]`.
const CAPTION: &str = "cap_embedder.1";

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lora")
}

/// The two networks of the golden model, with their weights changed by `loras`.
fn model(loras: Vec<BoundLora>) -> [Tensors; 2] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/single");
    let folder = ModelFolder::open(&folder).unwrap().with_transform("changed", Arc::new(LoraStack::new(loras)));
    let transformer = block_on(Tensors::open(&folder, "transformer", "diffusion_pytorch_model")).unwrap();
    [transformer, block_on(Tensors::open(&folder, "text_encoder", "model")).unwrap()]
}

fn targets() -> Targets {
    let [transformer, text_encoder] = model(Vec::new());
    Targets::of(&transformer, &text_encoder)
}

fn weight(model: &[Tensors; 2], name: &str) -> HostTensor {
    let part = model.iter().find(|part| part.contains(name)).unwrap();
    block_on(part.take(name, part.shape(name).unwrap())).unwrap()
}

/// All rows of a weight that is read in pieces of four rows.
fn in_pieces(weight: Weight<'_>) -> HostTensor {
    let (dtype, shape) = (weight.dtype(), weight.shape().to_vec());
    let (mut bytes, mut rows) = (Vec::new(), 0);
    let take = |first, piece: HostTensor| {
        assert!(first == rows && piece.shape()[0] <= 4 && piece.dtype() == dtype);
        rows += piece.shape()[0];
        bytes.extend_from_slice(piece.bytes());
        Ok(())
    };
    block_on(Weight::each_piece(from_ref(&weight.in_pieces(1)), take)).unwrap();
    HostTensor::new(dtype, &shape, bytes.into()).unwrap()
}

/// The tensor as `stack` changes it.
fn changed(stack: &LoraStack, name: &str, tensor: HostTensor) -> zimage::Result<HostTensor> {
    let weight = Weight::from(tensor);
    let change = block_on(stack.open(name, &weight))?;
    block_on(weight.changed(change).whole())
}

/// A tensor of a file: its name, type, shape and bytes.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

fn floats(name: &str, shape: &[usize], values: impl Fn(usize) -> f32) -> Stored {
    let values = (0..shape.iter().product()).flat_map(|i| values(i).to_le_bytes()).collect();
    (name.to_owned(), Dtype::F32, shape.to_vec(), values)
}

fn ones(name: &str, shape: &[usize]) -> Stored {
    floats(name, shape, |_| 1.0)
}

fn value(name: &str, value: f32) -> Stored {
    floats(name, &[], |_| value)
}

fn bytes(tensors: &[Stored]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

fn lora(tensors: &[Stored]) -> zimage::Result<Lora> {
    block_on(Lora::in_memory("style.safetensors", bytes(tensors).into()))
}

fn bound(tensors: &[Stored], unused: Unused) -> zimage::Result<BoundLora> {
    lora(tensors)?.bind(&targets(), 1.0, unused)
}

/// The error of a file, whose sentence must have these parts.
#[track_caller]
fn refused(tensors: &[Stored], parts: &[&str]) {
    let error = bound(tensors, Unused::Refuse).unwrap_err();
    assert_eq!(error.kind(), zimage::ErrorKind::Files);
    let sentence = error.to_string();
    for part in parts.iter().chain([&"style.safetensors"]) {
        assert!(sentence.contains(part), "{part:?} is not in {sentence:?}");
    }
    assert!(!sentence.chars().any(char::is_control) && sentence.len() < 4000, "{sentence}");
}

/// A LoRA of this rank on a layer of `[rows, columns]`.
fn pair(module: &str, (rows, columns): (usize, usize), rank: usize) -> Vec<Stored> {
    vec![
        ones(&format!("{module}.lora_A.weight"), &[rank, columns]),
        ones(&format!("{module}.lora_B.weight"), &[rows, rank]),
    ]
}

#[test]
fn merged_weights_are_those_of_the_references() {
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(files().join("cases.json")).unwrap()).unwrap();
    assert!(cases.len() >= 20);
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let mut loras = Vec::new();
        for file in case["files"].as_array().unwrap() {
            let path = file["file"].as_str().unwrap();
            let strength = file["strength"].as_f64().unwrap() as f32;
            let lora = block_on(Lora::open(&files().join(path))).unwrap();
            let bound = lora.bind(&targets(), strength, Unused::Refuse).unwrap();
            let (tensors, layers) = (&file["tensors"], case["layers"].as_u64().unwrap());
            let layers = format!("{layers} layer{}", if layers == 1 { "" } else { "s" });
            let sentence = format!("{path}: {tensors} of {tensors} tensors applied ({layers}), strength {strength}");
            assert_eq!(bound.report().to_string(), sentence);
            loras.push(bound);
        }
        let changed = model(loras);
        let merged = block_on(Tensors::open_file(&files().join(case["merged"].as_str().unwrap()))).unwrap();
        for listing in merged.iter() {
            let expected = block_on(merged.take(listing.name, listing.shape)).unwrap().to_f32();
            let found = weight(&changed, listing.name);
            assert_eq!(found.dtype(), DType::F32, "{name}: {}", listing.name);
            let part = changed.iter().find(|part| part.contains(listing.name)).unwrap();
            let read = || block_on(part.weight(listing.name, listing.shape, &|_| Ok(()))).unwrap();
            let pieces = in_pieces(read());
            let rounded = HostTensor::rounded(DType::Bf16, listing.shape, &pieces.to_f32());
            assert_eq!(in_pieces(read().in_bf16()).bytes(), rounded.bytes(), "{name}: {}", listing.name);
            for found in [found, pieces] {
                let square =
                    |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
                let difference = square(&mut found.to_f32().iter().zip(&expected).map(|(a, b)| a - b));
                let error = (difference / square(&mut expected.iter().copied())).sqrt();
                assert!(error <= 1e-6, "{name}: {} differs by {error:e}", listing.name);
            }
            let base = weight(&model(Vec::new()), listing.name).to_f32();
            assert_ne!(base, expected, "{name}: {} is not changed", listing.name);
        }
    }
}

#[test]
fn other_weights_and_strength_zero_change_no_byte() {
    let lora = block_on(Lora::open(&files().join("peft.safetensors"))).unwrap();
    let none = lora.bind(&targets(), 0.0, Unused::Refuse).unwrap();
    assert!(none.report().to_string().ends_with("(3 layers), strength 0"));
    let one = lora.bind(&targets(), 1.0, Unused::Refuse).unwrap();
    let [plain, none, one] = [model(Vec::new()), model(vec![none]), model(vec![one])];
    let mut changed = Vec::new();
    for name in plain.iter().flat_map(|part| part.iter()).map(|listing| listing.name.trim_start_matches("model.")) {
        let [plain, none, one] = [&plain, &none, &one].map(|model| weight(model, name));
        assert_eq!((none.dtype(), none.bytes()), (plain.dtype(), plain.bytes()), "{name}");
        if (one.dtype(), one.bytes()) != (plain.dtype(), plain.bytes()) {
            changed.push(name.to_owned());
        }
    }
    changed.sort();
    let expected = ["cap_embedder.1.weight", "layers.0.attention.to_k.weight", "layers.0.self_attn.k_proj.weight"];
    assert_eq!(changed, expected);
}

#[test]
fn every_rule_for_the_scale_holds() {
    let module = |tensors: &[Stored]| -> Vec<Stored> {
        tensors
            .iter()
            .cloned()
            .map(|(name, dtype, shape, bytes)| (format!("{CAPTION}.{name}"), dtype, shape, bytes))
            .collect()
    };
    let [down, up] = [ones("lora_down.weight", &[4, 48]), ones("lora_up.weight", &[64, 4])];
    let low_rank = |more: &[Stored]| [&[down.clone(), up.clone()], more].concat();
    let hada = |more: &[Stored]| {
        let shapes = [("w1_a", [64, 4]), ("w1_b", [4, 48]), ("w2_a", [64, 4]), ("w2_b", [4, 48])];
        [&shapes.map(|(name, shape)| ones(&format!("hada_{name}"), &shape)), more].concat()
    };
    let whole = [ones("lokr_w1", &[8, 6]), ones("lokr_w2", &[8, 8])];
    let inner = [ones("lokr_w1", &[8, 6]), ones("lokr_w2_a", &[8, 2]), ones("lokr_w2_b", &[2, 8])];
    let outer = [ones("lokr_w1_a", &[8, 2]), ones("lokr_w1_b", &[2, 6]), ones("lokr_w2", &[8, 8])];
    let integer = ("alpha".to_owned(), Dtype::I64, vec![], 8i64.to_le_bytes().to_vec());
    // The change of every element: the sum over the rank, times the scale.
    let cases: [(&str, Vec<Stored>, f32); 13] = [
        ("a LoRA without alpha", low_rank(&[]), 4.0),
        ("alpha / rank", low_rank(&[value("alpha", 8.0)]), 4.0 * 8.0 / 4.0),
        ("a vector as alpha", low_rank(&[ones("alpha", &[1])]), 1.0),
        ("an integer as alpha", low_rank(&[integer]), 8.0),
        ("a scale, which precedes alpha", low_rank(&[value("alpha", 8.0), value("scale", 0.5)]), 2.0),
        ("a LoHa without alpha", hada(&[]), 16.0),
        ("a LoHa with alpha", hada(&[value("alpha", 2.0)]), 8.0),
        ("a whole LoKr, which ignores alpha", [&whole[..], &[value("alpha", 1e10)]].concat(), 1.0),
        ("a whole LoKr with an infinite alpha", [&whole[..], &[value("alpha", f32::INFINITY)]].concat(), 1.0),
        ("a LoKr without alpha", inner.to_vec(), 2.0),
        ("a LoKr with an inner product", [&inner[..], &[value("alpha", 6.0)]].concat(), 6.0),
        ("a LoKr with an outer product", [&outer[..], &[value("alpha", 6.0)]].concat(), 6.0),
        ("a difference, which ignores alpha", vec![ones("diff", &[64, 48]), value("alpha", 8.0)], 1.0),
    ];
    let base = weight(&model(Vec::new()), "cap_embedder.1.weight").to_f32();
    for (name, tensors, change) in cases {
        let bound = bound(&module(&tensors), Unused::Refuse).unwrap_or_else(|error| panic!("{name}: {error}"));
        let changed = weight(&model(vec![bound]), "cap_embedder.1.weight").to_f32();
        for (base, changed) in base.iter().zip(changed) {
            assert!((base + change - changed).abs() < 1e-5, "{name}: {base} became {changed}, not {change} more");
        }
    }
}

#[test]
fn kernels_of_convolutions_and_oblong_cores_are_refused() {
    let core = [
        ones("cap_embedder.1.lora_down.weight", &[2, 48, 1, 1]),
        ones("cap_embedder.1.lora_mid.weight", &[3, 2, 1, 1]),
        ones("cap_embedder.1.lora_up.weight", &[64, 3, 1, 1]),
    ];
    let ranks = ["lora_up.weight [64, 3, 1, 1]", "lora_mid.weight [3, 2, 1, 1]", "lora_down.weight [2, 48, 1, 1]"];
    refused(&core, &[&["the ranks differ"], &ranks[..]].concat());
    let kernel = [ones("cap_embedder.1.diff", &[64, 48, 3, 3])];
    refused(&kernel, &["cap_embedder.1 (1 tensor): expected a matrix, found cap_embedder.1.diff [64, 48, 3, 3]"]);
}

#[test]
fn tensors_that_do_not_fit_are_listed() {
    let size = (64, 48);
    refused(
        &pair("layers.9.attention.to_q", (64, 64), 2),
        &["2 of 2 tensors", "layers.9.attention.to_q (2 tensors): the model has no such layer"],
    );
    refused(&pair("decoder.conv_in", size, 2), &["the model has no such layer"]);
    refused(&pair(CAPTION, (64, 40), 2), &["the change is [64, 40] and the model's cap_embedder.1 [64, 48]"]);
    refused(&pair("diffusion_model.layers.0.attention.qkv", (128, 64), 2), &["the change is [128, 64]", "[192, 64]"]);
    let half = &pair(CAPTION, size, 2)[..1];
    refused(
        half,
        &["cap_embedder.1 (1 tensor): cap_embedder.1.lora_A.weight [2, 48] has no lora_B (lora_up) beside it"],
    );
    refused(&pair(CAPTION, size, 2)[1..], &["has no lora_A (lora_down) beside it"]);
    let ranks = [&pair(CAPTION, size, 2)[..1], &pair(CAPTION, size, 3)[1..]].concat();
    refused(
        &ranks,
        &["the ranks differ: cap_embedder.1.lora_B.weight [64, 3] and cap_embedder.1.lora_A.weight [2, 48]"],
    );
    refused(&[ones("cap_embedder.1.lokr_w1", &[8, 6])], &["expected both matrices of a LoKr, found one"]);
    refused(&[ones("cap_embedder.1.hada_w1_a", &[64, 2])], &["hada_w1_a [64, 2] has no other factor beside it"]);
    refused(&[ones("cap_embedder.1.dora_scale", &[64, 1])], &["no difference of the weight beside the other tensors"]);
    refused(
        &[&pair(CAPTION, size, 2)[..], &[ones("cap_embedder.1.alpha", &[2])]].concat(),
        &["expected a single value"],
    );
    refused(
        &[&pair(CAPTION, size, 2)[..], &[ones("cap_embedder.1.dora_scale", &[48, 1])]].concat(),
        &["expected norms of 64 rows or 48 columns"],
    );
    refused(
        &[&pair(CAPTION, size, 2)[..], &[ones("cap_embedder.1.diff", &[64, 48])]].concat(),
        &["is of another method"],
    );
    refused(&[ones("layers.0.attention.to_k.diff_b", &[64])], &["the model's layers.0.attention.to_k has no bias"]);
    refused(&pair(CAPTION, size, 0), &["is empty"]);
    refused(
        &[&pair(CAPTION, size, 2)[..], &[ones("cap_embedder.1.oft_blocks", &[1])]].concat(),
        &["1 of 3 tensors", "OFT or BOFT is not supported"],
    );
    refused(&[ones("cap_embedder.1.weight", &[64, 48])], &["expected a LoRA, found 1 tensors with none of its names"]);
    let fused = "layers.0.attention.qkv";
    let columns = [&pair(fused, (192, 64), 2)[..], &[ones(&format!("{fused}.dora_scale"), &[1, 64])]].concat();
    refused(&columns, &["has the norms of columns, which the separate layers of a fused one do not have"]);
    let integers = ("cap_embedder.1.lora_A.weight".to_owned(), Dtype::I8, vec![2, 48], vec![0; 96]);
    refused(&[&[integers], &pair(CAPTION, size, 2)[1..]].concat(), &["expected floating elements, found I8 [2, 48]"]);
    let hostile = pair(&format!("a\n\u{1b}{}", "b".repeat(100_000)), size, 2);
    refused(&hostile, &["a\\n\\u{1b}bbb"]);
    let many: Vec<Stored> = (10..40).flat_map(|i| pair(&format!("layers.{i}.attention.to_q"), (64, 64), 2)).collect();
    refused(&many, &["60 of 60 tensors cannot be applied", "and 22 more"]);
}

#[test]
fn unused_tensors_can_be_allowed() {
    let tensors = [pair(CAPTION, (64, 48), 2), pair("layers.9.attention.to_q", (64, 64), 2)].concat();
    let bound = bound(&tensors, Unused::Allow).unwrap();
    let sentence = "style.safetensors: 2 of 4 tensors applied (1 layer), strength 1";
    assert_eq!(bound.report().to_string(), sentence);
    let complaint = bound.report().complaint().unwrap();
    assert!(complaint.starts_with("2 of 4 tensors cannot be applied: layers.9.attention.to_q"), "{complaint}");
    let stack = LoraStack::new(vec![bound]);
    assert!(stack.changes("cap_embedder.1.weight") && !stack.changes("layers.9.attention.to_q.weight"));
    let none = self::bound(&tensors[2..], Unused::Allow).unwrap_err().to_string();
    assert!(none.contains("2 of 2 tensors cannot be applied"), "nothing of it can be used: {none}");
}

#[test]
fn values_that_are_not_finite_are_refused() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut tensors = pair(CAPTION, (64, 48), 2);
        tensors[1].3[100..104].copy_from_slice(&bad.to_le_bytes());
        refused(&tensors, &["tensor cap_embedder.1.lora_B.weight: expected finite values, found infinity or NaN"]);
    }
    refused(
        &[&pair(CAPTION, (64, 48), 2)[..], &[value("cap_embedder.1.alpha", f32::NAN)]].concat(),
        &["cap_embedder.1.alpha"],
    );
    let large = [&pair(CAPTION, (64, 48), 2)[..], &[value("cap_embedder.1.alpha", 3e38)]].concat();
    let stack = LoraStack::new(vec![lora(&large).unwrap().bind(&targets(), 8.0, Unused::Refuse).unwrap()]);
    let tensor = weight(&model(Vec::new()), "cap_embedder.1.weight");
    let error = changed(&stack, "cap_embedder.1.weight", tensor).unwrap_err().to_string();
    assert!(
        error.contains("tensor cap_embedder.1: expected a change that leaves cap_embedder.1.weight finite"),
        "{error}"
    );
    let strength = lora(&large).unwrap().bind(&targets(), f32::NAN, Unused::Allow).unwrap_err();
    assert_eq!(strength.kind(), zimage::ErrorKind::Request);
}

#[test]
fn a_second_spelling_is_a_repetition_or_an_error() {
    let mut tensors = [
        pair("diffusion_model.layers.0.attention.to_k", (64, 64), 2),
        pair("transformer.layers.0.attention.to_k", (64, 64), 2),
    ]
    .concat();
    let report = |tensors: &[Stored]| -> Report { bound(tensors, Unused::Refuse).unwrap().report().clone() };
    let sentence = "style.safetensors: 2 of 4 tensors applied (1 layer), strength 1; 2 tensors repeat others";
    assert_eq!(report(&tensors).to_string(), sentence);
    tensors[3].3[..4].copy_from_slice(&2f32.to_le_bytes());
    refused(&tensors, &["diffusion_model.layers.0.attention.to_k changes layers.0.attention.to_k.weight too"]);

    // The fused layer beside all of its parts, as in the Anime-Z files.
    let of = |end: &str, rows: usize| {
        let module = format!("layers.0.attention.{end}.lora");
        vec![ones(&format!("{module}.down.weight"), &[2, 64]), ones(&format!("{module}.up.weight"), &[rows, 2])]
    };
    let fused = [of("qkv", 192), of("to.q", 64), of("to.k", 64), of("to.v", 64)].concat();
    assert_eq!((report(&fused).applied, report(&fused).layers, report(&fused).repeated), (2, 1, 6));
    let two_names = [pair(CAPTION, (64, 48), 2), vec![ones("cap_embedder.1.lora_down.weight", &[2, 48])]];
    refused(&two_names.concat(), &["repeats another tensor"]);
}

#[test]
fn a_file_is_known_by_its_name_and_hash() {
    use sha2::{Digest, Sha256};
    let path = files().join("kohya.safetensors");
    let lora = block_on(Lora::open(&path)).unwrap();
    let hash: String = Sha256::digest(fs::read(&path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((lora.name(), lora.sha256()), ("kohya.safetensors", &*hash));
    let bound = lora.bind(&targets(), 0.75, Unused::Refuse).unwrap();
    assert_eq!((bound.name(), bound.sha256(), bound.strength()), ("kohya", &*hash, 0.75));
    lora.check_unchanged().unwrap();
    let error = block_on(Lora::open(&files().join("none.safetensors"))).unwrap_err().to_string();
    assert!(error.ends_with("none.safetensors: there is no such file"), "{error}");
}

#[test]
fn bytes_read_twice_for_norms_of_columns_count_once() {
    let lora = block_on(Lora::open(&files().join("lycoris_dora_columns.safetensors"))).unwrap();
    let stack = LoraStack::new(vec![lora.bind(&targets(), 1.0, Unused::Refuse).unwrap()]);
    let remote = slow::Slow::new("tests/goldens/single", "");
    let folder = block_on(ModelFolder::remote("remote", remote.clone())).unwrap();
    let folder = folder.with_transform("changed", Arc::new(stack));
    let transformer = block_on(Tensors::open(&folder, "transformer", "diffusion_pytorch_model")).unwrap();
    let name = "cap_embedder.1.weight";
    let listing = transformer.iter().find(|listing| listing.name == name).unwrap();
    let read = || remote.fetched.lock().unwrap().values().sum::<usize>() as u64;
    let (before, counted) = (read(), Cell::new(0));
    let count = |bytes| {
        counted.set(counted.get() + bytes);
        Ok(())
    };
    let found = in_pieces(block_on(transformer.weight(name, listing.shape, &count)).unwrap());
    assert_eq!((counted.get(), read() - before), (listing.bytes, 2 * listing.bytes));
    let merged = block_on(Tensors::open_file(&files().join("lycoris_dora_columns.merged.safetensors"))).unwrap();
    let expected = block_on(merged.take(name, listing.shape)).unwrap().to_f32();
    let alike = |(a, b): (f32, f32)| (a - b).abs() <= 1e-5 * b.abs().max(1e-3);
    assert!(found.to_f32().into_iter().zip(expected).all(alike));
}

#[test]
fn another_model_s_weight_is_refused_when_it_is_read() {
    let stack = LoraStack::new(vec![bound(&pair(CAPTION, (64, 48), 2), Unused::Refuse).unwrap()]);
    let other = HostTensor::from_f32(&[48, 64], &[0.0; 48 * 64]);
    let error = changed(&stack, "cap_embedder.1.weight", other).unwrap_err().to_string();
    assert!(error.contains("expected a model with cap_embedder.1.weight of [64, 48], found [48, 64]"), "{error}");
}
