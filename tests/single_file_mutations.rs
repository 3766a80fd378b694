//! Thousands of damaged files with quantised weights in ComfyUI's layouts: each ends in a sentence
//! or in a loaded model, and none makes the reader panic or hold much more memory than the file and
//! the model have.

#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/mutations/bytes.rs"]
mod damage;
#[allow(dead_code, reason = "tests/drawn_files.rs uses the rest")]
#[path = "support/single_files.rs"]
mod single_files;

use allocations::peak;
use damage::{Rng, damage};
use pollster::block_on;
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};
use single_files::exports;
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;
use zimage::backend::cpu::Cpu;
use zimage::pipeline::Pipeline;
use zimage::weights::{Part, Sources, Tensors};
use zimage::{ErrorKind, Model, Result};

/// Damaged files, of each layout in turn.
const CASES: u64 = 2400;
const LAYOUTS: [&str; 4] = ["fp8_scaled", "comfy_quant", "comfy_quant_metadata", "comfy_quant_int8"];

/// The metadata key with the JSON of all layers.
const METADATA: &str = "_quantization_metadata";
/// The names of tensors beside a weight, those that are read and those that are not.
const BESIDE: [&str; 9] = [
    "weight_scale",
    "scale_weight",
    "weight_scale_2",
    "comfy_quant",
    "input_scale",
    "scale_input",
    "pre_quant_scale",
    "weight_zero_point",
    "weight",
];
const FORMATS: [&str; 10] = [
    "float8_e4m3fn",
    "float8_e5m2",
    "mxfp8",
    "nvfp4",
    "int8_tensorwise",
    "convrot_w4a4",
    "asym_w4a8_int8",
    "awq_w4a16",
    "",
    "nvfp4\n\u{1b}[2J",
];
const TYPES: [&str; 12] =
    ["F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "U8", "I8", "F64", "I64", "BOOL", "F4"];

/// A file taken apart. Nothing here has to be consistent.
#[derive(Clone)]
struct Parts {
    metadata: Map<String, Value>,
    tensors: BTreeMap<String, (String, Vec<u64>, Vec<u8>)>,
}

impl Parts {
    fn of(file: &[u8]) -> Self {
        let (_, header) = SafeTensors::read_metadata(file).unwrap();
        let texts = header.metadata().clone().unwrap_or_default();
        let metadata = texts.into_iter().map(|(key, text)| (key, Value::from(text))).collect();
        let tensors = SafeTensors::deserialize(file).unwrap().tensors().into_iter().map(|(name, tensor)| {
            let shape = tensor.shape().iter().map(|&size| size as u64).collect();
            (name, (tensor.dtype().to_string(), shape, tensor.data().to_vec()))
        });
        Self { metadata, tensors: tensors.collect() }
    }

    fn bytes(&self) -> Vec<u8> {
        let (mut header, mut data) = (Map::new(), Vec::new());
        header.insert("__metadata__".into(), Value::Object(self.metadata.clone()));
        for (name, (dtype, shape, bytes)) in &self.tensors {
            let start = data.len();
            data.extend(bytes);
            let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name.clone(), entry);
        }
        let header = Value::Object(header).to_string();
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
    }

    /// The names of tensors whose last word is one of these.
    fn ending(&self, words: &[&str]) -> Vec<String> {
        let ends = |name: &&String| name.rsplit_once('.').is_some_and(|(_, word)| words.contains(&word));
        self.tensors.keys().filter(ends).cloned().collect()
    }
}

/// A value that a layer's JSON may have in place of the right one.
fn value(rng: &mut Rng) -> Value {
    let numbers = [0, 1, 2, 3, 4, 16, 64, 100, 256, 1 << 31, u64::MAX];
    match rng.below(8) {
        0 => json!(rng.pick(&FORMATS)),
        1 => json!({"format": rng.pick(&FORMATS)}),
        2 => json!({"format": rng.pick(&FORMATS), "convrot": true, "convrot_groupsize": rng.pick(&numbers)}),
        3 => json!(rng.pick(&numbers)),
        4 => json!([-1.5, null, {"format": 7}]),
        5 => json!(rng.below(2) == 0),
        6 => (0..rng.below(200)).fold(json!("a"), |inner, _| json!({"format": inner})),
        _ => json!("x".repeat(1 << rng.below(14))),
    }
}

