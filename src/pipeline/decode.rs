//! Decoding: latents to pixels.

use super::Pipeline;
use super::finite::Network;
use crate::backend::{Backend, DeviceTensor};
use crate::error::{Error, Result};
use crate::model::vae::tiling::{Tiles, picture};
use crate::tensor::HostTensor;

/// The decoding of the pictures of a batch, recorded ahead: for each picture, the recording and the
/// pixels U8 `[1, H, W, 3]` that it writes.
pub(super) struct Decoding<B: Backend>(Vec<(B::Recording, B::Tensor)>);

impl<B: Backend> Pipeline<B> {
    /// Records the decoding of `latents`, whose values need not be there yet. `None` where a
    /// recording takes memory of its own beside the denoising loop's, or where the pictures are
    /// decoded in tiles.
    pub(super) fn record_decoding(&self, latents: &B::Tensor, tiles: &Tiles) -> Result<Option<Decoding<B>>> {
        if !B::RECORDINGS_SHARE_MEMORY || tiles.pixels().is_some() {
            return Ok(None);
        }
        let record = |item| {
            let mut pixels = None;
            let recording = self.backend.record(|b| {
                pixels = Some(self.vae().decode(b, latents, item..item + 1)?);
                Ok(())
            })?;
            let pixels = pixels.ok_or_else(|| Error::internal("a recorded decoder made no picture"))?;
            Ok((recording, pixels))
        };
        match (0..latents.shape()[0]).map(record).collect() {
            Ok(recorded) => Ok(Some(Decoding(recorded))),
            // It may fit later, or in tiles.
            Err(Error::OutOfMemory { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Decodes latents F32 `[B, C, h, w]` on the device to pictures U8 `[H, W, 3]` on the host, one
    /// at a time, as [`Vae::decode_picture`](crate::model::vae::Vae::decode_picture) does.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when the latents or the pixels are not all finite: a picture would hide
    /// it. [`Error::File`] when a file changed that weights are still read from. Those of the
    /// backend.
    pub async fn decode(&self, latents: &B::Tensor, tiles: &mut Tiles) -> Result<Vec<HostTensor>> {
        self.decode_recorded(latents, None, tiles).await
    }

    /// As [`Pipeline::decode`], by the recordings if there are any.
    pub(super) async fn decode_recorded(
        &self,
        latents: &B::Tensor,
        recorded: Option<Decoding<B>>,
        tiles: &mut Tiles,
    ) -> Result<Vec<HostTensor>> {
        let b = &self.backend;
        let pictures = latents.shape()[0];
        let mut decoded = Vec::with_capacity(pictures);
        for item in 0..pictures {
            let made = match &recorded {
                Some(Decoding(recorded)) => {
                    let (recording, pixels) = &recorded[item];
                    b.replay(recording)?;
                    picture(b, pixels).await
                }
                None => self.vae().decode_picture(b, latents, item, tiles).await,
            };
            decoded.push(self.blamed(made, Some(latents)).await?);
        }
        self.networks.check_unchanged()?;
        Ok(decoded)
    }

    /// A result of the VAE. The error for a picture that is not finite names the network to blame,
    /// which is the transformer if its `latents` are not finite, and a tensor of it.
    pub(super) async fn blamed<T>(&self, result: Result<T>, latents: Option<&B::Tensor>) -> Result<T> {
        if !matches!(result, Err(Error::NonFinitePicture)) {
            return result;
        }
        if let Some(latents) = latents {
            let network = Network::Transformer;
            let latents = self.backend.download(latents).await?;
            network.check(&latents, self.networks.tensors(network)).await?;
        }
        Err(Network::Vae.fault(self.networks.tensors(Network::Vae)).await)
    }
}
