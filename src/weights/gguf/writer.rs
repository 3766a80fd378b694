//! The header of a GGUF file that is written.

use super::metadata::{GgufArray, GgufValue, ValueType};
use super::{ALIGNMENT, Gguf, MAGIC, VERSIONS};
use crate::error::Result;
use crate::tensor::Format;
use bytes::Bytes;

/// A metadata value to write.
#[derive(Debug, Clone)]
pub(in crate::weights) enum Value {
    U32(u32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    /// Encoded items, and their number.
    Array(ValueType, u64, Bytes),
}

impl Value {
    /// An array of texts.
    pub(in crate::weights) fn texts<'t>(items: impl ExactSizeIterator<Item = &'t str>) -> Self {
        let (len, mut bytes) = (items.len() as u64, Vec::new());
        items.for_each(|item| text(&mut bytes, item));
        Self::Array(ValueType::Text, len, bytes.into())
    }

    /// An array of I32.
    pub(in crate::weights) fn numbers(items: &[i32]) -> Self {
        let bytes: Vec<u8> = items.iter().flat_map(|item| item.to_le_bytes()).collect();
        Self::Array(ValueType::I32, items.len() as u64, bytes.into())
    }

    /// The value of another file. `None` for a text that was not kept.
    ///
    /// # Errors
    /// Read errors of an array.
    pub(in crate::weights) async fn of(gguf: &Gguf, value: &GgufValue) -> Result<Option<Self>> {
        Ok(Some(match value {
            GgufValue::Unsigned(value) => u32::try_from(*value).map_or(Self::U64(*value), Self::U32),
            GgufValue::Signed(value) => Self::I64(*value),
            GgufValue::Float(value) => Self::F64(*value),
            GgufValue::Bool(value) => Self::Bool(*value),
            GgufValue::Text(value) => Self::Text(value.clone()),
            GgufValue::SkippedText(_) => return Ok(None),
            GgufValue::Array(GgufArray { kind, len, range }) => {
                Self::Array(*kind, *len, gguf.file.read(range.clone()).await?)
            }
        }))
    }

    fn write(&self, out: &mut Vec<u8>) {
        let kind = match self {
            Self::U32(_) => ValueType::U32,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F32(_) => ValueType::F32,
            Self::F64(_) => ValueType::F64,
            Self::Bool(_) => ValueType::Bool,
            Self::Text(_) => ValueType::Text,
            Self::Array(..) => ValueType::Array,
        };
        out.extend((kind as u32).to_le_bytes());
        match self {
            Self::U32(value) => out.extend(value.to_le_bytes()),
            Self::U64(value) => out.extend(value.to_le_bytes()),
            Self::I64(value) => out.extend(value.to_le_bytes()),
            Self::F32(value) => out.extend(value.to_le_bytes()),
            Self::F64(value) => out.extend(value.to_le_bytes()),
            Self::Bool(value) => out.push(u8::from(*value)),
            Self::Text(value) => text(out, value),
            Self::Array(kind, len, bytes) => {
                out.extend((*kind as u32).to_le_bytes());
                out.extend(len.to_le_bytes());
                out.extend_from_slice(bytes);
            }
        }
    }
}

/// A tensor to write.
#[derive(Debug, Clone)]
pub(in crate::weights) struct Entry {
    pub(in crate::weights) name: String,
    /// Sizes, outermost first: at most four.
    pub(in crate::weights) shape: Vec<usize>,
    /// A format of GGUF files, with whole blocks in the last size.
    pub(in crate::weights) format: Format,
    /// Bytes of the data.
    pub(in crate::weights) bytes: u64,
}

/// The bytes of zeros between the data of a tensor of `bytes` bytes and the next one.
pub(in crate::weights) fn padding(bytes: u64) -> usize {
    (bytes.next_multiple_of(ALIGNMENT) - bytes) as usize
}

/// The header of a file with these metadata and tensors, up to the data of the first tensor, and
/// the length of the file. The data of each tensor is followed by its [`padding`].
pub(in crate::weights) fn header(keys: &[(String, Value)], entries: &[Entry]) -> (Vec<u8>, u64) {
    let mut out = MAGIC.to_vec();
    out.extend(VERSIONS[1].to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        text(&mut out, key);
        value.write(&mut out);
    }
    let mut offset = 0u64;
    for Entry { name, shape, format, bytes } in entries {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|size| out.extend((*size as u64).to_le_bytes()));
        out.extend(format.ggml_type().expect("a format of GGUF files").to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += bytes + padding(*bytes) as u64;
    }
    out.resize(out.len() + padding(out.len() as u64), 0);
    let len = out.len() as u64 + offset;
    (out, len)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}
