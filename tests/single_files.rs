//! Files that people have instead of a diffusers folder, as `tools/single_file` exports them: their
//! names, their kind, and the configuration of those that have none. Their values are those of
//! `comfy-kitchen` and `gguf`.

#[path = "support/single_files.rs"]
mod support;

use pollster::block_on;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use support::{expected, exports};
use zimage::weights::{
    Kind, Listed, Part, Shapes, Spelling, Tensors, given_config, identify, text_encoder_config, transformer_config,
    vae_config,
};
use zimage::{BackendChoice, Engine, Model, Request};

/// Exports of the transformer, with the prefix of their names.
const TRANSFORMERS: [(&str, &str); 6] = [
    ("comfy", "model.diffusion_model."),
    ("fp8", ""),
    ("fp8_scaled", "model.diffusion_model."),
    ("comfy_quant", "model.diffusion_model."),
    ("comfy_quant_metadata", "model.diffusion_model."),
    ("comfy_quant_int8", "model.diffusion_model."),
];
/// Stored names with types and shapes.
type Stored = BTreeMap<String, (String, Vec<usize>)>;

fn stored(path: &Path) -> Stored {
    let tensors = block_on(Tensors::open_file(path)).unwrap();
    tensors.iter().map(|t| (t.name.to_owned(), (t.dtype.to_string(), t.shape.to_vec()))).collect()
}

/// The tensors of a part of the diffusers folder.
fn folder(part: Part) -> Stored {
    let folder = exports().join("model").join(part.folder());
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let weights = files.filter(|file| file.extension().is_some_and(|end| end == "safetensors"));
    weights.flat_map(|file| stored(&file)).collect()
}

fn kind(stored: &Stored) -> Kind {
    let listed = stored.iter().map(|(name, (format, shape))| Listed { name, format, shape });
    identify(&listed.collect::<Vec<_>>(), &Map::new())
}

fn spelling(part: Part, stored: &Stored) -> Spelling {
    Spelling::of(part, stored.keys().map(String::as_str)).unwrap()
}

/// Holds the names that `part` can be asked for against those of the diffusers folder. The tensors
/// beside a weight, which the folder lacks, belong to a layer that it has.
#[track_caller]
fn reaches_all(part: Part, stored: &Stored) {
    let spelling = spelling(part, stored);
    let mine = stored.keys().filter(|name| !spelling.is_unused(name));
    let reached: BTreeSet<String> = mine.flat_map(|name| spelling.targets(name)).map(|target| target.name).collect();
    let asked: BTreeSet<String> = folder(part).into_keys().collect();
    let missing: Vec<_> = asked.difference(&reached).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for beside in reached.difference(&asked) {
        let (layer, tail) = beside.rsplit_once('.').unwrap();
        assert!(asked.contains(&format!("{layer}.weight")), "{beside}");
        let tails = ["weight_scale", "weight_scale_2", "comfy_quant", "scale_weight", "scale_input"];
        assert!(tails.contains(&tail), "{beside}");
    }
}

/// Holds the derived configuration against the one of the diffusers folder.
#[track_caller]
fn derives(part: Part, stored: &Stored) {
    let shapes = stored.iter().map(|(name, (_, shape))| (name.as_str(), shape.as_slice()));
    let shapes = Shapes::of(Path::new("a"), &spelling(part, stored), shapes);
    let given = given_config(&Map::new(), part);
    let derived = match part {
        Part::Transformer => transformer_config(&shapes, &given),
        Part::TextEncoder => text_encoder_config(&shapes, &given),
        Part::Vae => vae_config(&shapes, &given),
    };
    let mut own: Map<String, Value> =
        serde_json::from_slice(&fs::read(exports().join("model").join(part.folder()).join("config.json")).unwrap())
            .unwrap();
    own.remove("architectures");
    assert_eq!(derived.unwrap(), Value::Object(own));
}

#[test]
fn transformers_have_every_name_and_their_config() {
    for (name, prefix) in TRANSFORMERS {
        let stored = stored(&exports().join(format!("{name}.safetensors")));
        assert_eq!(kind(&stored), Kind::Transformer, "{name}");
        assert_eq!(spelling(Part::Transformer, &stored).prefix(), prefix, "{name}");
        reaches_all(Part::Transformer, &stored);
        derives(Part::Transformer, &stored);
    }
}

#[test]
fn the_other_parts_have_every_name_and_their_config() {
    for (name, part, expected) in [("text_encoder", Part::TextEncoder, Kind::TextEncoder), ("ae", Part::Vae, Kind::Vae)]
    {
        let stored = stored(&exports().join(format!("{name}.safetensors")));
        assert_eq!(kind(&stored), expected);
        reaches_all(part, &stored);
        derives(part, &stored);
    }
    let all = stored(&exports().join("all_in_one.safetensors"));
    assert_eq!(kind(&all), Kind::AllInOne(Part::ALL.to_vec()));
    for part in Part::ALL {
        reaches_all(part, &all);
        derives(part, &all);
    }
}

#[test]
fn the_models_of_this_repository_are_identified() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for model in ["tests/goldens/single", "models/emoji"] {
        for (file, expected) in [
            ("transformer/diffusion_pytorch_model", Kind::Transformer),
            ("text_encoder/model", Kind::TextEncoder),
            ("vae/diffusion_pytorch_model", Kind::Vae),
        ] {
            let stored = stored(&root.join(model).join(format!("{file}.safetensors")));
            assert_eq!(kind(&stored), expected, "{file} of {model}");
        }
    }
}

/// A picture of a diffusers folder on the backend `cpu`.
fn picture(root: &Path) -> Vec<u8> {
    let quiet = &mut |_| ControlFlow::Continue(());
    let engine = block_on(Engine::load(&Model::open(root).unwrap(), BackendChoice::Cpu, quiet)).unwrap();
    let request = Request { width: Some(32), height: Some(24), steps: Some(2), ..Request::new("a red fox") };
    block_on(engine.generate(&request, quiet)).unwrap().images.remove(0).pixels
}

/// Every quantised export has numbers of its own, so that a reader that ignores a scale draws
/// another picture.
#[test]
fn the_expected_numbers_draw_different_pictures() {
    let mut pictures = BTreeMap::from([(picture(&exports().join("model")), "model")]);
    for export in
        ["fp8", "fp8_scaled", "comfy_quant", "comfy_quant_metadata", "comfy_quant_int8", "gguf", "gguf_floats"]
    {
        let same = pictures.insert(picture(expected(Some(export), None).path()), export);
        // F32, F16 and BF16 hold the numbers of the model exactly.
        assert_eq!(same, (export == "gguf_floats").then_some("model"), "{export}");
    }
    for export in ["text_encoder", "text_encoder_gguf"] {
        let folder = expected(None, Some(export));
        assert_eq!(pictures.insert(picture(folder.path()), export), None, "{export}");
    }
}
