//! The tokenizer inside a GGUF file: the metadata under `tokenizer.ggml`.

use super::metadata::{GgufArray, GgufValue, ValueType};
use super::{Gguf, brief};
use crate::error::{Error, Result};
use bytes::Bytes;
use std::fmt;
use std::path::PathBuf;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// The largest array in bytes; Qwen3's tokens have 2.3 MB.
const LARGEST_ARRAY: u64 = 64 << 20;

/// The tokenizer of a text encoder, as the file stores it.
pub struct GgufTokenizer {
    /// The file, for messages.
    pub(crate) path: PathBuf,
    /// The kind of tokenizer, `tokenizer.ggml.model`: `gpt2` for byte-level BPE.
    pub(crate) model: Option<String>,
    /// The pattern that splits text, `tokenizer.ggml.pre`: `qwen2` for Qwen2 and Qwen3.
    pub(crate) pre: Option<String>,
    /// The text of each token, by its id.
    pub(crate) tokens: Texts,
    /// The type of each token: `enum llama_token_type` of llama.cpp.
    pub(crate) types: Vec<i32>,
    /// Two tokens each, with a space between them.
    pub(crate) merges: Texts,
    /// The id of the token before every text, where the file says that there is one.
    pub(crate) before: Option<u64>,
    /// The id of the token after every text, likewise.
    pub(crate) after: Option<u64>,
}

/// Texts in a single allocation. A `Vec<String>` would take several times the bytes in the file.
pub(crate) struct Texts {
    text: String,
    /// The end of each text in `text`.
    ends: Vec<u32>,
}

impl Texts {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.text[start as usize..end as usize])
    }

    /// Splits the items of an array of `len` texts.
    ///
    /// # Errors
    /// One sentence without the file's name and the key.
    fn split(bytes: &Bytes, len: u64) -> std::result::Result<Self, String> {
        let damaged = || "expected texts, found a damaged array; download the file again".to_owned();
        // Eight bytes of each text are its length.
        let mut text = String::with_capacity((bytes.len() as u64).saturating_sub(8 * len) as usize);
        let mut ends = Vec::with_capacity((bytes.len() / 8).min(len as usize));
        let mut rest = &bytes[..];
        for i in 0..len {
            let (length, tail) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
            let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| damaged())?;
            let (item, tail) = tail.split_at_checked(length).ok_or_else(damaged)?;
            text.push_str(str::from_utf8(item).map_err(|_| format!("expected UTF-8, found other bytes in item {i}"))?);
            ends.push(u32::try_from(text.len()).map_err(|_| damaged())?);
            rest = tail;
        }
        Ok(Self { text, ends })
    }
}

impl Gguf {
    /// True if the file contains a tokenizer.
    pub fn has_tokenizer(&self) -> bool {
        self.metadata.contains_key(TOKENS)
    }

    /// Reads the tokenizer of a text encoder. It takes about as much memory as in the file.
    ///
    /// # Errors
    /// [`Error::File`] for a file without a tokenizer, or with a key of another type or of more
    /// than 64 MiB; read errors.
    pub async fn tokenizer(&self) -> Result<GgufTokenizer> {
        if !self.has_tokenizer() {
            return Err(Error::file(
                self.path(),
                format!("the file has no tokenizer: expected the metadata key {TOKENS}"),
            ));
        }
        let types = self.array(TYPES, "integers of 32 bits", &[ValueType::I32, ValueType::U32])?;
        let types = self.items(types).await?;
        let types = types.chunks_exact(4).map(|id| i32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect();
        let token = |add, id| match self.flag(add)? {
            true => self.number(id),
            false => Ok(None),
        };
        Ok(GgufTokenizer {
            path: self.path().to_owned(),
            model: self.text("tokenizer.ggml.model")?,
            pre: self.text("tokenizer.ggml.pre")?,
            tokens: self.texts(TOKENS).await?,
            types,
            merges: self.texts(MERGES).await?,
            before: token("tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id")?,
            after: token("tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id")?,
        })
    }

    fn fault(&self, key: &str, problem: &str) -> Error {
        Error::file(self.path(), format!("metadata key {key}: {problem}"))
    }

    fn unexpected(&self, key: &str, expected: &str, found: Option<&GgufValue>) -> Error {
        let found = found.map_or_else(|| "nothing".into(), brief);
        self.fault(key, &format!("expected {expected}, found {found}"))
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Text(text)) => Ok(Some(text.clone())),
            other => Err(self.unexpected(key, "a text", other)),
        }
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.metadata.get(key) {
            None => Ok(false),
            Some(GgufValue::Bool(flag)) => Ok(*flag),
            other => Err(self.unexpected(key, "a bool", other)),
        }
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(GgufValue::Unsigned(number)) => Ok(Some(*number)),
            other => Err(self.unexpected(key, "an unsigned integer", other)),
        }
    }

    /// An array of one of `kinds`, bounded in its length.
    fn array(&self, key: &str, expected: &str, kinds: &[ValueType]) -> Result<&GgufArray> {
        let array = match self.metadata.get(key) {
            Some(GgufValue::Array(array)) if kinds.contains(&array.kind) => array,
            other => return Err(self.unexpected(key, &format!("an array of {expected}"), other)),
        };
        let bytes = array.range.end - array.range.start;
        if bytes > LARGEST_ARRAY {
            return Err(self.fault(key, &format!("expected at most {LARGEST_ARRAY} bytes, found {bytes}")));
        }
        Ok(array)
    }

    async fn items(&self, array: &GgufArray) -> Result<Bytes> {
        self.file.read(array.range.clone()).await
    }

    async fn texts(&self, key: &str) -> Result<Texts> {
        let array = self.array(key, "texts", &[ValueType::Text])?;
        Texts::split(&self.items(array).await?, array.len).map_err(|problem| self.fault(key, &problem))
    }
}

impl fmt::Debug for GgufTokenizer {
    /// Omits the tokens and the merges.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GgufTokenizer")
            .field("path", &self.path)
            .field("tokens", &self.tokens.len())
            .finish_non_exhaustive()
    }
}
