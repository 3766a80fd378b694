//! Decoding: latents to pixels.

use super::Pipeline;
use super::finite::Network;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::vae::tiling::Tiles;
use crate::tensor::HostTensor;

impl<B: Backend> Pipeline<B> {
    /// Decodes latents F32 `[B, C, h, w]` on the device to pictures U8 `[H, W, 3]` on the host, one
    /// at a time, as [`Vae::decode_picture`](crate::model::vae::Vae::decode_picture) does.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when the latents or the pixels are not all finite: a picture would hide
    /// it. [`Error::File`] when a file changed that weights are still read from. Those of the
    /// backend.
    pub async fn decode(&self, latents: &B::Tensor, tiles: &mut Tiles) -> Result<Vec<HostTensor>> {
        let latents = self.backend.download(latents).await?;
        Network::Transformer.check(&latents, self.networks.tensors(Network::Transformer)).await?;
        let values = latents.to_f32();
        let shape = latents.shape();
        let item = [1, shape[1], shape[2], shape[3]];
        let mut pictures = Vec::with_capacity(shape[0]);
        for values in values.chunks_exact(item.iter().product()) {
            let latents = HostTensor::from_f32(&item, values);
            let picture = self.vae().decode_picture(&self.backend, &latents, tiles).await;
            pictures.push(self.blamed(picture).await?);
        }
        self.networks.check_unchanged()?;
        Ok(pictures)
    }

    /// A result of the VAE. The error for a picture that is not finite names the tensor to blame.
    pub(super) async fn blamed<T>(&self, result: Result<T>) -> Result<T> {
        match result {
            Err(Error::NonFinitePicture) => Err(Network::Vae.fault(self.networks.tensors(Network::Vae)).await),
            result => result,
        }
    }
}
