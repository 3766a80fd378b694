//! The names under which the libraries that write model folders load some tensors, and the order in
//! which each of them reads its files.

use std::borrow::Cow;

/// Tensor names in the attention of an autoencoder: those of diffusers before version 0.18, and the
/// current ones.
pub(super) const OLD_ATTENTION: [(&str, &str); 4] =
    [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];

/// The body of a language model inside the model with a head.
const BODY: &str = "model.";
/// The table of a text encoder. The language-model head has the same values if the two are tied.
pub(in crate::weights) const TABLE: &str = "embed_tokens.weight";
pub(in crate::weights) const HEAD: &str = "lm_head.weight";

/// The library whose rules apply to a part's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::weights) enum Library {
    /// Reads an index of shards first, a single file otherwise.
    Diffusers,
    /// Reads a single file first, an index of shards otherwise.
    Transformers,
}

impl Library {
    /// The library that names its files `stem`.
    pub(in crate::weights) fn of(stem: &str) -> Self {
        if stem == "model" { Self::Transformers } else { Self::Diffusers }
    }

    pub(in crate::weights) fn name(self) -> &'static str {
        match self {
            Self::Diffusers => "diffusers",
            Self::Transformers => "transformers",
        }
    }

    /// The name under which the library loads the tensor stored as `stored`.
    pub(in crate::weights) fn own_name(self, stored: &str) -> Cow<'_, str> {
        match self {
            Self::Diffusers => new_attention(stored).map_or(Cow::Borrowed(stored), Cow::Owned),
            Self::Transformers => Cow::Borrowed(stored.strip_prefix(BODY).unwrap_or(stored)),
        }
    }
}

fn new_attention(stored: &str) -> Option<String> {
    let (layer, end) = stored.rsplit_once('.')?;
    let (attention, layer) = layer.rsplit_once('.')?;
    let (block, _) = attention.rsplit_once('.')?;
    let (_, new) = OLD_ATTENTION.iter().find(|(old, _)| *old == layer)?;
    (block.ends_with("mid_block.attentions") && ["weight", "bias"].contains(&end))
        .then(|| format!("{attention}.{new}.{end}"))
}
