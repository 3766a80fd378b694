//! The tensors of a file as its header lists them, whatever the file's format.

use crate::tensor::{DType, Format};
use safetensors::Dtype;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// The type of a tensor's elements in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// A storage format that this crate reads.
    Format(Format),
    /// A type of safetensors that is no format of a weight, such as I64.
    Other(Dtype),
    /// A type of ggml that this crate does not read, by its number in GGUF files.
    Ggml(u32),
}

impl StoredType {
    /// The format of a weight, if this crate reads it.
    pub fn format(self) -> Option<Format> {
        match self {
            StoredType::Format(format) => Some(format),
            StoredType::Other(_) | StoredType::Ggml(_) => None,
        }
    }
}

impl From<Dtype> for StoredType {
    /// I8 and U8 are formats of weights only with scales beside them.
    fn from(dtype: Dtype) -> Self {
        StoredType::Format(match dtype {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::Bf16,
            Dtype::F8_E4M3 => Format::F8E4m3,
            Dtype::F8_E5M2 => Format::F8E5m2,
            other => return StoredType::Other(other),
        })
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredType::Format(format) => format.fmt(f),
            StoredType::Other(dtype) => dtype.fmt(f),
            StoredType::Ggml(id) => match Format::ggml_name(*id) {
                Some(name) => f.write_str(name),
                None => write!(f, "ggml type {id}"),
            },
        }
    }
}

/// One tensor of a file.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) dtype: StoredType,
    /// Sizes, outermost first.
    pub(super) shape: Vec<usize>,
    /// Its offsets in the file.
    pub(super) range: Range<u64>,
}

/// The header of a file.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) tensors: BTreeMap<String, Stored>,
    /// Texts of a safetensors file, or the scalar values of a GGUF file.
    pub(super) metadata: Map<String, Value>,
}
/// The form of a tensor on its way to a device.
#[derive(Debug, Clone, Copy)]
pub struct OnTheWay {
    /// The format of the elements, or of the codes that have scales beside them; `None` for types
    /// that no weight has.
    pub format: Option<Format>,
    /// The type of the elements in memory, if [`Tensors::take`](super::Tensors::take) reads the
    /// stored type.
    pub in_memory: Option<DType>,
    /// Its bytes in the file.
    pub bytes: u64,
    /// True if its pieces, unless a backend has them dequantised, are the bytes of a file that is
    /// mapped or in memory.
    pub is_mapped: bool,
}
