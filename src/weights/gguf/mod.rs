//! GGUF, the file format of ggml, versions 2 and 3, read as untrusted input, and written.
//!
//! A file is a header, then the data. All integers are little-endian; a text is its length in U64
//! and its bytes.
//!
//! | part | content |
//! | --- | --- |
//! | start | `GGUF`, the version in U32, the number of tensors in U64, the number of keys in U64 |
//! | metadata | a key each: its name, the type of its value in U32, the value |
//! | tensors | an entry each: its name, the number of dimensions in U32, the sizes in U64 (innermost first), the type in U32, the offset of its data in U64 |
//! | data | starts at the next multiple of the alignment, and so does each tensor |
//!
//! Source: ggml's `docs/gguf.md` and `gguf.cpp`. Offsets are computed in `u64`, because a browser's
//! `usize` is too small for a file of more than 4 GB.

mod cursor;
mod metadata;
mod tensors;
mod tokenizer;
pub(super) mod writer;

pub use metadata::{GgufArray, GgufValue};
pub use tensors::GgufTensor;
pub use tokenizer::GgufTokenizer;

use super::file::{ModelFile, OpenFiles};
use crate::error::{Error, Result, excerpt};
use cursor::Cursor;
use metadata::Metadata;
use std::collections::BTreeMap;
use std::path::Path;

const MAGIC: &[u8; 4] = b"GGUF";
/// The versions that are read. Version 3 differs from 2 only in that it may be big-endian.
const VERSIONS: [u32; 2] = [2, 3];
/// The alignment of a file that does not give its own.
const ALIGNMENT: u64 = 32;

/// The header of a GGUF file.
#[derive(Debug)]
pub struct Gguf {
    /// The version of the format: 2 or 3.
    pub version: u32,
    /// The metadata by key, except the shapes under `comfy.gguf.orig_shape`, which
    /// [`GgufTensor::shape`] has.
    pub metadata: BTreeMap<String, GgufValue>,
    /// The tensors by name.
    pub tensors: BTreeMap<String, GgufTensor>,
    file: ModelFile,
}

impl Gguf {
    /// Reads and checks the header of a file on disk.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Tensor`] for a file that does not exist, is of another format,
    /// truncated or damaged; read errors.
    pub async fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::file(path, "there is no such file"));
        }
        Self::read(ModelFile::open(path, &OpenFiles::default())?).await
    }

    /// Reads and checks the header of `file`.
    ///
    /// Tensors of a type that this crate does not read are listed like all others:
    /// [`GgufTensor::format`] returns `None`.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Tensor`] for a file that is of another format, truncated or
    /// damaged; read errors.
    pub(super) async fn read(file: ModelFile) -> Result<Self> {
        let cursor = &mut Cursor::new(&file);
        let version = start(&file, cursor).await?;
        let tensors = tensors::read_count(cursor).await?;
        let keys = metadata::read_count(cursor).await?;
        let metadata = metadata::read(cursor, keys).await?;
        check_whole(&file, &metadata)?;
        let alignment = alignment(&file, &metadata)?;
        let tensors = tensors::read(cursor, tensors, &metadata, alignment).await?;
        Ok(Self { version, metadata: metadata.values, tensors, file })
    }

    /// The path, for messages.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The model's kind, `general.architecture`: `lumina2` for Z-Image, `qwen3` for its text
    /// encoder. stable-diffusion.cpp writes files without one.
    pub fn architecture(&self) -> Option<&str> {
        match self.metadata.get("general.architecture") {
            Some(GgufValue::Text(name)) => Some(name),
            _ => None,
        }
    }
}

/// Reads the magic and the version.
async fn start(file: &ModelFile, cursor: &mut Cursor<'_>) -> Result<u32> {
    let fault = |found: String| Err(Error::file(&file.path, format!("expected a GGUF file, found {found}")));
    if file.len < MAGIC.len() as u64 {
        return fault(format!("a file of {} bytes", file.len));
    }
    let magic = cursor.array().await?;
    if magic != *MAGIC {
        return fault(format!("a file that begins with \"{}\"", magic.escape_ascii()));
    }
    let version = cursor.u32().await?;
    match version {
        _ if VERSIONS.contains(&version) => Ok(version),
        _ if VERSIONS.contains(&version.swap_bytes()) => {
            fault("a big-endian one; convert it with gguf-convert-endian".into())
        }
        1 => fault("one of version 1, which ggml no longer reads either; download a newer one".into()),
        _ => fault(format!("one of version {version}, where 2 and 3 are supported")),
    }
}

/// Checks that the file is not a part of a larger one.
fn check_whole(file: &ModelFile, metadata: &Metadata) -> Result<()> {
    let parts = match metadata.values.get("split.count") {
        Some(&GgufValue::Unsigned(parts)) => parts,
        _ => 1,
    };
    if parts > 1 {
        let problem = format!("this is one of {parts} parts of a model; join them with llama-gguf-split --merge");
        return Err(Error::file(&file.path, problem));
    }
    Ok(())
}

/// The multiple at which the data of each tensor starts.
fn alignment(file: &ModelFile, metadata: &Metadata) -> Result<u64> {
    match metadata.values.get("general.alignment") {
        None => Ok(ALIGNMENT),
        Some(&GgufValue::Unsigned(alignment)) if alignment.is_power_of_two() && alignment <= u32::MAX.into() => {
            Ok(alignment)
        }
        Some(found) => {
            let problem =
                format!("metadata key general.alignment: expected a power of two in U32, found {}", brief(found));
            Err(Error::file(&file.path, problem))
        }
    }
}

/// A value for a message.
fn brief(value: &GgufValue) -> String {
    match value {
        GgufValue::Text(text) => excerpt(text),
        other => other.to_string(),
    }
}
