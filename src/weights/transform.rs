//! Transforms of a model's weights: name → tensor → tensor, applied as each weight is read.

use crate::error::Result;
use crate::tensor::HostTensor;
use std::fmt;

/// A change of some weights of a model; see
/// [`ModelFolder::with_transform`](super::ModelFolder::with_transform). A changed weight is read
/// whole, also from a remote file.
pub trait Transform: fmt::Debug + Send + Sync {
    /// True for the weights that this transform changes.
    fn changes(&self, name: &str) -> bool;

    /// The weight that replaces `tensor` under `name`: the same shape, any floating type.
    ///
    /// # Errors
    /// An error if the change does not fit the tensor, or if memory runs out.
    fn apply(&self, name: &str, tensor: HostTensor) -> Result<HostTensor>;
}
