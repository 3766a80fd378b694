//! The options of loading a model: its device, the networks on it, and the precision.

use super::choice::BackendChoice;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::named;
use crate::pipeline::plan::Residency;
use crate::tensor::DType;
use crate::weights::{Part, WeightFormat};
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
    /// The operand type of gemms.
    pub precision: Precision,
}

impl From<BackendChoice> for LoadOptions {
    fn from(backend: BackendChoice) -> Self {
        Self { backend, ..Self::default() }
    }
}

/// The type that gemms round their operands to. Accumulation is F32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Precision {
    /// The backend's own: [`Runtime::operands`](crate::backend::Runtime::operands).
    #[default]
    Auto,
    /// BF16, which the `cuda` backend has.
    Bf16,
    /// E4M3 in the attention and feed-forward layers of the transformer, [`Precision::Auto`]
    /// elsewhere: on GPUs of compute capability 8.9 or later, and on the `cpu` backend, which
    /// rounds to E4M3 as well and multiplies these values in F32. A storage of
    /// [`Model::with_weights`] is then that of the text encoder.
    Fp8 {
        /// Queries, keys and values of the transformer and the probabilities of its attention are
        /// in E4M3 as well, where heads are 128 wide.
        attention: bool,
    },
    /// As [`Precision::Fp8`], in the text encoder too.
    Fp8All {
        /// The operands of the transformer's attention are in E4M3 as well.
        attention: bool,
    },
}

impl Precision {
    /// [`Precision::Fp8`] without attention's products.
    pub const FP8: Self = Self::Fp8 { attention: false };
    /// [`Precision::Fp8All`] without attention's products.
    pub const FP8_ALL: Self = Self::Fp8All { attention: false };

    const NAMES: [(&str, Precision); 4] = [
        ("auto", Precision::Auto),
        ("bf16", Precision::Bf16),
        ("fp8", Precision::FP8),
        ("fp8-all", Precision::FP8_ALL),
    ];

    /// This precision with or without FP8 attention; `None` where the matrices are not in FP8.
    pub fn with_fp8_attention(self, attention: bool) -> Option<Self> {
        match self {
            Precision::Fp8 { .. } => Some(Precision::Fp8 { attention }),
            Precision::Fp8All { .. } => Some(Precision::Fp8All { attention }),
            Precision::Auto | Precision::Bf16 => (!attention).then_some(self),
        }
    }

    /// True if the transformer's attention is in FP8, for [`Model::with_fp8_attention`].
    pub fn has_fp8_attention(self) -> bool {
        matches!(self, Precision::Fp8 { attention: true } | Precision::Fp8All { attention: true })
    }

    /// `model` in this precision, for a backend.
    ///
    /// # Errors
    /// [`Error::Request`] where the backend does not have it, and where FP8 leaves no network for
    /// the storage of [`Model::with_weights`].
    pub(super) fn apply(self, b: &impl Backend, model: &Model) -> Result<Model> {
        let (name, weights) = (b.name(), model.weights());
        let fp8 = self.fp8_networks();
        let problem = match self {
            Precision::Bf16 if b.operands() != DType::Bf16 => Some(format!(
                "the {name} backend has gemms with operands of {}, not BF16: use the precision auto, or the cuda backend",
                b.operands()
            )),
            Precision::Fp8All { .. } if !matches!(weights, WeightFormat::AsIs | WeightFormat::Fp8) => Some(format!(
                "the precision {self} stores the matrices of both networks in FP8, so {weights} is the storage of none"
            )),
            _ if !fp8.is_empty() && !b.computes_fp8() => Some(format!(
                "the {name} backend has no FP8 gemms on this device: they take an NVIDIA GPU of compute capability 8.9 \
                 or later and NVRTC of CUDA 12.4 or later; use the precision auto"
            )),
            _ => None,
        };
        match problem {
            Some(problem) => Err(Error::Request(problem)),
            None => Ok(model.clone().with_fp8(fp8).with_fp8_attention(self.has_fp8_attention())),
        }
    }

    /// The networks whose attention and feed-forward layers have FP8 operands, for
    /// [`Model::with_fp8`].
    pub fn fp8_networks(self) -> &'static [Part] {
        match self {
            Precision::Auto | Precision::Bf16 => &[],
            Precision::Fp8 { .. } => &[Part::Transformer],
            Precision::Fp8All { .. } => &[Part::Transformer, Part::TextEncoder],
        }
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
        let name = self.with_fp8_attention(false).and_then(|own| named::name(&Self::NAMES, &own));
        f.write_str(name.unwrap_or_default())?;
        f.write_str(if self.has_fp8_attention() { " with FP8 attention" } else { "" })
    }
}
