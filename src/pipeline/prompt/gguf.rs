//! The tokenizer inside a text encoder's GGUF file.
//!
//! The file stores the vocabulary, the merges and the kind of each token, and only names the steps
//! before them: the normalizer, the pattern and the added tokens' properties are those of Qwen's
//! tokenizer.json.

use super::added::{self, Added};
use super::file::refused;
use super::settings::Settings;
use super::vocabulary::{self, Merges, Vocabulary};
use super::{Parts, Tokenizer};
use crate::error::{Error, Result};
use crate::weights::GgufTokenizer;

/// The types of tokens (`enum llama_token_type` of llama.cpp) that Qwen's files have.
const NORMAL: i32 = 1;
/// An added token that is special.
const CONTROL: i32 = 3;
/// An added token that is not special.
const USER_DEFINED: i32 = 4;
/// A filler, which pads the vocabulary to the rows of the embeddings. No text becomes this token.
const UNUSED: i32 = 5;

impl Tokenizer {
    /// The tokenizer inside a text encoder's GGUF file.
    ///
    /// Prompts are put into Qwen3's chat template, as for a folder without a template. The template
    /// in the file, `tokenizer.chat_template`, is not read: Z-Image was trained with Qwen3's own,
    /// and the file may come from a later chat model, or from a program that changes templates.
    ///
    /// # Errors
    /// [`Error::File`] for a tokenizer of another kind than Qwen's, for a broken one, and for one
    /// without the tokens of the chat template.
    pub fn from_gguf(gguf: &GgufTokenizer) -> Result<Self> {
        let parts = parts(gguf).map_err(|problem| Error::file(&gguf.path, problem))?;
        Self::build(parts, Settings::default(), &gguf.path)
    }
}

/// The parts that the metadata gives.
///
/// # Errors
/// One sentence without the file's name, which names the key.
fn parts(gguf: &GgufTokenizer) -> Result<Parts, String> {
    for (key, found, expected) in
        [("tokenizer.ggml.model", &gguf.model, "gpt2"), ("tokenizer.ggml.pre", &gguf.pre, "qwen2")]
    {
        if found.as_deref() != Some(expected) {
            return Err(refused(key, expected, found.as_deref().unwrap_or("nothing")));
        }
    }
    let GgufTokenizer { tokens, types, .. } = gguf;
    if tokens.len() != types.len() {
        let problem = format!("expected a type for each of {} tokens, found {}", tokens.len(), types.len());
        return Err(format!("tokenizer.ggml.token_type: {problem}"));
    }
    let typed = || (0..).zip(tokens.iter()).zip(types.iter().copied());
    if let Some(((id, _), other)) = typed().find(|(_, kind)| ![NORMAL, CONTROL, USER_DEFINED, UNUSED].contains(kind)) {
        let known = format!("{NORMAL}, {CONTROL}, {USER_DEFINED} or {UNUSED}");
        return Err(refused(&format!("tokenizer.ggml.token_type: token {id}"), &known, &other.to_string()));
    }
    // The vocabulary has the added tokens too, which then keep their ids.
    let used = typed().filter(|(_, kind)| *kind != UNUSED).map(|(token, _)| token);
    let vocabulary = Vocabulary::numbered(used).map_err(|problem| format!("tokenizer.ggml.tokens: {problem}"))?;
    let merges = Merges::pairs(gguf.merges.iter()).map_err(|problem| format!("tokenizer.ggml.merges: {problem}"))?;
    vocabulary::check(&vocabulary, &merges).map_err(|problem| format!("tokenizer.ggml: {problem}"))?;

    let is_added = |kind: i32| [CONTROL, USER_DEFINED].contains(&kind);
    let added: Vec<Added> = typed()
        .filter(|(_, kind)| is_added(*kind))
        .map(|((_, token), kind)| Added::exact(token.to_owned(), kind == CONTROL))
        .collect();
    added::check(&added).map_err(|problem| format!("tokenizer.ggml.tokens: {problem}"))?;
    let around = |key: &str, id: Option<u64>| match id.map(|id| (id, u32::try_from(id))) {
        None => Ok(Vec::new()),
        Some((_, Ok(token))) if (token as usize) < tokens.len() => Ok(vec![token]),
        Some((id, _)) => Err(format!("{key}: expected the id of one of {} tokens, found {id}", tokens.len())),
    };
    let around =
        [around("tokenizer.ggml.bos_token_id", gguf.before)?, around("tokenizer.ggml.eos_token_id", gguf.after)?];
    Ok(Parts { vocabulary, merges, added, around: Some(around), cut_left: None })
}
