//! How a model is loaded: onto what, how much of it at once, and in which precision it computes.

use crate::backend::Backend;
use crate::engine::BackendChoice;
use crate::error::{Error, Result};
use crate::pipeline::Offload;
use crate::tensor::DType;
use std::fmt;
use std::str::FromStr;

/// What [`Engine::load`](crate::Engine::load) is told besides the model. A [`BackendChoice`] alone leaves the rest to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// Which backend computes.
    pub backend: BackendChoice,
    /// Which networks are on the device at the same time.
    pub offload: Offload,
    /// What products are computed in.
    pub precision: Precision,
}

impl From<BackendChoice> for LoadOptions {
    fn from(backend: BackendChoice) -> Self {
        Self { backend, ..Self::default() }
    }
}

/// What the operands of products are rounded to; sums are F32 whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Precision {
    /// The backend's own: [`Backend::operands`].
    #[default]
    Auto,
    /// BF16, which the `cuda` backend has.
    Bf16,
}

impl Precision {
    const NAMES: [(&str, Precision); 2] = [("auto", Precision::Auto), ("bf16", Precision::Bf16)];

    /// Checks that a backend has it.
    ///
    /// # Errors
    /// [`Error::Request`] when it has not.
    pub(crate) fn check(self, b: &impl Backend) -> Result<()> {
        if self == Precision::Auto || b.operands() == DType::Bf16 {
            return Ok(());
        }
        Err(Error::Request(format!(
            "the {} backend computes products of {}, not BF16: use the precision auto, or the cuda backend",
            b.name(),
            b.operands()
        )))
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, precision)| *precision)
            .ok_or_else(|| Error::Request(format!("there is no precision {text:?}: use auto or bf16")))
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(_, precision)| precision == self).map_or("", |(name, _)| *name))
    }
}