/// Changes one layer's JSON.
fn edit(rng: &mut Rng, config: &mut Value) {
    const KEYS: [&str; 4] = ["format", "convrot", "convrot_groupsize", "full_precision_matrix_mult"];
    match config {
        Value::Object(map) if rng.below(4) > 0 => drop(map.insert((*rng.pick(&KEYS)).into(), value(rng))),
        other => *other = value(rng),
    }
}

/// The text of a layer's JSON after a change.
fn edited(rng: &mut Rng, text: &[u8]) -> Vec<u8> {
    let mut config: Value = serde_json::from_slice(text).unwrap_or_default();
    match rng.below(4) {
        0 => damage(rng, text),
        1 => [text, &vec![0; rng.below(8)]].concat(),
        _ => {
            edit(rng, &mut config);
            config.to_string().into_bytes()
        }
    }
}

/// Changes the JSON of all layers in the metadata.
fn edit_metadata(rng: &mut Rng, parts: &mut Parts) {
    let text = parts.metadata.get(METADATA).and_then(Value::as_str).unwrap_or("{\"layers\": {}}").to_owned();
    let mut tree: Value = serde_json::from_str(&text).unwrap_or_default();
    let layers: Vec<String> = parts.ending(&["weight"]).iter().map(|name| name.replace(".weight", "")).collect();
    let text = match (rng.below(6), tree.get_mut("layers").and_then(Value::as_object_mut)) {
        (0, _) => String::from_utf8_lossy(&damage(rng, text.as_bytes())).into_owned(),
        (1, _) => value(rng).to_string(),
        (2, _) => json!({"layers": value(rng)}).to_string(),
        (3, Some(named)) => {
            named.insert(rng.pick(&layers).clone(), value(rng));
            tree.to_string()
        }
        (_, Some(named)) => {
            if let Some(config) = named.values_mut().nth(rng.below(8)) {
                edit(rng, config);
            }
            tree.to_string()
        }
        _ => value(rng).to_string(),
    };
    parts.metadata.insert(METADATA.to_owned(), text.into());
}

/// Changes a tensor: its values, its type, its shape, its name, or the tensors beside it.
fn edit_tensor(rng: &mut Rng, parts: &mut Parts) {
    let beside = parts.ending(&BESIDE[..3]);
    let configs = parts.ending(&["comfy_quant"]);
    let quantised: Vec<String> =
        parts.ending(&["weight"]).into_iter().filter(|name| name.contains("ayers.0")).collect();
    let name = match rng.below(3) {
        0 if !configs.is_empty() => rng.pick(&configs).clone(),
        0 | 1 => rng.pick(&beside).clone(),
        _ => rng.pick(&quantised).clone(),
    };
    let Some((dtype, shape, data)) = parts.tensors.get_mut(&name) else { return };
    match rng.below(9) {
        0 => {
            let values = [f32::NAN, f32::INFINITY, -1.0, 0.0, 1e-45, f32::MAX, 1e30];
            let value = rng.pick(&values).to_le_bytes();
            data.iter_mut().zip(value.iter().cycle()).for_each(|(byte, new)| *byte = *new);
        }
        1 => (*rng.pick(&TYPES)).clone_into(dtype),
        2 if name.ends_with("comfy_quant") => {
            *data = edited(rng, data);
            *shape = vec![data.len() as u64];
        }
        2 => shape.reverse(),
        3 => {
            let shapes = [vec![], vec![1], vec![1, 1], vec![0], vec![3, 0], vec![64], vec![1 << 40], vec![u64::MAX, 2]];
            *shape = rng.pick(&shapes).clone();
        }
        4 => {
            // A consistent tensor of another size.
            let sizes = [0, 1, 2, 31, 64, 128, 1000];
            let (rows, columns) = (*rng.pick(&sizes), *rng.pick(&sizes));
            let bytes = rows * columns * if dtype == "F32" { 4 } else { 1 };
            data.resize(bytes, 0x3c);
            *shape = vec![rows as u64, columns as u64];
        }
        5 => drop(parts.tensors.remove(&name)),
        6 | 7 => {
            let (layer, _) = name.rsplit_once('.').unwrap();
            let copy = format!("{layer}.{}", rng.pick(&BESIDE));
            let moved = parts.tensors[&name].clone();
            if rng.below(2) == 0 {
                parts.tensors.remove(&name);
            }
            parts.tensors.insert(copy, moved);
        }
        _ => *data = damage(rng, data),
    }
}

