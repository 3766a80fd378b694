//! Configs, tokenizers and shard indexes: damage to the syntax, types, numbers and depth of JSON.

use super::Allowed;
use super::bytes::{self, Rng};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Keys that occur in some configs but not in the good ones here.
const KEYS: [&str; 22] = [
    "new \u{200b}key",
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "time_shift_type",
    "rope_parameters",
    "sliding_window",
    "layer_types",
    "quantization_config",
    "siglip_feat_dim",
    "mid_block_add_attention",
    "tie_word_embeddings",
    "add_bos_token",
    "chat_template",
    "defaults",
];

/// A damaged copy of a JSON document.
pub(super) fn damage(rng: &mut Rng, good: &[u8]) -> Vec<u8> {
    match rng.below(12) {
        0 | 1 => bytes::damage(rng, good),
        2 => good[..rng.below(good.len())].to_vec(),
        3 => nested(rng),
        4 => {
            // Repeats one key with another value.
            let tree: Map<String, Value> = serde_json::from_slice(good).unwrap();
            let keys: Vec<&String> = tree.keys().collect();
            let key = json!(rng.pick(&keys)).to_string();
            let text = String::from_utf8_lossy(good).replacen('{', &format!("{{{key}: {},", value(rng)), 1);
            text.into_bytes()
        }
        5 => {
            let starts: [&[u8]; 5] = [b"\xef\xbb\xbf", b"\xff\xfe", b"//\n", b"\0", b"NaN"];
            [rng.pick(&starts), good].concat()
        }
        _ => {
            let mut tree: Value = serde_json::from_slice(good).unwrap();
            for _ in 0..=rng.below(2) {
                edit(rng, &mut tree);
            }
            let mut text = tree.to_string();
            if rng.below(8) == 0 {
                // Writes numbers that Python accepts but JSON does not.
                let number = rng.pick(&["NaN", "Infinity", "-Infinity", "1e999", "-0", "1e-999", "0x10", "1_000"]);
                text = text.replacen(":0", &format!(":{number}"), 1).replacen(":1", &format!(":{number}"), 1);
            }
            text.into_bytes()
        }
    }
}

/// A damaged copy of a tokenizer or of its config. Half of the edits hit the parts that compute.
pub(super) fn damage_tokenizer(rng: &mut Rng, file: &str, good: &[u8]) -> Vec<u8> {
    if rng.below(2) == 0 {
        return damage(rng, good);
    }
    let mut tree: Value = serde_json::from_slice(good).unwrap();
    if file.ends_with("tokenizer_config.json") {
        let templates = [
            "{% for i in range(100000000) %}x{% endfor %}",
            "{% for m in messages %}{{ m.content * 100000000 }}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{{ raise_exception('no') }}",
            "{{ messages[0]['content'] }}",
            "{% if",
            "",
        ];
        tree["chat_template"] = json!(rng.pick(&templates));
        return tree.to_string().into_bytes();
    }
    let pattern =
        *rng.pick(&["(?=(.*a){15})z", "(a*)*b", "((((", "", "\\p{L}+", "(?:(?:.?){50}){50}x", ".", "\u{e9}{1000000}"]);
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": false});
    let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(1 << rng.below(12))});
    let part = *rng.pick(&["pre_tokenizer", "normalizer", "post_processor", "decoder", "added_tokens", "model"]);
    match (part, rng.below(3)) {
        ("pre_tokenizer", 0) => {
            tree[part] = json!({"type": "Sequence", "pretokenizers": vec![byte_level; 1 + rng.below(30)]});
        }
        ("pre_tokenizer", 1) => tree[part] = json!({"type": "Sequence", "pretokenizers": [split, byte_level]}),
        ("normalizer", 0) => tree[part] = json!({"type": "Sequence", "normalizers": vec![replace; 1 + rng.below(8)]}),
        ("normalizer", 1) => tree[part] = json!({"type": "Prepend", "prepend": "x".repeat(1 << rng.below(20))}),
        ("model", 0 | 1) => {
            let fields = [
                "dropout",
                "unk_token",
                "continuing_subword_prefix",
                "end_of_word_suffix",
                "fuse_unk",
                "byte_fallback",
                "ignore_merges",
            ];
            let values = [json!(0.5), json!("ab"), json!("x"), json!(true), json!("\u{e9}"), json!(-1), json!(1e300)];
            tree[part][*rng.pick(&fields)] = rng.pick(&values).clone();
        }
        ("model", _) => {
            let merges = tree[part]["merges"].as_array_mut().unwrap();
            let at = rng.below(merges.len());
            merges[at] = rng
                .pick(&[json!(["a", "\u{120}"]), json!("a b c"), json!(["", ""]), json!(["zz", "qq"]), json!(["a"])])
                .clone();
        }
        _ => edit(rng, &mut tree[part]),
    }
    tree.to_string().into_bytes()
}

