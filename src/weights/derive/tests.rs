//! Tests against the `config.json` of the golden models, which diffusers and transformers wrote.

use super::{Shapes, given_config, text_encoder_config, transformer_config, vae_config};
use crate::error::Result;
use crate::weights::names::{Part, Spelling};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

type Stored = BTreeMap<String, Vec<usize>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The names and shapes of all files of a part.
fn stored(model: &str, part: Part) -> Stored {
    let folder = root().join(model).join(part.folder());
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut stored = Stored::new();
    for file in files.filter(|file| file.extension().is_some_and(|end| end == "safetensors")) {
        let bytes = std::fs::read(file).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        for (name, info) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
            let sizes = info["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap() as usize);
            stored.insert(name, sizes.collect());
        }
    }
    stored
}

fn given(pairs: Value) -> Map<String, Value> {
    pairs.as_object().unwrap().clone()
}

fn derived(stored: &Stored, part: Part, given: &Map<String, Value>) -> Result<Value> {
    let spelling = Spelling::of(part, stored.keys().map(String::as_str)).unwrap();
    let listed = stored.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
    let shapes = Shapes::of(Path::new("a.safetensors"), &spelling, listed);
    match part {
        Part::Transformer => transformer_config(&shapes, given),
        Part::TextEncoder => text_encoder_config(&shapes, given),
        Part::Vae => vae_config(&shapes, given),
    }
}

/// Holds every derived value against the model's `config.json`, except those in `published`, which
/// the shapes do not tell.
#[track_caller]
fn agrees(model: &str, part: Part, given: &Map<String, Value>, published: &[&str]) {
    let own = std::fs::read(root().join(model).join(part.folder()).join("config.json")).unwrap();
    let own: Map<String, Value> = serde_json::from_slice(&own).unwrap();
    let derived = derived(&stored(model, part), part, given).unwrap();
    for (key, value) in derived.as_object().unwrap() {
        if !published.contains(&key.as_str()) {
            assert_eq!(own.get(key), Some(value), "{key} of {model}");
        }
    }
}

#[test]
fn transformers_have_the_sizes_of_their_config() {
    let none = Map::new();
    agrees("tests/goldens/single", Part::Transformer, &none, &["axes_lens"]);
    agrees("models/emoji", Part::Transformer, &none, &[]);
    let axes = given(json!({"axes_dims": [4, 8, 8]}));
    agrees("tests/goldens/sharded", Part::Transformer, &axes, &["axes_lens", "norm_eps", "rope_theta", "t_scale"]);
}

#[test]
fn text_encoders_have_the_sizes_of_their_config() {
    let none = Map::new();
    agrees("tests/goldens/single", Part::TextEncoder, &none, &["rope_theta"]);
    agrees("tests/goldens/sharded", Part::TextEncoder, &none, &["rope_theta", "rms_norm_eps"]);
    agrees("models/emoji", Part::TextEncoder, &none, &["rope_theta"]);
}

/// Z-Image does not use them.
#[test]
fn the_last_layer_and_the_final_norm_may_be_left_out() {
    let whole = stored("tests/goldens/single", Part::TextEncoder);
    let mut short = whole.clone();
    short.retain(|name, _| !name.starts_with("model.layers.2.") && name != "model.norm.weight");
    assert!(short.len() < whole.len());
    let [whole, short] = [whole, short].map(|stored| derived(&stored, Part::TextEncoder, &Map::new()).unwrap());
    assert_eq!((&whole["num_hidden_layers"], &whole), (&json!(3), &short));
}

#[test]
fn autoencoders_have_the_sizes_of_their_config() {
    let groups = |groups: usize| given(json!({"norm_num_groups": groups}));
    agrees("tests/goldens/single", Part::Vae, &groups(4), &[]);
    agrees("tests/goldens/sharded", Part::Vae, &groups(6), &["scaling_factor", "shift_factor"]);
    agrees("models/emoji", Part::Vae, &groups(16), &["scaling_factor", "shift_factor"]);
}

