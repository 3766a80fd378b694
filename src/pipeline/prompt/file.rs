//! tokenizer.json, checked before the `tokenizers` crate sees any of it.
//!
//! Only the layout of Qwen's published file is read. Other steps would put the same text into other
//! tokens than transformers does: its Qwen2Tokenizer takes the vocabulary, the merges, the added
//! tokens and the post-processor from the file, and has its own normalizer and pre-tokenizer.

use super::added::{self, Added};
use super::vocabulary::{self, Merges, Vocabulary};
use super::{PATTERN, Parts};
use crate::error::excerpt;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;

/// The longest that the description of one step may be, in bytes. The published ones have 400.
const LONGEST_STEP: usize = 1 << 16;

/// The longest list of added tokens in bytes. The published one has 4,000.
const LONGEST_ADDED: usize = 1 << 22;

/// The most post-processors in a row, and the most tokens that they add.
const MOST_PROCESSORS: usize = 16;
const MOST_PROCESSED: usize = 64;

/// The parts that a tokenizer.json gives.
///
/// # Errors
/// One sentence without the file's name, which names the field.
pub(super) fn read(json: &[u8]) -> Result<Parts, String> {
    let broken = |error: &dyn fmt::Display| {
        format!("expected a tokenizer.json, but it cannot be read: {}", excerpt(&error.to_string()))
    };
    let Fields { rest, model } = serde_json::from_slice(json).map_err(|error| broken(&error))?;
    let Some(model) = model else { return Err(broken(&"it has no model")) };
    let step = |name: &str| match rest.iter().find(|(key, _)| key == name) {
        Some((_, text)) if text.get().len() > LONGEST_STEP => {
            Err(format!("{name}: expected at most {LONGEST_STEP} bytes, found {}", text.get().len()))
        }
        Some((_, text)) => serde_json::from_str::<Value>(text.get()).map_err(|error| broken(&error)),
        None => Ok(Value::Null),
    };

    let kind = model.rest.iter().find(|(key, _)| key == "type").map_or("nothing", |(_, text)| text.get());
    if kind != "\"BPE\"" {
        return Err(refused("model.type", "BPE", kind));
    }
    let (vocabulary, merges) = match (model.vocabulary, model.merges) {
        (Some(vocabulary), Some(merges)) => (vocabulary, merges),
        _ => return Err(broken(&"its model has no vocab or no merges")),
    };
    empty(&model.rest, &["type"], "model.")?;
    empty(
        &rest,
        &[
            "version",
            "truncation",
            "padding",
            "added_tokens",
            "normalizer",
            "pre_tokenizer",
            "post_processor",
            "decoder",
        ],
        "",
    )?;
    check_normalizer(&step("normalizer")?)?;
    check_pre_tokenizer(&step("pre_tokenizer")?)?;
    vocabulary::check(&vocabulary, &merges).map_err(|problem| format!("model: {problem}"))?;

    let added: Vec<Added> = match rest.iter().find(|(key, _)| key == "added_tokens") {
        Some((_, text)) if text.get().len() > LONGEST_ADDED => {
            return Err(format!("added_tokens: expected at most {LONGEST_ADDED} bytes, found {}", text.get().len()));
        }
        Some((_, text)) => serde_json::from_str(text.get())
            .map_err(|error| format!("added_tokens: {}", excerpt(&error.to_string())))?,
        None => Vec::new(),
    };
    added::check(&added).map_err(|problem| format!("added_tokens: {problem}"))?;
    Ok(Parts {
        vocabulary,
        merges,
        added,
        around: around(&step("post_processor")?)?,
        cut_left: step("truncation")?["direction"].as_str().map(|side| side == "Left"),
    })
}

/// A sentence about a field that differs from Qwen's.
pub(super) fn refused(field: &str, expected: &str, found: &str) -> String {
    format!("{field}: expected {expected} as in Qwen's tokenizer, found {}", excerpt(found))
}

/// Refuses fields that Qwen's file leaves empty and that have a value here: they change the tokens,
/// or break the crate that would read them.
fn empty(fields: &[(String, &RawValue)], known: &[&str], prefix: &str) -> Result<(), String> {
    let nothing = |text: &str| matches!(text, "null" | "false" | "\"\"" | "[]" | "{}" | "0" | "0.0");
    match fields.iter().find(|(key, text)| !known.contains(&key.as_str()) && !nothing(text.get())) {
        Some((key, text)) => Err(refused(&format!("{prefix}{}", excerpt(key)), "nothing", text.get())),
        None => Ok(()),
    }
}

/// The steps of a sequence under the key `list`, or the one step that is not a sequence.
fn steps<'a>(step: &'a Value, list: &str) -> Vec<&'a Value> {
    match step[list].as_array() {
        Some(steps) if step["type"] == "Sequence" => steps.iter().collect(),
        _ => vec![step],
    }
}

fn check_normalizer(step: &Value) -> Result<(), String> {
    match steps(step, "normalizers")[..] {
        [only] if only["type"] == "NFC" => Ok(()),
        _ => Err(refused("normalizer", "NFC", &step.to_string())),
    }
}