/// A document that is extremely deep or extremely long.
fn nested(rng: &mut Rng) -> Vec<u8> {
    let n = *rng.pick(&[1, 100, 127, 128, 10_000, 1_000_000]);
    let (open, close) = *rng.pick(&[("[", "]"), ("{\"a\":", "}"), ("[[],", "]")]);
    let closed = if rng.below(2) == 0 { close.repeat(n) } else { String::new() };
    let inner = value(rng).to_string();
    (open.repeat(n) + &inner + &closed).into_bytes()
}

/// A value of any type.
fn value(rng: &mut Rng) -> Value {
    match rng.below(12) {
        0 => Value::Null,
        1 => json!(rng.below(2) == 0),
        2 => json!(rng.pick(&[0, 1, 2, 3, 7, 16, 63, 64, 65, 128, 4096])),
        3 => json!(rng.pick(&[-1, i64::MIN, i64::MAX, 1 << 31, 1 << 32, 1 << 40])),
        4 => json!(u64::MAX),
        5 => json!(rng.pick(&[0.0, -0.0, 0.5, 1e-300, 1e300, -3.5, 64.0])),
        6 => json!(rng.pick(&[
            "",
            "64",
            "F32",
            "../../etc/passwd",
            "/dev/zero",
            "\u{202e}\u{7f}\u{9b}31m",
            "a\nb\u{1b}[2J"
        ])),
        7 => json!("x".repeat(1 << rng.below(18))),
        8 => json!([]),
        9 => json!({}),
        10 => json!(vec![rng.below(9); 1 + rng.below(2000)]),
        _ => (0..rng.below(100)).fold(json!("a"), |inner, _| json!([inner])),
    }
}

/// A node at most `steps` levels inside a document.
fn descend<'a>(rng: &mut Rng, tree: &'a mut Value, steps: usize) -> &'a mut Value {
    let length = match &*tree {
        Value::Object(map) => map.len(),
        Value::Array(list) => list.len(),
        _ => 0,
    };
    if steps == 0 || length == 0 {
        return tree;
    }
    let at = rng.below(length);
    let next = match tree {
        Value::Object(map) => map.values_mut().nth(at),
        Value::Array(list) => list.get_mut(at),
        _ => None,
    };
    descend(rng, next.expect("a place of a list that is not empty"), steps - 1)
}

/// Changes one node of a document.
pub(super) fn edit(rng: &mut Rng, tree: &mut Value) {
    // The walk ends at a random depth, in most cases at a leaf.
    let steps = rng.below(6);
    let place = descend(rng, tree, steps);
    match place {
        Value::Object(map) if !map.is_empty() => {
            let key = map.keys().nth(rng.below(map.len())).unwrap().clone();
            let renamed = format!("{key}_");
            match rng.below(4) {
                0 => drop(map.remove(&key)),
                1 => drop(map.remove(&key).and_then(|old| map.insert(renamed, old))),
                2 => drop(map.insert(key, value(rng))),
                _ => drop(map.insert((*rng.pick(&KEYS)).into(), value(rng))),
            }
        }
        Value::Array(list) if !list.is_empty() => {
            let at = rng.below(list.len());
            match rng.below(4) {
                0 => drop(list.remove(at)),
                1 => list.insert(at, value(rng)),
                2 => list[at] = value(rng),
                _ => {
                    // Repeats one step of a chain, as a small file can.
                    let step = list[at].clone();
                    list.extend(vec![step; 1 + rng.below(40)]);
                }
            }
        }
        Value::Number(old) if rng.below(2) == 0 => {
            let (old, by) = (old.as_f64().unwrap_or(0.0), *rng.pick(&[-1.0, 1.0, 2.0, 1000.0]));
            let new = if rng.below(2) == 0 { old + by } else { old * by };
            *place = if new.fract() == 0.0 && new.abs() < 1e15 { json!(new as i64) } else { json!(new) };
        }
        Value::Bool(old) if rng.below(2) == 0 => *old = !*old,
        Value::String(old) if rng.below(2) == 0 => {
            let damaged = bytes::damage(rng, old.as_bytes());
            *old = String::from_utf8_lossy(&damaged).into_owned();
        }
        other => *other = value(rng),
    }
}

