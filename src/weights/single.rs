//! A single file with one or more parts of a model, as ComfyUI, stable-diffusion.cpp and llama.cpp
//! use them.

use super::derive::{Shapes, given_config, text_encoder_config, transformer_config, vae_config};
use super::file::{ModelFile, OpenFiles};
use super::gguf::{Gguf, GgufTokenizer};
use super::identify::{Kind, Listed, identify};
use super::names::{Part, Spelling};
use super::read::read_header;
use super::stored::Header;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::fmt;

/// A file whose header is read and checked.
pub(super) struct SingleFile {
    pub(super) file: ModelFile,
    pub(super) header: Header,
    /// The file's kind.
    pub(super) kind: Kind,
    /// The file, if it is on disk and its weights are read later.
    pub(super) open: OpenFiles,
}

impl SingleFile {
    /// Reads the header of a safetensors or GGUF file.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Tensor`] for a file that is truncated, damaged or of another
    /// format; read errors.
    pub(super) async fn read(file: ModelFile, open: OpenFiles) -> Result<Self> {
        let header = read_header(&file).await?;
        let kind = kind(&header);
        Ok(Self { file, header, kind, open })
    }

    /// The parts of a Z-Image model that the file has.
    pub(super) fn parts(&self) -> &[Part] {
        self.kind.parts()
    }

    /// The spelling of a part that the file has.
    ///
    /// # Errors
    /// [`Error::File`] if the file does not have the part; the message says what it has.
    pub(super) fn spelling(&self, part: Part) -> Result<Spelling> {
        let spelling = Spelling::of(part, self.header.tensors.keys().map(String::as_str));
        spelling.filter(|_| self.parts().contains(&part)).ok_or_else(|| {
            Error::file(&self.file.path, format!("expected a {}, but {}", part.name(), self.kind.refuse()))
        })
    }

    /// The `config.json` of a part: sizes from its tensors, and everything else from `beside`, the
    /// `config.json` next to the file, from the file's metadata, or from the published model.
    ///
    /// # Errors
    /// [`Error::Tensor`] for missing tensors and sizes that do not fit together.
    pub(super) fn config(&self, spelling: &Spelling, beside: Option<Map<String, Value>>) -> Result<Value> {
        let stored = self.header.tensors.iter().map(|(name, stored)| (name.as_str(), stored.shape.as_slice()));
        let shapes = Shapes::of(&self.file.path, spelling, stored);
        let mut given = given_config(&self.header.metadata, spelling.part());
        given.extend(beside.unwrap_or_default());
        match spelling.part() {
            Part::Transformer => transformer_config(&shapes, &given),
            Part::TextEncoder => text_encoder_config(&shapes, &given),
            Part::Vae => vae_config(&shapes, &given),
        }
    }

    /// True for a GGUF file with a tokenizer.
    pub(super) fn has_tokenizer(&self) -> bool {
        self.header.metadata.contains_key("tokenizer.ggml.model")
    }

    /// The header of a GGUF file.
    ///
    /// # Errors
    /// [`Error::File`] for a file of another format; read errors.
    pub(super) async fn gguf(&self) -> Result<Gguf> {
        Gguf::read(self.file.clone()).await
    }

    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// [`Error::File`] if there is none or it is broken; read errors.
    pub(super) async fn tokenizer(&self) -> Result<GgufTokenizer> {
        self.gguf().await?.tokenizer().await
    }
}

/// The kind of a file with this header.
pub(super) fn kind(header: &Header) -> Kind {
    let formats: Vec<String> = header.tensors.values().map(|stored| stored.dtype.to_string()).collect();
    let listed = header.tensors.iter().zip(&formats);
    let listed: Vec<Listed<'_>> =
        listed.map(|((name, stored), format)| Listed { name, format, shape: &stored.shape }).collect();
    identify(&listed, &header.metadata)
}

impl fmt::Debug for SingleFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.path.display())
    }
}
