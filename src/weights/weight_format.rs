//! The storage of a network's large matrices, as a run asks for it.

use crate::error::{Error, Result};
use crate::named;
use crate::tensor::{Format, Unquantizable, Weight};
use std::fmt;
use std::str::FromStr;

/// The storage of the matrices of attention and feed-forward layers. Embedders, modulations, the
/// final layer, vectors and the autoencoder keep theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WeightFormat {
    /// As the file has them.
    #[default]
    AsIs,
    /// One of [`Format::QUANTIZED`]. A matrix whose rows are not whole blocks keeps its storage.
    Format(Format),
    /// E4M3 with a scale for each row.
    Fp8,
}

impl WeightFormat {
    /// All of them by their names on the command line.
    pub const NAMES: [(&str, WeightFormat); 8] = [
        ("as-is", WeightFormat::AsIs),
        ("bf16", WeightFormat::Format(Format::Bf16)),
        ("fp8", WeightFormat::Fp8),
        ("q8_0", WeightFormat::Format(Format::Q8_0)),
        ("q6_k", WeightFormat::Format(Format::Q6K)),
        ("q5_k", WeightFormat::Format(Format::Q5K)),
        ("q4_k", WeightFormat::Format(Format::Q4K)),
        ("q4_0", WeightFormat::Format(Format::Q4_0)),
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        named::name(&Self::NAMES, &self).unwrap_or_default()
    }

    /// The format of a tensor of a text encoder or a transformer that is stored in `stored`.
    pub(super) fn of(self, name: &str, shape: &[usize], stored: Option<Format>) -> Option<Format> {
        match self {
            _ if !is_block_matrix(name, shape) => stored,
            WeightFormat::AsIs => stored,
            WeightFormat::Format(format) => format.bytes(shape[1]).map(|_| format).or(stored),
            WeightFormat::Fp8 => Some(Format::F8E4m3),
        }
    }

    /// The weight in this storage, if it is such a matrix. `error` reports values that the storage
    /// cannot represent.
    pub(super) async fn apply<'a>(
        self,
        name: &str,
        weight: Weight<'a>,
        error: impl Fn(Unquantizable) -> Error + 'a,
    ) -> Result<Weight<'a>> {
        match self {
            _ if !is_block_matrix(name, weight.shape()) => Ok(weight),
            WeightFormat::AsIs => Ok(weight),
            WeightFormat::Format(format) => Ok(weight.requantized(format, error)),
            WeightFormat::Fp8 => weight.in_fp8(error).await,
        }
    }
}

impl FromStr for WeightFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown =
            || Error::Request(format!("unknown storage {text:?} of weights: use {}", named::list(&Self::NAMES)));
        named::value(&Self::NAMES, text).ok_or_else(unknown)
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// True for a matrix of an attention or feed-forward layer, by diffusers' name.
pub(super) fn is_block_matrix(name: &str, shape: &[usize]) -> bool {
    let of_block = ["layers.", "noise_refiner.", "context_refiner."].iter().any(|start| name.starts_with(start));
    of_block && shape.len() == 2 && name.ends_with(".weight") && !name.contains("adaLN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_matrices_of_blocks_change() {
        let q4_k: WeightFormat = "q4_k".parse().unwrap();
        let of = |name: &str, shape: &[usize]| q4_k.of(name, shape, Some(Format::Bf16)).unwrap();
        assert_eq!(of("layers.3.attention.to_q.weight", &[768, 768]), Format::Q4K);
        assert_eq!(of("layers.3.mlp.down_proj.weight", &[768, 2048]), Format::Q4K);
        assert_eq!(of("noise_refiner.0.feed_forward.w1.weight", &[2048, 768]), Format::Q4K);
        assert_eq!(of("layers.3.feed_forward.w2.weight", &[768, 100]), Format::Bf16, "no whole blocks");
        for name in ["layers.3.adaLN_modulation.0.weight", "cap_embedder.1.weight", "embed_tokens.weight"] {
            assert_eq!(of(name, &[768, 768]), Format::Bf16, "{name}");
        }
        assert_eq!(of("layers.3.attention.norm_q.weight", &[128]), Format::Bf16);
        assert_eq!(WeightFormat::Fp8.of("layers.0.w", &[1, 1], None), None);
        assert_eq!("as-is".parse::<WeightFormat>().unwrap(), WeightFormat::default());
        let unknown = "q3".parse::<WeightFormat>().unwrap_err().to_string();
        assert!(
            unknown.contains("\"q3\"") && unknown.contains("as-is, bf16") && unknown.contains("or q4_0"),
            "{unknown}"
        );
    }
}
