//! From a prompt to the token ids that the text encoder reads.
//!
//! The files are those of Qwen's tokenizer, in either of the layouts that transformers saves, and
//! the tokens are those that diffusers' pipeline makes with them: the folder's chat template, its
//! added tokens, its post-processor, and its side of truncation. A GGUF file of the text encoder
//! has a tokenizer of its own.

mod added;
mod file;
mod folder;
mod gguf;
mod settings;
mod template;
mod vocabulary;

use crate::error::{Error, Result, excerpt};
use added::Added;
use settings::Settings;
use std::fmt;
use std::path::{Path, PathBuf};
use template::ChatTemplate;
use tokenizers::SplitDelimiterBehavior;
use tokenizers::models::bpe::BpeBuilder;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use vocabulary::{Merges, Vocabulary};

/// The most tokens of a prompt that the text encoder reads, the chat template's included; the rest
/// is cut off.
pub const MAX_TOKENS: usize = 512;

/// The longest prompt in bytes: as many as [`MAX_TOKENS`] of Qwen3's longest tokens have.
pub const MAX_PROMPT_BYTES: usize = MAX_TOKENS * 128;

/// The tokens that open and close a message of Qwen's chat. Text that spells them inside a prompt
/// becomes these tokens too, as it does in diffusers.
const MARKERS: [&str; 2] = ["<|im_start|>", "<|im_end|>"];

/// Splits text into the pieces that are put into tokens one by one. Every Qwen2 and Qwen3 has this
/// pattern.
pub(crate) const PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The largest other file of a tokenizer in bytes; Qwen3's have 10 kB.
const LARGEST_SETTINGS: u64 = 4 << 20;

/// A prompt in its chat template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// At least one and at most [`MAX_TOKENS`].
    pub ids: Vec<u32>,
    /// The number of tokens that were cut off.
    pub cut: usize,
}

/// The model's tokenizer.
pub struct Tokenizer {
    tokenizer: tokenizers::Tokenizer,
    template: ChatTemplate,
    /// Ids that a post-processor puts before and after every text.
    around: [Vec<u32>; 2],
    /// True if a text that is too long loses its beginning.
    cut_left: bool,
    /// For messages.
    path: PathBuf,
}

/// The contents of a vocabulary's files; everything else is the same in every Qwen.
#[derive(Default)]
struct Parts {
    vocabulary: Vocabulary,
    merges: Merges,
    added: Vec<Added>,
    /// Ids before and after every text, where there is a post-processor.
    around: Option<[Vec<u32>; 2]>,
    /// True if a text that is too long loses its beginning, where the file says so.
    cut_left: Option<bool>,
}

impl Tokenizer {
    /// Reads the contents of a `tokenizer.json` without the files beside it; `path` names the file
    /// in messages.
    ///
    /// Padding that was saved with the tokenizer is dropped, because a batch is ragged. The length
    /// is cut by [`Tokenizer::encode`].
    ///
    /// # Errors
    /// [`Error::File`] for a file that is not a tokenizer, for one of another kind than Qwen's, and
    /// for one without the tokens of the chat template.
    pub fn read(json: &[u8], path: &Path) -> Result<Self> {
        Self::new(json, Settings::default(), path)
    }

    fn new(json: &[u8], settings: Settings, path: &Path) -> Result<Self> {
        let parts = file::read(json).map_err(|problem| Error::file(path, problem))?;
        Self::build(parts, settings, path)
    }