fn check_pre_tokenizer(step: &Value) -> Result<(), String> {
    let [split, bytes] = steps(step, "pretokenizers")[..] else {
        return Err(refused("pre_tokenizer", "Split and ByteLevel", &step.to_string()));
    };
    let pattern = &split["pattern"]["Regex"];
    let no = Value::Bool(false);
    if split["type"] != "Split" || bytes["type"] != "ByteLevel" {
        return Err(refused("pre_tokenizer", "Split and ByteLevel", &step.to_string()));
    }
    if pattern != PATTERN {
        return Err(refused("pre_tokenizer: pattern", &format!("the Regex {PATTERN}"), &split["pattern"].to_string()));
    }
    if split["behavior"] != "Isolated" || split["invert"] != no {
        return Err(refused("pre_tokenizer: Split", "behavior Isolated and invert false", &split.to_string()));
    }
    if bytes["add_prefix_space"] != no || bytes["use_regex"] != no {
        let expected = "add_prefix_space and use_regex false";
        return Err(refused("pre_tokenizer: ByteLevel", expected, &bytes.to_string()));
    }
    Ok(())
}

/// The ids that the post-processors put before and after a text; `None` where the file has none.
fn around(step: &Value) -> Result<Option<[Vec<u32>; 2]>, String> {
    if step.is_null() {
        return Ok(None);
    }
    let processors = steps(step, "processors");
    let [mut before, mut after] = [Vec::new(), Vec::new()];
    for processor in &processors {
        match processor["type"].as_str() {
            Some("ByteLevel") => {}
            Some("TemplateProcessing") => {
                let [first, last] = template(processor)?;
                before = [first, before].concat();
                after = [after, last].concat();
            }
            _ => return Err(refused("post_processor", "ByteLevel or TemplateProcessing", &processor.to_string())),
        }
    }
    if processors.len() > MOST_PROCESSORS || before.len() + after.len() > MOST_PROCESSED {
        let most = format!("at most {MOST_PROCESSORS} processors that add at most {MOST_PROCESSED} tokens");
        return Err(refused("post_processor", &most, &step.to_string()));
    }
    Ok(Some([before, after]))
}

/// The ids before and after the text in a template for a single sequence.
fn template(processor: &Value) -> Result<[Vec<u32>; 2], String> {
    #[derive(Deserialize)]
    struct Template {
        single: Vec<Piece>,
        special_tokens: BTreeMap<String, Special>,
    }
    #[derive(Deserialize)]
    enum Piece {
        Sequence { id: String },
        SpecialToken { id: String },
    }
    #[derive(Deserialize)]
    struct Special {
        ids: Vec<u32>,
    }

    let problem = |problem: &str| format!("post_processor: TemplateProcessing: {problem}");
    let Template { single, special_tokens } =
        Template::deserialize(processor).map_err(|error| problem(&excerpt(&error.to_string())))?;
    let mut around = [Vec::new(), Vec::new()];
    let mut texts = 0;
    for piece in single {
        match piece {
            Piece::Sequence { id } if id == "A" => texts += 1,
            Piece::SpecialToken { id } if special_tokens.contains_key(&id) => {
                around[usize::from(texts > 0)].extend(&special_tokens[&id].ids);
            }
            Piece::Sequence { id } | Piece::SpecialToken { id } => {
                return Err(problem(&format!("{} is not one of its special tokens", excerpt(&id))));
            }
        }
    }
    match texts {
        1 => Ok(around),
        _ => Err(problem(&format!("expected the text once, found it {texts} times"))),
    }
}

/// The fields of tokenizer.json, all but the model as text.
struct Fields<'a> {
    rest: Vec<(String, &'a RawValue)>,
    model: Option<Bpe<'a>>,
}

/// The fields of the model, all but the large ones as text.
struct Bpe<'a> {
    rest: Vec<(String, &'a RawValue)>,
    vocabulary: Option<Vocabulary>,
    merges: Option<Merges>,
}

/// The most fields of one object, large ones not counted.
const MOST_FIELDS: usize = 64;

fn keep<'de, A: MapAccess<'de>>(
    rest: &mut Vec<(String, &'de RawValue)>,
    key: String,
    map: &mut A,
) -> Result<(), A::Error> {
    if rest.len() == MOST_FIELDS || rest.iter().any(|(other, _)| *other == key) {
        return Err(Error::custom(format_args!("{}: the field is there twice, or one too many", excerpt(&key))));
    }
    rest.push((key, map.next_value()?));
    Ok(())
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields { rest: Vec::new(), model: None };
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "model" if fields.model.is_none() => fields.model = Some(map.next_value()?),
                        _ => keep(&mut fields.rest, key, &mut map)?,
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Parts)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bpe<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Bpe<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a model of BPE")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bpe<'de>, A::Error> {
                let mut bpe = Bpe { rest: Vec::new(), vocabulary: None, merges: None };
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "vocab" if bpe.vocabulary.is_none() => bpe.vocabulary = Some(map.next_value()?),
                        "merges" if bpe.merges.is_none() => bpe.merges = Some(map.next_value()?),
                        _ => keep(&mut bpe.rest, key, &mut map)?,
                    }
                }
                Ok(bpe)
            }
        }
        deserializer.deserialize_map(Parts)
    }
}
