//! From a prompt to the token ids that the text encoder reads.

use crate::error::{Error, Result};
use crate::weights::excerpt;
use serde::Deserialize;
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// The most tokens of a prompt that the text encoder reads, the chat template's included; the rest is cut off.
pub const MAX_TOKENS: usize = 512;

/// The tokens that open and close a message of the chat. Text that spells them inside a prompt becomes these tokens
/// too, as it does in diffusers.
const MARKERS: [&str; 2] = ["<|im_start|>", "<|im_end|>"];

/// A prompt as the one message of a chat that the model is about to answer: what Qwen3's chat template makes of it with
/// `add_generation_prompt` and `enable_thinking`, which is how diffusers calls it.
fn chat(prompt: &str) -> String {
    let [start, end] = MARKERS;
    format!("{start}user\n{prompt}{end}\n{start}assistant\n")
}

/// A prompt in its chat template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// At least one and at most [`MAX_TOKENS`].
    pub ids: Vec<u32>,
    /// How many more there were.
    pub cut: usize,
}

/// The model's tokenizer.
pub struct Tokenizer {
    tokenizer: tokenizers::Tokenizer,
    /// For messages.
    path: PathBuf,
}

impl Tokenizer {
    /// Reads the contents of a `tokenizer.json`; `path` names the file in messages.
    ///
    /// Padding and truncation that were saved with the tokenizer are dropped: a batch is ragged, and the length is cut
    /// by [`Tokenizer::encode`].
    ///
    /// # Errors
    /// [`Error::File`] for a file that is not a tokenizer, for one of another kind than Qwen's, and for one without the
    /// tokens of the chat template.
    pub fn read(json: &[u8], path: &Path) -> Result<Self> {
        let broken = |error| Error::file(path, format!("expected a tokenizer.json, but it cannot be read: {error}"));
        let layout: Layout = serde_json::from_slice(json).map_err(|error| broken(error.into()))?;
        layout.check(path)?;
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(json).map_err(broken)?;
        tokenizer.with_truncation(None).map_err(broken)?.with_padding(None);
        for marker in MARKERS {
            // In the vocabulary is not enough: a word that is no added token is split before it is looked up.
            let ids = tokenizer.encode_fast(marker, false).map_err(broken)?;
            if tokenizer.token_to_id(marker).is_none_or(|id| ids.get_ids() != [id]) {
                let problem = format!(
                    "the tokenizer has no special token {marker}, which the chat template of Z-Image needs; \
                     take the tokenizer.json that belongs to the model"
                );
                return Err(Error::file(path, problem));
            }
        }
        Ok(Self { tokenizer, path: path.to_owned() })
    }

    /// The ids of a prompt in its chat template, at least one and at most [`MAX_TOKENS`], cut at the right.
    ///
    /// # Errors
    /// [`Error::File`] when the tokenizer has no tokens for this text.
    pub fn encode(&self, prompt: &str) -> Result<Tokens> {
        let encoded = self.tokenizer.encode_fast(chat(prompt), false);
        let encoding = encoded
            .map_err(|error| Error::file(&self.path, format!("the prompt cannot be put into tokens: {error}")))?;
        let ids = encoding.get_ids();
        let kept = ids.len().min(MAX_TOKENS);
        Ok(Tokens { ids: ids[..kept].to_vec(), cut: ids.len() - kept })
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of tokens it knows, added ones included. Ids are below it, but for a file that numbers them with gaps.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }
}

/// What kind of tokenizer a file describes. Those of other models put the same text into other tokens, and the crate that
/// reads the file panics at some of them when they are broken.
#[derive(Deserialize)]
struct Layout {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    model: Kind,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type", default)]
    kind: Value,
}

impl Layout {
    /// Accepts byte-level BPE with the steps that Qwen's tokenizer has.
    fn check(&self, path: &Path) -> Result<()> {
        let refuse = |what: &str, expected: &str, found: &Value| {
            let found = excerpt(&found.to_string());
            Err(Error::file(path, format!("{what}: expected {expected} as in Qwen's tokenizer, found {found}")))
        };
        if self.model.kind != "BPE" {
            return refuse("model.type", "BPE", &self.model.kind);
        }
        if !made_of(&self.normalizer, "normalizers", &["NFC"]) {
            return refuse("normalizer", "NFC", &self.normalizer);
        }
        if !made_of(&self.pre_tokenizer, "pretokenizers", &["Split", "ByteLevel"]) {
            return refuse("pre_tokenizer", "Split and ByteLevel", &self.pre_tokenizer);
        }
        Ok(())
    }
}

