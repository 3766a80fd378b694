//! A model's files as named tensors.
//!
//! [`ModelFolder`] knows where the bytes come from (a folder on disk, the binary itself, or
//! [`RemoteFiles`]), [`Tensors`] knows their names, shapes and types. Nothing here knows a device.
//! Every file counts as hostile until it is checked: a wrong one is an error that names the file,
//! the tensor, what was expected and what was found.

mod convert;
mod embedded;
mod file;
mod finite;
mod folder;
mod header;
mod index;
mod names;
mod open;
mod random;
mod remote;
mod sigbus;
mod tensors;
mod transform;

pub use crate::future::BoxFuture;
pub(crate) use folder::LONGEST_CONFIG;
pub use folder::ModelFolder;
pub use random::RandomTensors;
pub use remote::RemoteFiles;
/// The element types that a safetensors file can name. [`Tensors::take`] reads only floating ones
/// of 8 to 64 bits.
pub use safetensors::Dtype as StoredType;
pub use sigbus::explain_sigbus;
pub use tensors::{Listing, OnRead, Tensors};
pub use transform::Transform;
