//! Tensors in the host's memory and the types of their elements: the vocabulary that weights and
//! backends share.

mod dtype;
mod host;
mod weight;

pub use dtype::DType;
pub(crate) use dtype::{widen, words};
pub use host::HostTensor;
pub(crate) use weight::ReadAt;
pub use weight::Weight;
