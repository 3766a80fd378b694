//! A model's files as named tensors.
//!
//! [`ModelFolder`] reads bytes from a source (a folder on disk, the binary itself, or
//! [`RemoteFiles`]), and [`Tensors`] has their names, shapes and types. [`Sources`] and
//! [`ModelFolder::from_files`] put a model together from single files and folders. Nothing here
//! depends on a device. Every file is untrusted until it is checked: an error names the file, the
//! tensor, the expected and the found value.

mod assembly;
mod beside;
mod derive;
mod embedded;
mod file;
mod files;
mod finite;
mod folder;
mod gguf;
#[cfg(all(feature = "hub", not(target_family = "wasm")))]
pub mod hub;
mod identify;
mod index;
mod inspect;
mod lora;
mod names;
mod open;
mod padding;
mod quantize;
mod random;
mod read;
mod remote;
mod safetensors;
mod sigbus;
mod single;
mod sources;
mod stored;
mod tensors;
mod transform;
mod weight_format;

pub use crate::future::BoxFuture;
pub use derive::{Shapes, given_config, text_encoder_config, transformer_config, vae_config};
pub(crate) use folder::LONGEST_CONFIG;
pub use folder::ModelFolder;
pub use gguf::{Gguf, GgufArray, GgufTensor, GgufTokenizer, GgufValue};
pub use identify::{ControlNet, Kind, Listed, LoraFor, identify};
pub use inspect::{Amount, Container, FileInfo, PartInfo, inspect, is_part_folder};
pub use lora::{BoundLora, Lora, LoraInfo, LoraStack, Report, Targets, Unused};
pub use names::{Part, Rows, Spelling, Target};
pub use quantize::{GgufExport, OnWritten, Quantization};
pub use random::{RANDOM_FORMATS, RandomTensors};
pub use remote::RemoteFiles;
pub use sigbus::explain_sigbus;
pub use sources::Sources;
pub use stored::{OnTheWay, StoredType};
pub use tensors::{Listing, OnRead, Tensors};
pub use transform::Transform;
pub use weight_format::WeightFormat;