/// Whether `step` is nothing, one of `kinds`, or a sequence of them under the key `list`.
fn made_of(step: &Value, list: &str, kinds: &[&str]) -> bool {
    match &step["type"] {
        Value::String(kind) if kind == "Sequence" => {
            step[list].as_array().is_some_and(|steps| steps.iter().all(|step| made_of(step, list, kinds)))
        }
        Value::String(kind) => kinds.contains(&kind.as_str()),
        _ => step.is_null(),
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    // The crate numbers added tokens on from the vocabulary, whatever id the file gives them.
    const START: u32 = 256;
    const END: u32 = 257;

    /// One token a byte, with padding and truncation baked in as some exports have them.
    fn tiny() -> Value {
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let vocab: serde_json::Map<String, Value> =
            alphabet.iter().zip(0..).map(|(symbol, id): (_, u32)| (symbol.to_string(), id.into())).collect();
        let added = |id: u32, content: &str| {
            json!({"id": id, "content": content, "special": true, "normalized": false,
                   "single_word": false, "lstrip": false, "rstrip": false})
        };
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        json!({
            "version": "1.0",
            "truncation": {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 700}, "direction": "Right", "pad_to_multiple_of": null,
                        "pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
            "added_tokens": [added(START, "<|im_start|>"), added(END, "<|im_end|>")],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": bytes,
            "post_processor": bytes,
            "decoder": bytes,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                      "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
                      "vocab": vocab, "merges": []},
        })
    }

    fn read(json: &Value) -> Result<Tokenizer> {
        Tokenizer::read(json.to_string().as_bytes(), Path::new("model/tokenizer/tokenizer.json"))
    }

    /// The ids of text without markers.
    fn ids(text: &str) -> Vec<u32> {
        let tokenizer = tokenizers::Tokenizer::from_bytes(tiny().to_string()).unwrap();
        text.bytes()
            .map(|byte| {
                let symbol = match byte {
                    b'\n' => 'Ċ',
                    b' ' => 'Ġ',
                    _ => char::from(byte),
                };
                tokenizer.token_to_id(&symbol.to_string()).unwrap()
            })
            .collect()
    }

    #[test]
    fn a_prompt_is_a_message_of_a_chat() {
        let encoded = read(&tiny()).unwrap().encode("a fox").unwrap().ids;
        let expected =
            [vec![START], ids("user\na fox"), vec![END], ids("\n"), vec![START], ids("assistant\n")].concat();
        assert_eq!(encoded, expected);
    }

    #[test]
    fn markers_inside_a_prompt_are_markers() {
        let encoded = read(&tiny()).unwrap().encode("x<|im_end|>y").unwrap().ids;
        assert_eq!(encoded[6..10], [vec![*ids("x").first().unwrap(), END], ids("y"), vec![END]].concat());
    }

    #[test]
    fn an_empty_prompt_keeps_the_template() {
        assert_eq!(read(&tiny()).unwrap().encode("").unwrap().ids.len(), 1 + 5 + 1 + 1 + 1 + 10);
    }

    #[test]
    fn a_long_prompt_is_cut_at_the_right() {
        let Tokens { ids: encoded, cut } = read(&tiny()).unwrap().encode(&"z".repeat(2000)).unwrap();
        assert_eq!(cut, 1 + 5 + 2000 + 1 + 1 + 1 + 10 - MAX_TOKENS);
        assert_eq!(encoded.len(), MAX_TOKENS);
        assert_eq!(encoded[..6], [vec![START], ids("user\n")].concat());
        assert_eq!(encoded[6..], ids(&"z".repeat(MAX_TOKENS - 6)));
    }

    #[test]
    fn text_is_composed_before_it_is_split() {
        let tokenizer = read(&tiny()).unwrap();
        assert_eq!(tokenizer.encode("e\u{301}").unwrap(), tokenizer.encode("\u{e9}").unwrap());
    }

    #[test]
    fn a_broken_file_is_named() {
        for bytes in [&b""[..], b"{", b"[]", b"{}", b"\xff\xfe", br#"{"model": {"type": "BPE"}}"#] {
            let message = Tokenizer::read(bytes, Path::new("folder/tokenizer.json")).unwrap_err().to_string();
            assert!(message.starts_with("folder/tokenizer.json: expected a tokenizer.json"), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn tokenizers_of_other_models_are_refused() {
        let refused = |change: &dyn Fn(&mut Value), says: &str| {
            let mut json = tiny();
            change(&mut json);
            let message = read(&json).unwrap_err().to_string();
            assert!(message.contains("model/tokenizer/tokenizer.json") && message.contains(says), "{message}");
        };
        refused(&|json| json["model"]["type"] = "WordPiece".into(), "model.type: expected BPE");
        refused(&|json| json["normalizer"] = json!({"type": "Lowercase"}), "normalizer: expected NFC");
        // These make the tokenizers crate panic, or fill the memory with what a prompt becomes.
        let broken = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
        refused(&|json| json["normalizer"] = broken.clone(), "normalizer: expected NFC");
        refused(&|json| json["normalizer"] = json!({"precompiled_charsmap": "AAAA"}), "normalizer: expected NFC");
        refused(&|json| json["normalizer"] = json!({"type": "Sequence", "normalizers": [broken]}), "expected NFC");
        refused(&|json| json["pre_tokenizer"] = json!({"type": "FixedLength", "length": 0}), "expected Split");
        let mut bare = tiny();
        bare["normalizer"] = Value::Null;
        bare["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [bare["pre_tokenizer"].clone()]});
        assert!(read(&bare).is_ok());
    }

    #[test]
    fn a_tokenizer_without_the_template_is_refused() {
        let mut words_only = tiny();
        words_only["model"]["vocab"]["<|im_start|>"] = 2000.into();
        words_only["added_tokens"] = json!([]);
        let mut no_end = tiny();
        no_end["added_tokens"].as_array_mut().unwrap().pop();
        for (json, missing) in [(words_only, "<|im_start|>"), (no_end, "<|im_end|>")] {
            let message = read(&json).unwrap_err().to_string();
            assert!(message.contains(missing) && message.contains("model/tokenizer/tokenizer.json"), "{message}");
        }
    }
}
