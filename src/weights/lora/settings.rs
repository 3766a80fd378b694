//! The settings of PEFT's adapters, which diffusers writes into the metadata of a LoRA file. Such a
//! file has no tensors of alpha.

use super::super::file::ModelFile;
use crate::error::{Error, Result, excerpt};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The key of the metadata (`LORA_ADAPTER_METADATA_KEY` in diffusers' `loaders/lora_base.py`).
const KEY: &str = "lora_adapter_metadata";
/// The prefixes of keys and of modules: an adapter each, or only one without a prefix.
const PREFIXES: [&str; 3] = ["transformer.", "text_encoder.", ""];

/// The settings of all adapters in a file.
#[derive(Debug, Default)]
pub(super) struct Settings(BTreeMap<&'static str, Adapter>);

/// The settings of one adapter.
#[derive(Debug)]
struct Adapter {
    alpha: f64,
    /// Alphas of modules, by a regular expression that matches the end of their names.
    alphas: Vec<(String, f64)>,
    /// True for alpha / √rank (rsLoRA, arXiv:2312.03732) instead of alpha / rank.
    rank_stabilised: bool,
}

/// The part of a safetensors header that is read here.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: Option<BTreeMap<String, String>>,
}

impl Settings {
    /// Reads the settings of a file whose header has been checked.
    ///
    /// # Errors
    /// [`Error::File`] for settings of another form, or a pattern that is more than a name.
    pub(super) async fn read(file: &ModelFile) -> Result<Self> {
        let fault = |problem: String| Error::file(&file.path, format!("metadata {KEY}: {problem}"));
        let length = file.read(0..8).await?;
        let length = u64::from_le_bytes(length[..].try_into().expect("eight bytes were read"));
        let header: Header = serde_json::from_slice(&file.read(8..8 + length).await?)
            .map_err(|error| fault(excerpt(&error.to_string())))?;
        let Some(settings) = header.metadata.and_then(|mut metadata| metadata.remove(KEY)) else {
            return Ok(Self::default());
        };
        let settings: Map<String, Value> =
            serde_json::from_str(&settings).map_err(|error| fault(excerpt(&error.to_string())))?;
        let mut adapters = BTreeMap::new();
        for prefix in PREFIXES {
            if let Some(adapter) = Adapter::new(prefix, &settings).map_err(fault)? {
                adapters.insert(prefix, adapter);
            }
        }
        Ok(Self(adapters))
    }

    /// The scale of a LoRA without a tensor of alpha; 1 if there are no settings for it.
    pub(super) fn scale(&self, module: &str, rank: usize) -> f32 {
        let adapter = PREFIXES.iter().find_map(|prefix| {
            let module = module.strip_prefix(prefix)?;
            Some((module, self.0.get(prefix)?))
        });
        adapter.map_or(1.0, |(module, adapter)| adapter.scale(module, rank))
    }
}

impl Adapter {
    /// The adapter whose keys begin with `prefix`.
    ///
    /// # Errors
    /// A sentence about a value of another type.
    fn new(prefix: &str, settings: &Map<String, Value>) -> Result<Option<Self>, String> {
        let get = |key: &str| settings.get(&format!("{prefix}{key}")).filter(|value| !value.is_null());
        let number = |key: &str, value: &Value| {
            let found = || format!("expected a number as {}, found {}", excerpt(key), excerpt(&value.to_string()));
            value.as_f64().filter(|number| number.is_finite()).ok_or_else(found)
        };
        let Some(alpha) = get("lora_alpha") else {
            // The settings of LoHa and LoKr. Files of diffusers have alpha in their matrices, so
            // that it is the rank here.
            return match (get("alpha"), get("r")) {
                (None, _) => Ok(None),
                (Some(alpha), Some(rank)) if number("alpha", alpha)? == number("r", rank)? => Ok(None),
                (Some(alpha), rank) => {
                    let rank = rank.map_or("nothing".to_owned(), Value::to_string);
                    Err(format!("expected the same alpha and r, found {alpha} and {}", excerpt(&rank)))
                }
            };
        };
        let mut alphas = Vec::new();
        if let Some(patterns) = get("alpha_pattern") {
            let patterns = patterns.as_object().ok_or("expected a map as alpha_pattern")?;
            for (pattern, alpha) in patterns {
                if pattern.contains(|c: char| "*+?()[]{}|\\$".contains(c)) {
                    let found = excerpt(pattern);
                    return Err(format!("expected names in alpha_pattern, found the regular expression {found}"));
                }
                alphas.push((pattern.clone(), number("alpha_pattern", alpha)?));
            }
        }
        let rank_stabilised = match get("use_rslora") {
            None => false,
            Some(value) => value.as_bool().ok_or("expected true or false as use_rslora")?,
        };
        Ok(Some(Self { alpha: number("lora_alpha", alpha)?, alphas, rank_stabilised }))
    }

    fn scale(&self, module: &str, rank: usize) -> f32 {
        // PEFT matches a pattern against the end of a name, or all of it after `^`.
        let fits = |pattern: &str| match pattern.strip_prefix('^') {
            Some(whole) => module == whole,
            None => module.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
        };
        let alpha = self.alphas.iter().find(|(pattern, _)| fits(pattern)).map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = if self.rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        (alpha / rank) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn adapter(settings: &Value) -> Result<Option<Adapter>, String> {
        Adapter::new("transformer.", settings.as_object().unwrap())
    }

    #[test]
    fn patterns_match_the_end_of_a_name() {
        let patterns = json!({"to_q": 2, "^layers.0.w": 3});
        let settings = json!({"transformer.lora_alpha": 8, "transformer.alpha_pattern": patterns});
        let adapter = adapter(&settings).unwrap().unwrap();
        for (module, alpha) in
            [("a.to_q", 2.0), ("to_q", 2.0), ("a.not_to_q", 8.0), ("layers.0.w", 3.0), ("a.layers.0.w", 8.0)]
        {
            assert_eq!(adapter.scale(module, 4), alpha / 4.0, "{module}");
        }
    }

    #[test]
    fn settings_of_another_form_are_refused() {
        let refused = |key: &str, value: Value| {
            let mut settings = json!({"transformer.lora_alpha": 8});
            settings[format!("transformer.{key}")] = value;
            adapter(&settings).unwrap_err()
        };
        assert_eq!(refused("lora_alpha", json!("8")), "expected a number as lora_alpha, found \"8\"");
        assert!(refused("use_rslora", json!(1)).starts_with("expected true or false"));
        assert!(refused("alpha_pattern", json!([])).starts_with("expected a map"));
        assert!(refused("alpha_pattern", json!({"to_.*": 1})).contains("the regular expression to_.*"));
        assert!(adapter(&json!({"lora_alpha": 8})).unwrap().is_none(), "an adapter without the prefix");
        assert!(adapter(&json!({"transformer.alpha": 4, "transformer.r": 4})).unwrap().is_none());
        let lokr = adapter(&json!({"transformer.alpha": 8, "transformer.r": 4})).unwrap_err();
        assert_eq!(lokr, "expected the same alpha and r, found 8 and 4");
    }
}