/// A damaged copy of a file.
fn damaged(rng: &mut Rng, good: &[u8], parts: &Parts) -> Vec<u8> {
    if rng.below(10) == 0 {
        return damage(rng, good);
    }
    let mut parts = parts.clone();
    for _ in 0..=rng.below(3) {
        if rng.below(4) == 0 { edit_metadata(rng, &mut parts) } else { edit_tensor(rng, &mut parts) }
    }
    parts.bytes()
}

/// Opens the model, and reads every tensor of its transformer that the model `wanted` has.
fn read(sources: &Sources, wanted: &Tensors) -> Result<Model> {
    let model = Model::from_sources(sources)?;
    let tensors = block_on(Tensors::of(model.folder(), Part::Transformer))?;
    wanted.iter().try_for_each(|listing| block_on(tensors.take(listing.name, listing.shape)).map(drop))?;
    Ok(model)
}

/// Opens the model, reads its transformer, and loads all of it onto `cpu`. Reading may not hold
/// much more than twice `len`, the bytes of the file.
fn load(sources: &Sources, wanted: &Tensors, len: usize) -> Result<()> {
    let (model, held) = peak(|| read(sources, wanted));
    assert!(held <= 2 * len + (2 << 20), "{held} bytes were held for a file of {len}");
    block_on(Pipeline::load(Cpu::new(), &model?, &mut |_| ControlFlow::Continue(()))).map(drop)
}

#[test]
fn damaged_files_end_in_a_sentence() {
    let start = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let model = Some(exports().join("model"));
    let wanted = Model::open(&exports().join("model")).unwrap();
    let wanted = block_on(Tensors::of(wanted.folder(), Part::Transformer)).unwrap();
    let good: Vec<Vec<u8>> =
        LAYOUTS.iter().map(|name| fs::read(exports().join(format!("{name}.safetensors"))).unwrap()).collect();
    let parts: Vec<Parts> = good.iter().map(|file| Parts::of(file)).collect();
    let (mut refused, mut loaded, mut sentences) = (0, 0, std::collections::BTreeSet::new());
    for case in 0..CASES {
        let mut rng = Rng::new(case);
        let layout = case as usize % good.len();
        let file = damaged(&mut rng, &good[layout], &parts[layout]);
        let len = file.len();
        let path = folder.path().join(format!("{case}.safetensors"));
        fs::write(&path, file).unwrap();
        let others = || model.clone();
        let sources = Sources { text_encoder: others(), vae: others(), tokenizer: others(), ..Sources::of(&path) };
        let result = catch_unwind(AssertUnwindSafe(|| load(&sources, &wanted, len)));
        fs::remove_file(&path).unwrap();
        let result = result.unwrap_or_else(|_| panic!("case {case} of {} panicked", LAYOUTS[layout]));
        match result {
            Ok(_) => loaded += 1,
            Err(error) => {
                let sentence = error.to_string();
                let said = format!("case {case} of {}: {sentence}", LAYOUTS[layout]);
                assert_eq!(error.kind(), ErrorKind::Files, "{said}");
                assert!(Path::new(&sentence).starts_with(folder.path()), "{said}");
                assert!(!sentence.chars().any(char::is_control) && sentence.len() < 1500, "{said}");
                sentences.insert(sentence.split_once(".safetensors: ").map(|(_, problem)| problem.to_owned()));
                refused += 1;
            }
        }
    }
    println!("{refused} refused in {} sentences, {loaded} loaded, in {:?}", sentences.len(), start.elapsed());
    assert!(refused >= 1000 && loaded >= 300 && sentences.len() >= 200, "{refused}, {loaded}, {}", sentences.len());
}
