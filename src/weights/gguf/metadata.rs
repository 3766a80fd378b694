//! The metadata of a GGUF file: keys with typed values.
//!
//! Scalars and short texts are kept. The contents of an array are skipped: its place in the file is
//! kept, so that the few arrays that are needed can be read later.

use super::cursor::Cursor;
use crate::error::Result;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// The longest text that is kept, in bytes. Qwen3's chat template has 4,116.
const LONGEST_TEXT: u64 = 1 << 16;
/// The longest key in bytes. The specification's own limit is 65,535; keys are short identifiers,
/// perhaps with the name of a tensor in them.
const LONGEST_KEY: u64 = 1024;
/// The most keys of a file. Published files have fewer than 60, and one more for each tensor of
/// another shape.
const MOST_KEYS: u64 = 1 << 14;
/// The most arrays inside one another. ggml reads one level only.
const DEEPEST: usize = 4;

/// The start of the keys that hold a tensor's own shape, where ggml's four dimensions or whole rows
/// of blocks cannot express it.
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";
/// The most dimensions of such a shape.
const MOST_DIMENSIONS: u64 = 16;

/// The type of a value, in the order of its ids (`enum gguf_type` of ggml's `gguf.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::weights) enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    async fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        let id = cursor.u32().await?;
        let known = usize::try_from(id).ok().and_then(|id| Self::ALL.get(id)).copied();
        known.ok_or_else(|| cursor.fault(format!("expected a value type from 0 to 12, found {id}")))
    }

    /// Bytes of a value, where every value has as many.
    fn size(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::Array => None,
        }
    }

    /// The fewest bytes of a value: the length of an empty text; the type and length of an empty
    /// array.
    fn least(self) -> u64 {
        self.size().unwrap_or(if self == Self::Text { 8 } else { 12 })
    }
}

/// A value of a GGUF file's metadata.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum GgufValue {
    /// An unsigned integer of 8 to 64 bits.
    Unsigned(u64),
    /// A signed integer of 8 to 64 bits.
    Signed(i64),
    /// A float of 32 or 64 bits.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(String),
    /// A text that was not kept, because it is too long or not in UTF-8, with its length in bytes.
    SkippedText(u64),
    /// An array, which is left in the file.
    Array(GgufArray),
}

/// An array of a GGUF file's metadata: its length, and its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufArray {
    pub(super) kind: ValueType,
    pub(super) len: u64,
    /// The offsets of the first item and of the end of the last one.
    pub(super) range: Range<u64>,
}

impl GgufArray {
    /// The number of items.
    pub fn items(&self) -> u64 {
        self.len
    }
}

impl fmt::Display for GgufValue {
    /// The value itself, or a description of one that was not kept.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(value) => write!(f, "{value}"),
            Self::Signed(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
            Self::SkippedText(bytes) => write!(f, "a text of {bytes} bytes that is too long or not in UTF-8"),
            Self::Array(array) => write!(f, "an array of {} items", array.len),
        }
    }
}

/// The metadata of a file.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    /// All values but those in `shapes`.
    pub(super) values: BTreeMap<String, GgufValue>,
    /// The own shapes of tensors, outermost first, by the tensor's name.
    pub(super) shapes: BTreeMap<String, Vec<usize>>,
}

/// The number of keys, which precedes the metadata's place in the file.
pub(super) async fn read_count(cursor: &mut Cursor<'_>) -> Result<u64> {
    // The shortest entry has a key of one byte and a value of one byte.
    cursor.count("metadata keys", 8 + 1 + 4 + 1, MOST_KEYS).await
}

/// Reads `count` keys and their values.
///
/// # Errors
/// [`Error::File`](crate::Error::File) that names the key; read errors.
pub(super) async fn read(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    for i in 0..count {
        cursor.begin("metadata key", &format!("number {}", i + 1));
        let key = cursor.name("a key", LONGEST_KEY).await?;
        cursor.begin("metadata key", &key);
        let kind = ValueType::read(cursor).await?;
        let tensor = key.strip_prefix(ORIGINAL_SHAPE);
        if metadata.values.contains_key(&key) || tensor.is_some_and(|name| metadata.shapes.contains_key(name)) {
            return Err(cursor.fault("the key occurs twice"));
        }
        match tensor {
            Some(name) => {
                let shape = shape(cursor, kind).await?;
                metadata.shapes.insert(name.to_owned(), shape);
            }
            None => {
                let value = value(cursor, kind).await?;
                metadata.values.insert(key, value);
            }
        }
    }
    Ok(metadata)
}

