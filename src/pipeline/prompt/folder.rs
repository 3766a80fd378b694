//! The tokenizer of a model's folder.

use super::settings::Settings;
use super::vocabulary::{self, Merges};
use super::{Parts, Tokenizer};
use crate::error::{Error, Result, excerpt};
use crate::weights::ModelFolder;

/// The files of a vocabulary: one that holds everything, or the two that transformers 4 saves.
const FILE: &str = "tokenizer/tokenizer.json";
const VOCABULARY: &str = "tokenizer/vocab.json";
const MERGES: &str = "tokenizer/merges.txt";

/// The largest file of a vocabulary in bytes; Qwen3's has 11.4 MB.
const LARGEST_FILE: u64 = 64 << 20;

impl Tokenizer {
    /// Reads the tokenizer of a model: that of a GGUF file, if the model's comes from one; else
    /// tokenizer.json, or vocab.json and merges.txt, and the files beside them.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is missing, broken or too large, for a tokenizer of another
    /// kind than Qwen's, and for one without the tokens that its chat template writes; those of the
    /// folder.
    pub async fn load(folder: &ModelFolder) -> Result<Self> {
        if let Some(gguf) = folder.gguf_tokenizer().await? {
            return Self::from_gguf(&gguf);
        }
        let settings = Settings::read(folder).await?;
        if Self::files(folder).await?.contains(&FILE) {
            return Self::new(&folder.read_at_most(FILE, LARGEST_FILE).await?, settings, &folder.path(FILE));
        }
        let path = folder.path(VOCABULARY);
        let vocabulary = serde_json::from_slice(&folder.read_at_most(VOCABULARY, LARGEST_FILE).await?)
            .map_err(|error| Error::file(&path, format!("expected a vocab.json: {}", excerpt(&error.to_string()))))?;
        let merges = folder.read_at_most(MERGES, LARGEST_FILE).await?;
        let merges = std::str::from_utf8(&merges)
            .map_err(|_| "expected text in UTF-8".to_owned())
            .and_then(Merges::lines)
            .map_err(|problem| Error::file(&folder.path(MERGES), problem))?;
        vocabulary::check(&vocabulary, &merges).map_err(|problem| Error::file(&path, problem))?;
        let ids: Vec<(String, u32)> =
            settings.added.iter().filter_map(|(id, token)| Some((token.content.clone(), (*id)?))).collect();
        let tokenizer = Self::build(Parts { vocabulary, merges, ..Parts::default() }, settings, &path)?;
        // These ids alone map a token to its row of the embeddings.
        match ids.into_iter().find(|(content, id)| tokenizer.tokenizer.token_to_id(content) != Some(*id)) {
            Some((content, id)) => {
                let found = tokenizer.tokenizer.token_to_id(&content).unwrap_or_default();
                let problem = format!(
                    "the added token {} has id {id}, but {found} follows from this vocabulary: they are of different \
                     models",
                    excerpt(&content)
                );
                Err(Error::file(&path, problem))
            }
            None => Ok(tokenizer),
        }
    }

    /// The files that hold the vocabulary of a model: tokenizer.json, or else vocab.json and
    /// merges.txt.
    ///
    /// # Errors
    /// [`Error::File`] when there is neither; those of the folder.
    pub async fn files(folder: &ModelFolder) -> Result<&'static [&'static str]> {
        if folder.exists(FILE).await? {
            return Ok(&[FILE]);
        }
        let problem = "there is no such file: a tokenizer is a tokenizer.json, or a vocab.json and a merges.txt";
        if !folder.exists(VOCABULARY).await? {
            return Err(Error::file(&folder.path(FILE), problem));
        }
        if !folder.exists(MERGES).await? {
            return Err(Error::file(&folder.path(MERGES), problem));
        }
        Ok(&[VOCABULARY, MERGES])
    }
}
