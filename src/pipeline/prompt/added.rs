//! Added tokens: text that becomes one token before anything is split.

use super::vocabulary::LONGEST_TOKEN;
use serde::Deserialize;
use tokenizers::AddedToken;

/// The most added tokens of a tokenizer; Qwen3 has 26.
const MOST: usize = 4096;

/// An added token as tokenizer.json and tokenizer_config.json describe it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Added {
    pub content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    /// The default is that special tokens are not.
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl Added {
    /// A token without further properties, as transformers makes it of text alone.
    pub(super) fn plain(content: String, special: bool) -> Self {
        Self { content, single_word: false, lstrip: false, rstrip: false, normalized: None, special }
    }

    /// A token that is found in the text as it was typed, like all of Qwen's.
    pub(super) fn exact(content: String, special: bool) -> Self {
        Self { normalized: Some(false), ..Self::plain(content, special) }
    }

    pub(super) fn token(self) -> AddedToken {
        let normalized = self.normalized.unwrap_or(!self.special);
        AddedToken::from(self.content, self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(normalized)
    }
}

/// # Errors
/// One sentence without the file's name, when there are too many tokens or one is too long.
pub(super) fn check(tokens: &[Added]) -> Result<(), String> {
    if tokens.len() > MOST {
        return Err(format!("{} added tokens are more than {MOST}", tokens.len()));
    }
    match tokens.iter().find(|token| token.content.is_empty() || token.content.len() > LONGEST_TOKEN) {
        Some(token) => {
            Err(format!("expected added tokens of 1 to {LONGEST_TOKEN} bytes, found one of {}", token.content.len()))
        }
        None => Ok(()),
    }
}