/// The keys of `Tongyi-MAI/Z-Image-Turbo/transformer/config.json` from the published shapes.
#[test]
fn the_published_transformer_is_derived_without_a_config() {
    let mut stored = Stored::new();
    for (stack, count) in [("layers", 30), ("noise_refiner", 2), ("context_refiner", 2)] {
        for i in 0..count {
            let mut add = |name: &str, shape: &[usize]| stored.insert(format!("{stack}.{i}.{name}"), shape.to_vec());
            add("attention.qkv.weight", &[11520, 3840]);
            add("attention.q_norm.weight", &[128]);
            add("attention_norm1.weight", &[3840]);
        }
    }
    stored.insert("cap_embedder.0.weight".into(), vec![2560]);
    stored.insert("final_layer.linear.bias".into(), vec![64]);
    let config = derived(&stored, Part::Transformer, &Map::new()).unwrap();
    let expected = json!({
        "_class_name": "ZImageTransformer2DModel", "all_patch_size": [2], "all_f_patch_size": [1], "in_channels": 16,
        "dim": 3840, "n_layers": 30, "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30, "norm_eps": 1e-5,
        "qk_norm": true, "cap_feat_dim": 2560, "rope_theta": 256.0, "t_scale": 1000.0, "axes_dims": [32, 48, 48],
        "axes_lens": [1536, 512, 512],
    });
    assert_eq!(config, expected);
}

#[test]
fn inconsistent_tensors_are_named() {
    let good = stored("tests/goldens/single", Part::Transformer);
    #[track_caller]
    fn fails(stored: &Stored, part: Part, parts: &[&str]) {
        let error = derived(stored, part, &Map::new()).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
    let without = |name: &str| {
        let mut stored = good.clone();
        stored.retain(|other, _| !other.starts_with(name));
        assert!(stored.len() < good.len());
        stored
    };
    let changed = |name: &str, shape: &[usize]| {
        let mut stored = good.clone();
        stored.insert(name.to_owned(), shape.to_vec()).unwrap();
        stored
    };
    fails(&without("layers.1."), Part::Transformer, &["a.safetensors: tensor layers.1:", "without a gap"]);
    fails(&without("cap_embedder.0"), Part::Transformer, &["tensor cap_embedder.0.weight", "found nothing"]);
    fails(&without("context_refiner"), Part::Transformer, &["context_refiner", "1 layers", "found 0"]);
    let name = "layers.0.attention.norm_q.weight";
    fails(&changed(name, &[48]), Part::Transformer, &[name, "a divisor of the width 64", "found [48]"]);
    fails(&changed(name, &[0]), Part::Transformer, &[name, "a vector", "found [0]"]);
    fails(&changed(name, &[8, 4]), Part::Transformer, &[name, "a vector", "found [8, 4]"]);
    let name = "layers.0.attention.to_k.weight";
    fails(&changed(name, &[32, 64]), Part::Transformer, &[name, "64 rows", "found 32 rows"]);
    let mut fused = without("layers.0.attention.to_");
    fused.insert("layers.0.attention.qkv.weight".to_owned(), vec![191, 64]);
    fails(&fused, Part::Transformer, &["layers.0.attention.qkv.weight", "64 rows", "found 191 rows"]);
    let name = "all_final_layer.2-1.linear.bias";
    fails(&changed(name, &[63]), Part::Transformer, &[name, "a multiple of the 4 pixels", "found [63]"]);
    fails(&stored("tests/goldens/sharded", Part::Transformer), Part::Transformer, &["axes_dims", "a head of 20"]);
    fails(&stored("tests/goldens/single", Part::Vae), Part::Vae, &["norm_num_groups", "8 channels", "32 groups"]);
}

#[test]
fn the_head_serves_as_the_table() {
    let mut stored = stored("tests/goldens/single", Part::TextEncoder);
    stored.remove("model.embed_tokens.weight").unwrap();
    let config = derived(&stored, Part::TextEncoder, &Map::new()).unwrap();
    assert_eq!((&config["vocab_size"], &config["tie_word_embeddings"]), (&json!(640), &json!(true)));
}

#[test]
fn metadata_gives_values() {
    let text = json!({"vae": {"norm_num_groups": 4}, "transformer": 3}).to_string();
    let comfy = given(json!({"config": text}));
    assert_eq!(given_config(&comfy, Part::Vae), given(json!({"norm_num_groups": 4})));
    assert!(given_config(&comfy, Part::Transformer).is_empty() && given_config(&comfy, Part::TextEncoder).is_empty());
    assert!(given_config(&given(json!({"config": "{"})), Part::Vae).is_empty());

    let gguf = given(json!({
        "general.architecture": "qwen3", "qwen3.rope.freq_base": 5e5, "qwen3.rope.scaling.type": "yarn",
        "qwen3.attention.layer_norm_rms_epsilon": "a text", "llama.rope.freq_base": 1e4,
    }));
    let expected = given(json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "yarn"}}));
    assert_eq!(given_config(&gguf, Part::TextEncoder), expected);
    assert!(given_config(&gguf, Part::Transformer).is_empty());
}