    fn build(parts: Parts, settings: Settings, path: &Path) -> Result<Self> {
        let broken = |error: tokenizers::Error| {
            Error::file(path, format!("the tokenizer cannot be built: {}", excerpt(&error.to_string())))
        };
        let Parts { vocabulary, merges, added, around, cut_left } = parts;
        let model = BpeBuilder::new().vocab_and_merges(vocabulary.0, merges.0).build().map_err(broken)?;
        let split = Split::new(SplitPattern::Regex(PATTERN.to_owned()), SplitDelimiterBehavior::Isolated, false)
            .map_err(broken)?;
        let steps: Vec<PreTokenizerWrapper> = vec![split.into(), ByteLevel::new(false, false, false).into()];
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_normalizer(Some(NFC)).map_err(broken)?.with_pre_tokenizer(Some(Sequence::new(steps)));
        let added = added.into_iter().chain(settings.added.into_iter().map(|(_, token)| token));
        tokenizer.add_tokens(added.map(Added::token)).map_err(broken)?;
        for marker in MARKERS.into_iter().filter(|marker| settings.template.writes(marker)) {
            // A place in the vocabulary is not enough: a word that is no added token is split
            // before it is looked up.
            let ids = tokenizer.encode_fast(marker, false).map_err(broken)?;
            if tokenizer.token_to_id(marker).is_none_or(|id| ids.get_ids() != [id]) {
                let problem = format!(
                    "the tokenizer has no special token {marker}, which the chat template writes; \
                     take the tokenizer that belongs to the model"
                );
                return Err(Error::file(path, problem));
            }
        }
        let id = |token: Option<String>| token.and_then(|token| tokenizer.token_to_id(&token)).into_iter().collect();
        let around = around.unwrap_or_else(|| [id(settings.before), id(settings.after)]);
        let cut_left = settings.cut_left.or(cut_left).unwrap_or(false);
        Ok(Self { tokenizer, template: settings.template, around, cut_left, path: path.to_owned() })
    }

    /// The ids of a prompt in its chat template, at least one and at most [`MAX_TOKENS`], cut at
    /// the right unless the files say left.
    ///
    /// # Errors
    /// [`Error::Request`] for a prompt of more than [`MAX_PROMPT_BYTES`]; [`Error::File`] when the
    /// chat template fails or the tokenizer has no tokens for this text.
    pub fn encode(&self, prompt: &str) -> Result<Tokens> {
        check_length(prompt)?;
        let encoded = self.tokenizer.encode_fast(self.template.render(prompt)?, false);
        let encoding = encoded
            .map_err(|error| excerpt(&error.to_string()))
            .map_err(|error| Error::file(&self.path, format!("the prompt cannot be put into tokens: {error}")))?;
        let ids = encoding.get_ids();
        let [before, after] = &self.around;
        let kept = ids.len().min(MAX_TOKENS - before.len() - after.len());
        let cut = ids.len() - kept;
        let ids = if self.cut_left { &ids[cut..] } else { &ids[..kept] };
        let ids = [before, ids, after].concat();
        if ids.is_empty() {
            return Err(Error::file(&self.path, "the chat template makes no tokens of the prompt"));
        }
        Ok(Tokens { ids, cut })
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of tokens it knows, added ones included. Ids are below it unless the file numbers
    /// them with gaps.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }
}

/// Refuses a prompt that would take long to put into tokens and be cut all the same.
///
/// # Errors
/// [`Error::Request`] for a prompt of more than [`MAX_PROMPT_BYTES`].
pub(super) fn check_length(prompt: &str) -> Result<()> {
    if prompt.len() > MAX_PROMPT_BYTES {
        return Err(Error::Request(format!(
            "a prompt of {} bytes is longer than the {MAX_PROMPT_BYTES} that are read: use a shorter prompt",
            prompt.len()
        )));
    }
    Ok(())
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    // The crate numbers added tokens on from the vocabulary, whatever id the file gives them.
    const START: u32 = 256;
    const END: u32 = 257;

    /// One token a byte, with the padding and truncation that some exports have.
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
        let split = json!({"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false});
        json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 700}, "direction": "Right", "pad_to_multiple_of": null,
                        "pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
            "added_tokens": [added(START, "<|im_start|>"), added(END, "<|im_end|>")],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes]},
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