async fn value(cursor: &mut Cursor<'_>, kind: ValueType) -> Result<GgufValue> {
    use GgufValue::{Bool, Float, Signed, SkippedText, Text, Unsigned};
    Ok(match kind {
        ValueType::U8 => Unsigned(u8::from_le_bytes(cursor.array().await?).into()),
        ValueType::U16 => Unsigned(u16::from_le_bytes(cursor.array().await?).into()),
        ValueType::U32 => Unsigned(cursor.u32().await?.into()),
        ValueType::U64 => Unsigned(cursor.u64().await?),
        ValueType::I8 => Signed(i8::from_le_bytes(cursor.array().await?).into()),
        ValueType::I16 => Signed(i16::from_le_bytes(cursor.array().await?).into()),
        ValueType::I32 => Signed(i32::from_le_bytes(cursor.array().await?).into()),
        ValueType::I64 => Signed(i64::from_le_bytes(cursor.array().await?)),
        ValueType::F32 => Float(f32::from_le_bytes(cursor.array().await?).into()),
        ValueType::F64 => Float(f64::from_le_bytes(cursor.array().await?)),
        ValueType::Bool => match cursor.array().await? {
            [byte @ 0..=1] => Bool(byte == 1),
            [byte] => return Err(cursor.fault(format!("expected 0 or 1 for a bool, found {byte}"))),
        },
        ValueType::Text => match cursor.u64().await? {
            len @ 0..=LONGEST_TEXT => match str::from_utf8(&cursor.bytes(len).await?) {
                Ok(text) => Text(text.to_owned()),
                Err(_) => SkippedText(len),
            },
            len => {
                cursor.skip(len)?;
                SkippedText(len)
            }
        },
        ValueType::Array => GgufValue::Array(array(cursor).await?),
    })
}

/// The type and the length of an array. The file has room for its items.
async fn array_start(cursor: &mut Cursor<'_>) -> Result<(ValueType, u64)> {
    let kind = ValueType::read(cursor).await?;
    Ok((kind, cursor.count("items", kind.least(), u64::MAX).await?))
}

/// Skips an array.
async fn array(cursor: &mut Cursor<'_>) -> Result<GgufArray> {
    let (kind, len) = array_start(cursor).await?;
    let start = cursor.position();
    // The arrays that are being skipped, each with the number of its items that are left.
    let mut open = vec![(kind, len)];
    while let Some((kind, left)) = open.pop() {
        if let Some(size) = kind.size() {
            // `Cursor::count` has checked that the file has these bytes.
            cursor.skip(left * size)?;
        } else if kind == ValueType::Text {
            for _ in 0..left {
                let len = cursor.u64().await?;
                cursor.skip(len)?;
            }
        } else if left > 0 {
            open.push((kind, left - 1));
            if open.len() == DEEPEST {
                return Err(cursor.fault(format!("expected at most {DEEPEST} arrays inside one another, found more")));
            }
            open.push(array_start(cursor).await?);
        }
    }
    Ok(GgufArray { kind, len, range: start..cursor.position() })
}

/// A tensor's own shape, outermost first: an array of I32.
async fn shape(cursor: &mut Cursor<'_>, kind: ValueType) -> Result<Vec<usize>> {
    let wrong = |cursor: &Cursor<'_>| cursor.fault(format!("expected an array of at most {MOST_DIMENSIONS} I32"));
    if kind != ValueType::Array {
        return Err(wrong(cursor));
    }
    let (ValueType::I32, len @ 0..=MOST_DIMENSIONS) = array_start(cursor).await? else { return Err(wrong(cursor)) };
    let mut shape = Vec::new();
    for _ in 0..len {
        let size = i32::from_le_bytes(cursor.array().await?);
        shape.push(usize::try_from(size).map_err(|_| cursor.fault(format!("expected sizes, found {size}")))?);
    }
    Ok(shape)
}