/// The parsed document, or the allowed results for text that is not JSON.
fn parsed(bad: &[u8]) -> Result<Value, Allowed> {
    serde_json::from_slice(bad).map_err(|_| {
        // Python accepts more than JSON, so these texts may still be documents for it.
        let text = String::from_utf8_lossy(bad).to_lowercase();
        let python = ["nan", "infinity", "\\ud", "e9", "e+"].iter().any(|more| text.contains(more));
        if python || bad.starts_with(b"\xef\xbb\xbf") { Allowed::Any } else { Allowed::Refused }
    })
}

/// The keys that determine tensor shapes, with the defaults of diffusers or transformers.
fn shape_keys(file: &str) -> &'static [(&'static str, f64)] {
    match file.split('/').next() {
        Some("text_encoder") => &[
            ("vocab_size", 151_936.0),
            ("hidden_size", 4096.0),
            ("intermediate_size", 22_016.0),
            ("num_hidden_layers", 32.0),
            ("num_attention_heads", 32.0),
            ("num_key_value_heads", 32.0),
            ("head_dim", 128.0),
        ],
        Some("transformer") => &[
            ("in_channels", 16.0),
            ("dim", 3840.0),
            ("n_layers", 30.0),
            ("n_refiner_layers", 2.0),
            ("n_heads", 30.0),
            ("cap_feat_dim", 2560.0),
        ],
        Some("vae") => &[("latent_channels", 4.0), ("layers_per_block", 1.0), ("out_channels", 3.0)],
        _ => &[],
    }
}

/// The allowed results for a config.
pub(super) fn allowed_config(file: &str, good: &[u8], bad: &[u8]) -> Allowed {
    let new = match parsed(bad) {
        Ok(new) => new,
        Err(allowed) => return allowed,
    };
    if !new.is_object() {
        return Allowed::Refused;
    }
    let old: Value = serde_json::from_slice(good).unwrap();
    for (key, default) in shape_keys(file) {
        let before = old[key].as_f64().unwrap();
        let after = match new.get(key) {
            None | Some(Value::Null) => *default,
            Some(Value::Bool(truth)) => f64::from(*truth),
            Some(other) => other.as_f64().unwrap_or(f64::NAN),
        };
        // Fewer layers than in the file form a smaller model, and the text encoder's last layer is
        // unused.
        let most = if *key == "num_hidden_layers" { before + 1.0 } else { before };
        let fewer = key.contains("layers") && (0.0..=most).contains(&after);
        if after != before && !fewer {
            return Allowed::Refused;
        }
    }
    let widths = |tree: &Value| -> Option<Vec<f64>> {
        tree["block_out_channels"].as_array()?.iter().map(Value::as_f64).collect()
    };
    if file.starts_with("vae") && widths(&new) != widths(&old) { Allowed::Refused } else { Allowed::Any }
}

/// The allowed results for a tokenizer. No reference knows the tokens, so any picture is allowed,
/// provided that the file lacks the fields that are empty in Qwen's.
pub(super) fn allowed_tokenizer(file: &str, bad: &[u8]) -> Allowed {
    let new = match parsed(bad) {
        Ok(new) => new,
        Err(allowed) => return allowed,
    };
    if !new.is_object() {
        return Allowed::Refused;
    }
    if file.ends_with("tokenizer_config.json") {
        return Allowed::Any;
    }
    let model = &new["model"];
    let text = |key: &str| model[key].as_str().is_some_and(|text| !text.is_empty());
    let filled = text("continuing_subword_prefix") || text("end_of_word_suffix");
    let random = model["dropout"].as_f64().is_some_and(|chance| chance > 0.0);
    if filled || random { Allowed::Refused } else { Allowed::Any }
}

/// The allowed results for an index of shards or of the pipeline's parts, which does not affect the
/// picture.
pub(super) fn allowed_index(file: &str, good: &[u8], bad: &[u8]) -> Allowed {
    let new = match parsed(bad) {
        Ok(new) => new,
        Err(Allowed::Any) => return Allowed::Same,
        Err(allowed) => return allowed,
    };
    if file == "model_index.json" {
        let classes = ["ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline"];
        let known = new["_class_name"].as_str().is_some_and(|class| classes.contains(&class));
        return if known { Allowed::Same } else { Allowed::Refused };
    }
    let shards = |tree: &Value| -> BTreeSet<String> {
        let map = tree["weight_map"].as_object();
        map.into_iter().flat_map(Map::values).filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let old: Value = serde_json::from_slice(good).unwrap();
    if shards(&old).is_subset(&shards(&new)) { Allowed::Same } else { Allowed::Refused }
}