    #[track_caller]
    fn refused(change: &dyn Fn(&mut Value), says: &str) {
        let mut json = tiny();
        change(&mut json);
        let message = read(&json).unwrap_err().to_string();
        assert!(message.contains("model/tokenizer/tokenizer.json") && message.contains(says), "{message}");
        assert!(message.len() < 600 && !message.contains('\n'), "{message}");
    }

    #[test]
    fn tokenizers_of_other_models_are_refused() {
        refused(&|json| json["model"]["type"] = "WordPiece".into(), "model.type: expected BPE");
        for step in [
            Value::Null,
            json!({"type": "Lowercase"}),
            json!({"type": "NFKC"}),
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            json!({"type": "Sequence", "normalizers": []}),
            json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFC"}]}),
            json!({"type": "Replace", "pattern": {"String": ""}, "content": "xxxxxxxx"}),
        ] {
            refused(&|json| json["normalizer"] = step.clone(), "normalizer: expected NFC");
        }
        let bytes = tiny()["pre_tokenizer"]["pretokenizers"][1].clone();
        for step in [
            Value::Null,
            bytes.clone(),
            json!({"type": "FixedLength", "length": 0}),
            json!({"type": "Sequence", "pretokenizers": vec![bytes; 24]}),
        ] {
            refused(&|json| json["pre_tokenizer"] = step.clone(), "pre_tokenizer: expected Split and ByteLevel");
        }
        let mut wrapped = tiny();
        wrapped["normalizer"] = json!({"type": "Sequence", "normalizers": [wrapped["normalizer"].clone()]});
        assert!(read(&wrapped).is_ok());
    }

    #[test]
    fn patterns_other_than_qwen_s_are_refused() {
        // The first takes minutes, the second is that of GPT-4.
        for pattern in [json!({"Regex": "(?=(.*a){15})z"}), json!({"Regex": r"\p{N}{1,3}|\s+"}), json!({"String": " "})]
        {
            let set = |json: &mut Value| json["pre_tokenizer"]["pretokenizers"][0]["pattern"] = pattern.clone();
            refused(&set, "pre_tokenizer: pattern: expected the Regex (?i:'s");
        }
        for (key, value, says) in
            [("behavior", json!("Removed"), "behavior Isolated"), ("invert", json!(true), "invert false")]
        {
            refused(&|json| json["pre_tokenizer"]["pretokenizers"][0][key] = value.clone(), says);
        }
        for key in ["add_prefix_space", "use_regex"] {
            refused(
                &|json| json["pre_tokenizer"]["pretokenizers"][1][key] = true.into(),
                "add_prefix_space and use_regex",
            );
        }
    }

    #[test]
    fn fields_that_qwen_leaves_empty_stay_empty() {
        for (key, value) in [
            ("dropout", json!(0.1)),
            ("unk_token", json!("!")),
            // Two bytes made the crate panic, one made it build text that is not UTF-8.
            ("continuing_subword_prefix", json!("ab")),
            ("continuing_subword_prefix", json!("x")),
            ("end_of_word_suffix", json!("</w>")),
            ("fuse_unk", json!(true)),
            ("byte_fallback", json!(true)),
            ("ignore_merges", json!(true)),
            ("something_new", json!({"a": 1})),
        ] {
            let says = format!("model.{key}: expected nothing");
            refused(&|json| json["model"][key] = value.clone(), &says);
        }
        refused(&|json| json["something_new"] = json!([1]), "something_new: expected nothing");
        let mut empty = tiny();
        empty["model"]["dropout"] = json!(0.0);
        empty["model"]["something_new"] = Value::Null;
        assert!(read(&empty).is_ok());
    }

