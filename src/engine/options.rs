//! The options of loading a model: its device, the networks on it, and the precision.

use super::choice::BackendChoice;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::named;
use crate::pipeline::plan::Residency;
use crate::tensor::DType;
use std::fmt;
use std::str::FromStr;

/// The options of [`Engine::load`](crate::Engine::load). A [`BackendChoice`] converts into them and
/// leaves the others at their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// The backend that computes, and its device.
    pub backend: BackendChoice,
    /// The networks on the device, and the memory that they may take.
    pub residency: Residency,
    /// The operand type of matrix products.
    pub precision: Precision,
}

impl From<BackendChoice> for LoadOptions {
    fn from(backend: BackendChoice) -> Self {
        Self { backend, ..Self::default() }
    }
}

/// The type that matrix products round their operands to. Accumulation is F32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Precision {
    /// The backend's own: [`Runtime::operands`](crate::backend::Runtime::operands).
    #[default]
    Auto,
    /// BF16, which the `cuda` backend has.
    Bf16,
}

impl Precision {
    const NAMES: [(&str, Precision); 2] = [("auto", Precision::Auto), ("bf16", Precision::Bf16)];

    /// Checks that a backend has this precision.
    ///
    /// # Errors
    /// [`Error::Request`] where it does not.
    pub(super) fn check(self, b: &impl Backend) -> Result<()> {
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
        let unknown = || Error::Request(format!("there is no precision {text:?}: use {}", named::list(&Self::NAMES)));
        named::value(&Self::NAMES, text).ok_or_else(unknown)
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(named::name(&Self::NAMES, self).unwrap_or_default())
    }
}
