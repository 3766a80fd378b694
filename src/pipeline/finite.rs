//! The check at the end of every network: its result is finite, or an error names the network and
//! the tensor to blame.

use crate::error::{Error, Result, excerpt};
use crate::tensor::HostTensor;
use crate::weights::Tensors;
use std::path::Path;

/// A network of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// Tokens to features.
    TextEncoder,
    /// Noise to latents.
    Transformer,
    /// Latents to pixels: the decoder.
    Vae,
}

impl Network {
    fn name(self) -> &'static str {
        match self {
            Network::TextEncoder => "text encoder",
            Network::Transformer => "transformer",
            Network::Vae => "VAE",
        }
    }

    /// True for a tensor that is loaded but not used for a picture.
    fn is_unused(self, name: &str) -> bool {
        self == Network::Vae && (name.starts_with("encoder.") || name.starts_with("quant_conv."))
    }

    /// Checks that every element of `result` is finite. `tensors` are the network's weights.
    ///
    /// # Errors
    /// [`Error::NonFinite`].
    pub(crate) async fn check(self, result: &HostTensor, tensors: &Tensors) -> Result<()> {
        if result.is_finite() { Ok(()) } else { Err(self.fault(tensors).await) }
    }

    /// As [`Network::check`], for `[P, T, C]` where item `i` has `lengths[i]` rows and padding
    /// behind them.
    ///
    /// # Errors
    /// [`Error::NonFinite`].
    pub(crate) async fn check_rows(self, result: &HostTensor, lengths: &[usize], tensors: &Tensors) -> Result<()> {
        let item = result.shape()[1..].iter().product::<usize>() * result.dtype().size();
        let row = item / result.shape()[1].max(1);
        for (i, length) in lengths.iter().enumerate() {
            let bytes = result.bytes().slice(i * item..i * item + length * row);
            let rows = HostTensor::new(result.dtype(), &[bytes.len() / result.dtype().size()], bytes);
            self.check(&rows.expect("a whole number of elements"), tensors).await?;
        }
        Ok(())
    }

    /// The error for a result that is not finite. It names the first tensor of the weights that is
    /// not finite either; an error of that search replaces it.
    pub(crate) async fn fault(self, tensors: &Tensors) -> Error {
        let tensor = match tensors.first_non_finite(|name| self.is_unused(name)).await {
            Ok(tensor) => tensor,
            Err(error) => return error,
        };
        let listed = tensors.iter().find(|listing| Some(listing.name) == tensor.as_deref());
        let path = match listed {
            Some(listing) => listing.file,
            None => tensors.files().next().and_then(Path::parent).unwrap_or(Path::new("")),
        };
        Error::NonFinite { network: self.name(), path: path.to_owned(), tensor: tensor.as_deref().map(excerpt) }
    }
}
