//! A model's files as named tensors.
//!
//! [`ModelFolder`] reads bytes from a source (a folder on disk, the binary itself, or
//! [`RemoteFiles`]), and [`Tensors`] has their names, shapes and types. Nothing here depends on a
//! device. Every file is untrusted until it is checked: an error names the file, the tensor, the
//! expected and the found value.

mod convert;
mod derive;
mod embedded;
mod file;
mod finite;
mod folder;
mod gguf;
mod header;
mod identify;
mod index;
mod names;
mod open;
mod random;
mod remote;
mod sigbus;
mod tensors;
mod transform;

pub use crate::future::BoxFuture;
pub use derive::{Shapes, given_config, text_encoder_config, transformer_config, vae_config};
pub(crate) use folder::LONGEST_CONFIG;
pub use folder::ModelFolder;
pub use identify::{ControlNet, Kind, Listed, LoraFor, identify};
pub use names::{Part, Rows, Spelling, Target};
pub use gguf::{Gguf, GgufArray, GgufTensor, GgufTokenizer, GgufValue};
pub use random::RandomTensors;
pub use remote::RemoteFiles;
/// The element types of safetensors files. [`Tensors::take`] reads only floating ones of 8 to 64
/// bits.
pub use safetensors::Dtype as StoredType;
pub use sigbus::explain_sigbus;
pub use tensors::{Listing, OnRead, Tensors};
pub use transform::Transform;
