//! Transforms of a model's weights: name → tensor → tensor, applied as each weight is read.

use crate::tensor::HostTensor;
use std::fmt;

/// A change of some of a model's weights: see
/// [`ModelFolder::with_transform`](super::ModelFolder::with_transform). A changed weight is read
/// whole, from a remote file as well.
pub trait Transform: fmt::Debug + Send + Sync {
    /// True for the weights that it changes.
    fn changes(&self, name: &str) -> bool;

    /// The weight `name` in place of `tensor`: of the same shape, in any floating type.
    fn apply(&self, name: &str, tensor: HostTensor) -> HostTensor;
}