    #[test]
    fn broken_vocabularies_are_refused() {
        refused(&|json| json["model"]["merges"] = json!([["a", "Ġ"]]), "makes no token of the vocabulary");
        refused(&|json| json["model"]["merges"] = json!([["a", "bb"]]), "makes no token");
        refused(&|json| json["model"]["merges"] = json!(["a b c"]), "expected two tokens");
        refused(&|json| json["model"]["merges"] = json!([["a"]]), "invalid length 1");
        refused(&|json| json["model"]["merges"] = json!([["a", "b", "c"]]), "invalid length 3");
        refused(&|json| json["model"]["vocab"]["new"] = 0.into(), "id 0 has two");
        refused(&|json| json["model"]["vocab"]["new"] = u32::MAX.into(), "an id past them");
        refused(&|json| json["model"]["vocab"]["new"] = json!(-1), "invalid value");
        refused(&|json| json["model"]["vocab"]["n".repeat(2000)] = 300.into(), "a token has 2000 bytes");
        refused(&|json| json["model"]["vocab"] = json!({}), "a token for each of the 256 bytes");
        refused(&|json| json["added_tokens"][0]["content"] = "".into(), "found one of 0");
        refused(&|json| json["added_tokens"][0]["content"] = "x".repeat(2000).into(), "found one of 2000");
        refused(&|json| json["added_tokens"] = vec![json["added_tokens"][0].clone(); 5000].into(), "more than 4096");
    }

    #[test]
    fn large_steps_are_refused_unread() {
        let large = format!("[{}0]", "0,".repeat(1 << 20));
        for key in ["normalizer", "pre_tokenizer", "post_processor", "truncation"] {
            let mut json = tiny();
            json[key] = "HERE".into();
            let json = json.to_string().replace("\"HERE\"", &large);
            let message = Tokenizer::read(json.as_bytes(), Path::new("t.json")).unwrap_err().to_string();
            assert!(message.contains(&format!("{key}: expected at most 65536 bytes, found 2097155")), "{message}");
        }
    }

    #[test]
    fn post_processors_add_their_tokens() {
        let token = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let template = |single: Value| {
            let special = json!({"a": {"id": "a", "ids": [1, 2], "tokens": ["x", "y"]}, "b": {"id": "b", "ids": [3]}});
            json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special})
        };
        let mut json = tiny();
        let plain = read(&json).unwrap().encode("fox").unwrap().ids;
        json["post_processor"] = json!({"type": "Sequence", "processors": [
            json["post_processor"], template(json!([token("b"), text, token("a")])), template(json!([text, token("b")]))
        ]});
        let tokenizer = read(&json).unwrap();
        assert_eq!(tokenizer.encode("fox").unwrap().ids, [&[3][..], &plain, &[1, 2, 3]].concat());
        let Tokens { ids, cut } = tokenizer.encode(&"z".repeat(600)).unwrap();
        assert_eq!(
            (ids.len(), cut, &ids[508..]),
            (MAX_TOKENS, plain.len() - 3 + 600 + 4 - MAX_TOKENS, &[ids[507], 1, 2, 3][..])
        );

        let refuses = |step: Value, says: &str| refused(&|json| json["post_processor"] = step.clone(), says);
        refuses(
            json!({"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}),
            "expected ByteLevel or TemplateProcessing",
        );
        refuses(template(json!([text, text])), "found it 2 times");
        refuses(template(json!([token("a")])), "found it 0 times");
        refuses(template(json!([text, token("c")])), "c is not one of its special tokens");
        refuses(template(json!([text, {"Sequence": {"id": "B", "type_id": 0}}])), "B is not one");
        refuses(template(vec![token("a"); 40].into()), "found it 0 times");
        let many = vec![template(json!([text, token("a")])); 40];
        refuses(json!({"type": "Sequence", "processors": many}), "at most 16 processors");
    }

    #[test]
    fn prompts_that_are_too_long_are_refused() {
        let tokenizer = read(&tiny()).unwrap();
        assert_eq!(tokenizer.encode(&"z".repeat(MAX_PROMPT_BYTES)).unwrap().ids.len(), MAX_TOKENS);
        let error = tokenizer.encode(&"z".repeat(MAX_PROMPT_BYTES + 1)).unwrap_err();
        assert!(matches!(error, Error::Request(_)) && error.to_string().contains("65537 bytes is longer"), "{error}");
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
