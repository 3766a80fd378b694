//! From a model's files to a device: what the three networks share when they load.

use crate::backend::{Backend, HostTensor};
use crate::error::Result;
use crate::weights::Tensors;
use futures_util::future::try_join_all;

/// Told of every tensor that was read, in bytes; its error ends the loading.
pub type OnRead<'a> = &'a dyn Fn(u64) -> Result<()>;

/// Reads the tensors of one part and uploads them. The host holds those of one call at a time, so that a model may be
/// larger than its memory; they are asked for together, because a network answers several questions as fast as one.
#[derive(Clone, Copy)]
pub(super) struct Loader<'a, B> {
    pub b: &'a B,
    pub tensors: &'a Tensors,
    pub on_read: OnRead<'a>,
}

impl<B: Backend> Loader<'_, B> {
    pub(super) async fn take(&self, name: &str, shape: &[usize]) -> Result<HostTensor> {
        let tensor = self.tensors.take(name, shape).await?;
        (self.on_read)(tensor.bytes().len() as u64)?;
        Ok(tensor)
    }

    /// Several at once, in the order of `wanted`.
    pub(super) async fn take_all<const N: usize>(&self, wanted: [(&str, &[usize]); N]) -> Result<[HostTensor; N]> {
        let tensors = try_join_all(wanted.map(|(name, shape)| self.take(name, shape))).await?;
        Ok(tensors.try_into().expect("as many results as questions"))
    }

    /// A vector of `len` elements.
    pub(super) async fn vector(&self, name: &str, len: usize) -> Result<B::Tensor> {
        self.b.upload(&self.take(name, &[len]).await?)
    }

    /// The linear layer `name`, with its bias.
    pub(super) async fn linear(&self, name: &str, n: usize, k: usize) -> Result<B::Linear> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let [weight, bias] = self.take_all([(&weight, &[n, k]), (&bias, &[n])]).await?;
        self.b.upload_linear(&[weight], &[bias])
    }
}
