//! LoRA files: changes of a model's weights that are added as each weight is read, so that drawing
//! costs nothing more.
//!
//! [`Lora::open`] reads a file, [`Lora::bind`] holds it against the weights of a model, and
//! [`LoraStack`] is the [`Transform`](super::Transform) that changes them.
//!
//! | method | ΔW | scale |
//! | --- | --- | --- |
//! | LoRA | B·A | alpha / rank; without alpha, 1 or that of the file's metadata |
//! | LoHa | (W₁ₐ·W₁ᵦ) ⊙ (W₂ₐ·W₂ᵦ) | alpha / rank; 1 without alpha |
//! | LoKr | W₁ ⊗ W₂, each a matrix or a product | alpha / rank with a product, else 1 |
//! | difference | `diff`, `diff_b` | 1 |
//!
//! A tensor `scale` replaces alpha / rank. DoRA gives the rows or columns of any of them new norms.
//! The rules are those of diffusers, PEFT, LyCORIS, ComfyUI and stable-diffusion.cpp; where a
//! spelling is known to one of them only, this module follows it.

mod apply;
mod bound;
mod change;
mod delta;
mod file;
mod keys;
mod matrix;
mod report;
mod settings;
mod summary;
mod targets;

pub use bound::{BoundLora, LoraStack};
pub use report::Report;
pub use summary::LoraInfo;
pub use targets::Targets;

use super::file::{ModelFile, OpenFiles};
use super::identify::Kind;
use crate::error::{Error, Result, excerpt};
use bytes::Bytes;
use change::Change;
use file::{Contents, Group};
use keys::Role;
use settings::Settings;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The treatment of tensors that do not fit the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unused {
    /// They are an error.
    Refuse,
    /// They are listed in [`Report::unused`], and the others are applied.
    Allow,
}

/// A LoRA file. Nothing in it refers to a model yet.
#[derive(Debug)]
pub struct Lora {
    path: PathBuf,
    name: String,
    sha256: String,
    layers: Vec<Layer>,
    /// Tensors that belong to no layer, with the reason.
    stray: Vec<(String, String)>,
    tensors: usize,
    kind: Kind,
    open: OpenFiles,
}

/// The tensors of one module.
#[derive(Debug)]
struct Layer {
    /// The module's name in the file.
    name: String,
    tensors: usize,
    /// The change, or the reason why there is none.
    change: Result<Arc<Change>, String>,
}

impl Lora {
    /// Reads a safetensors file. A large file is mapped, not copied.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::File`] and [`Error::Tensor`] for a file that is missing, damaged, or
    /// no LoRA, and for one with an infinite value or NaN.
    pub async fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::file(path, "there is no such file"));
        }
        let open = OpenFiles::default();
        Self::read(ModelFile::open(path, &open)?, open).await
    }

    /// Reads the bytes of a safetensors file of this name.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Tensor`], as [`Lora::open`].
    pub async fn in_memory(name: &str, bytes: Bytes) -> Result<Self> {
        Self::read(ModelFile::in_memory(PathBuf::from(name), bytes), OpenFiles::default()).await
    }

    async fn read(file: ModelFile, open: OpenFiles) -> Result<Self> {
        let Contents { groups, stray, tensors, kind } = file::read(&file).await?;
        let settings = Settings::read(&file).await?;
        let mut layers = Vec::new();
        for (name, group) in groups {
            let change = Change::new(&group, |rank| settings.scale(&name, rank));
            check_finite(&file.path, &group, change.as_ref().ok())?;
            let tensors = group.tensors.len() + group.doubles.len();
            layers.push(Layer { name, tensors, change: change.map(Arc::new) });
        }
        let sha256 = file::sha256(&file).await?.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes every text");
            text
        });
        let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { path: file.path, name, sha256, layers, stray, tensors, kind, open })
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The SHA-256 of the file in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Checks that the file has not changed since it was opened.
    ///
    /// # Errors
    /// [`Error::File`] if it has.
    pub fn check_unchanged(&self) -> Result<()> {
        self.open.check()
    }
}

/// Checks that every value is finite, except an alpha that nothing reads.
fn check_finite(path: &Path, group: &Group, change: Option<&Change>) -> Result<()> {
    let weight = change.and_then(|change| change.weight.as_ref());
    let ignores_alpha = weight.is_some_and(|weight| weight.delta.ranks().is_empty());
    for (role, stored) in &group.tensors {
        if !(stored.tensor.is_finite() || ignores_alpha && *role == Role::Alpha) {
            return Err(Error::Tensor {
                path: path.to_owned(),
                tensor: excerpt(&stored.name),
                expected: "finite values".into(),
                found: "infinity or NaN: download the file again, or train it again".into(),
            });
        }
    }
    Ok(())
}
