//! The values of a part's configuration that a file's metadata gives.

use crate::weights::names::Part;
use serde_json::{Map, Value};

/// Text of metadata longer than this is no configuration: the published ones have less than 2 kB.
const LONGEST: usize = 1 << 20;

/// Keys of a GGUF file and of `config.json`, after the architecture's name.
const GGUF: [(&str, &str); 2] =
    [("rope.freq_base", "rope_theta"), ("attention.layer_norm_rms_epsilon", "rms_norm_eps")];

/// The keys of a part's `config.json` in the metadata of a file, empty if it has none:
///
/// - in a safetensors file, the object of the part inside the JSON text `config`, as
///   `{"transformer": {…}, "vae": {…}}`, which is where ComfyUI looks for it too;
/// - in a GGUF text encoder, what sizes do not tell: `qwen3.rope.freq_base`,
///   `qwen3.attention.layer_norm_rms_epsilon` and, if there is any, `qwen3.rope.scaling.type`.
pub fn given_config(metadata: &Map<String, Value>, part: Part) -> Map<String, Value> {
    let text = metadata.get("config").and_then(Value::as_str).filter(|text| text.len() <= LONGEST);
    let parts = text.and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    let mut given = match parts.and_then(|mut parts| parts.remove(part.folder())) {
        Some(Value::Object(config)) => config,
        _ => Map::new(),
    };
    if part == Part::TextEncoder
        && let Some(architecture) = metadata.get("general.architecture").and_then(Value::as_str)
    {
        for (theirs, key) in GGUF {
            if let Some(value) = metadata.get(&format!("{architecture}.{theirs}")).filter(|value| value.is_number()) {
                given.insert(key.to_owned(), value.clone());
            }
        }
        let scaling = metadata.get(&format!("{architecture}.rope.scaling.type")).and_then(Value::as_str);
        if let Some(kind) = scaling.filter(|kind| *kind != "none") {
            let mut scaling = Map::new();
            scaling.insert("rope_type".to_owned(), kind.into());
            given.insert("rope_scaling".to_owned(), scaling.into());
        }
    }
    given
}
