//! The metadata of a GGUF file that is written.

use super::Quantization;
use super::plan::Planned;
use super::tokenizer;
use crate::error::Result;
use crate::tensor::Format;
use crate::weights::derive::{Shapes, transformer_config};
use crate::weights::folder::{LONGEST_CONFIG, ModelFolder};
use crate::weights::gguf::writer::Value;
use crate::weights::names::{Part, Spelling, TABLE};
use crate::weights::tensors::Tensors;
use serde_json::{Map, Value as Json, json};

/// The version of ggml's quantised formats (`GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;
/// The longest text of Qwen3-4B, for a configuration that has none.
const CONTEXT: u64 = 40_960;

/// Keys of a GGUF text encoder after `qwen3.`, and of `config.json`.
const SIZES: [(&str, &str); 7] = [
    ("block_count", "num_hidden_layers"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.value_length", "head_dim"),
];

/// The keys of a file.
///
/// # Errors
/// Errors of the part's `config.json` and of the tokenizer; read errors.
pub(super) async fn keys(
    folder: &ModelFolder,
    settings: Quantization,
    tensors: &Tensors,
    planned: &[Planned],
) -> Result<Vec<(String, Value)>> {
    let architecture = if settings.part == Part::Transformer { "lumina2" } else { "qwen3" };
    let mut keys = vec![
        ("general.architecture".to_owned(), Value::Text(architecture.to_owned())),
        ("general.quantization_version".to_owned(), Value::U32(QUANTIZATION_VERSION)),
        ("general.file_type".to_owned(), Value::U32(file_type(settings.format))),
    ];
    let config: Map<String, Json> =
        folder.json(&format!("{}/config.json", settings.part.folder()), LONGEST_CONFIG).await?;
    match settings.part {
        Part::TextEncoder => {
            keys.extend(text_encoder(&config));
            let rows = tensors.shape(TABLE).and_then(|shape| shape.first()).copied().unwrap_or(0);
            keys.extend(tokenizer::keys(folder, rows).await?);
        }
        _ => {
            let own = not_derived(&config, planned);
            if !own.is_empty() {
                let text = json!({ settings.part.folder(): own }).to_string();
                keys.push(("config".to_owned(), Value::Text(text)));
            }
        }
    }
    Ok(keys)
}

/// The number of a file whose matrices have this format (`enum llama_ftype` of llama.cpp).
fn file_type(format: Format) -> u32 {
    match format {
        Format::F16 => 1,
        Format::Q4_0 => 2,
        Format::Q8_0 => 7,
        Format::Q4K => 14,
        Format::Q5K => 16,
        Format::Q6K => 18,
        Format::Bf16 => 32,
        _ => 0,
    }
}

/// The configuration of Qwen3 as llama.cpp's converter writes it.
fn text_encoder(config: &Map<String, Json>) -> Vec<(String, Value)> {
    let size = |key: &str| config.get(key).and_then(Json::as_u64).and_then(|size| u32::try_from(size).ok());
    let mut keys: Vec<(String, Value)> =
        SIZES.iter().filter_map(|(key, own)| Some((format!("qwen3.{key}"), Value::U32(size(own)?)))).collect();
    let context = size("max_position_embeddings").unwrap_or(CONTEXT as u32);
    keys.push(("qwen3.context_length".to_owned(), Value::U32(context)));
    // transformers 5 writes θ into an object.
    let theta = config.get("rope_theta").or_else(|| config.get("rope_parameters")?.get("rope_theta"));
    for (key, value) in [("rope.freq_base", theta), ("attention.layer_norm_rms_epsilon", config.get("rms_norm_eps"))] {
        if let Some(value) = value.and_then(Json::as_f64) {
            keys.push((format!("qwen3.{key}"), Value::F32(value as f32)));
        }
    }
    keys
}

/// The values of the transformer's configuration that do not follow from the shapes in the file;
/// all values if the shapes give no configuration. The published models have none.
fn not_derived(config: &Map<String, Json>, planned: &[Planned]) -> Map<String, Json> {
    let names = planned.iter().map(|planned| planned.entry.name.as_str());
    let derived = Spelling::of(Part::Transformer, names.clone()).and_then(|spelling| {
        let stored = names.zip(planned.iter().map(|planned| planned.entry.shape.as_slice()));
        let shapes = Shapes::of("".as_ref(), &spelling, stored);
        transformer_config(&shapes, &Map::new()).ok()
    });
    let own = config.iter().filter(|(key, value)| match &derived {
        Some(derived) => derived.get(key.as_str()).is_some_and(|derived| !is_equal(derived, value)),
        None => !key.starts_with('_'),
    });
    own.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// True for equal values: 256 is 256.0.
fn is_equal(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_equal(a, b)),
        _ => a == b,
    }
}
