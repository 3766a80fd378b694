//! From a model's files to a device: the loading code that the three networks share.

use super::stacked::Stacked;
use super::streaming::is_mapped;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::tensor::{Compute, DType, HostTensor, StreamSource, Weight};
use crate::weights::{OnRead, Tensors};
use futures_util::future::try_join_all;
use std::path::Path;

/// Uploads the tensors of one part. Small tensors are read whole and together, because a network
/// answers several requests as fast as one. Tables and matrices are read in pieces during the
/// upload, so that a model may be larger than the host's memory.
#[derive(Clone, Copy)]
pub(super) struct Loader<'a, B> {
    pub b: &'a B,
    pub tensors: &'a Tensors,
    pub on_read: OnRead<'a>,
    /// The memory that tables and matrices are streamed from. Those that no mapped file holds are
    /// in the backend's memory in any case.
    pub streamed: Option<StreamSource>,
}

impl<'a, B: Backend> Loader<'a, B> {
    /// Reads a tensor now.
    pub(super) async fn take(&self, name: &str, shape: &[usize]) -> Result<HostTensor> {
        let tensor = self.tensors.take(name, shape).await?;
        (self.on_read)(self.tensors.stored_bytes(name).unwrap_or(tensor.bytes().len() as u64))?;
        Ok(tensor)
    }

    /// Reads several tensors at once, in the order of `wanted`.
    pub(super) async fn take_all<const N: usize>(&self, wanted: [(&str, &[usize]); N]) -> Result<[HostTensor; N]> {
        let tensors = try_join_all(wanted.map(|(name, shape)| self.take(name, shape))).await?;
        Ok(tensors.try_into().expect("as many results as questions"))
    }

    /// A tensor that is read during its upload.
    pub(super) async fn weight(&self, name: &str, shape: &[usize]) -> Result<Weight<'a>> {
        self.computed_weight(name, shape, Compute::Native).await
    }

    /// As [`Loader::weight`], the matrices that an op reads at once.
    pub(super) async fn stacked(&self, stacked: &Stacked) -> Result<Vec<Weight<'a>>> {
        let mut weights = Vec::with_capacity(stacked.of.len());
        for (name, shape) in &stacked.of {
            weights.push(self.computed_weight(name, shape, stacked.compute).await?);
        }
        Ok(weights)
    }

    async fn computed_weight(&self, name: &str, shape: &[usize], compute: Compute) -> Result<Weight<'a>> {
        let is_mapped = || is_mapped(self.b, self.tensors, name, shape, compute);
        let source = self.streamed.map(|source| if is_mapped() { source } else { StreamSource::Memory });
        if compute == Compute::Fp8 {
            return Ok(self.tensors.fp8_operand(name, shape, self.on_read).await?.streamed(source));
        }
        let weight = self.tensors.weight(name, shape, self.on_read).await?.streamed(source);
        let on_device = self.b.weights(weight.dtype());
        Ok(if on_device == DType::Bf16 { weight.in_bf16() } else { weight })
    }

    /// As [`Loader::weight`], for a weight whose infinite values `network` would hide.
    pub(super) async fn finite_weight(&self, network: &'static str, name: &str, shape: &[usize]) -> Result<Weight<'a>> {
        let (tensors, tensor) = (self.tensors, name.to_owned());
        let error = move || {
            let listed = tensors.iter().find(|listing| listing.name == tensor).map(|listing| listing.file);
            let path = listed.or(tensors.files().next()).unwrap_or(Path::new("")).to_owned();
            Error::NonFinite { network, path, tensor: Some(tensor.clone()) }
        };
        Ok(self.weight(name, shape).await?.finite(error))
    }

    /// A vector of `len` elements.
    pub(super) async fn vector(&self, name: &str, len: usize) -> Result<B::Tensor> {
        self.b.upload(&self.take(name, &[len]).await?)
    }

    /// The linear layer `name`, with its bias.
    pub(super) async fn linear(&self, name: &str, n: usize, k: usize) -> Result<B::Linear> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let bias = self.take(&bias, &[n]).await?;
        self.b.upload_linear(&[self.weight(&weight, &[n, k]).await?], &[bias]).await
    }
}
