//! The entries of a GGUF file's tensors, and their checks.

use super::cursor::Cursor;
use super::metadata::Metadata;
use crate::error::Result;
use crate::tensor::Format;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

/// The longest name in bytes. ggml's own limit is 64, and 128 in stable-diffusion.cpp.
const LONGEST_NAME: u64 = 1024;
/// The most tensors of a file. The published transformers and text encoders have fewer than 500.
const MOST_TENSORS: u64 = 1 << 14;
/// The most dimensions of a tensor (`GGML_MAX_DIMS`).
const MOST_DIMENSIONS: u32 = 4;

/// A tensor of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// The id of its type (`enum ggml_type` of ggml's `ggml.h`).
    pub ggml_type: u32,
    /// Sizes, outermost first: the reverse of ggml's order, or the shape that the metadata gives
    /// under `comfy.gguf.orig_shape`. With the latter, a block may cross the end of a row.
    pub shape: Vec<usize>,
    /// The offsets of its data in the file. They enclose exactly the elements of the shape; for a
    /// type without a [`Format`], whose size is unknown, they end at the next tensor.
    pub range: Range<u64>,
}

impl GgufTensor {
    /// The storage format; `None` for a type that this crate does not read.
    pub fn format(&self) -> Option<Format> {
        Format::from_ggml(self.ggml_type)
    }

    /// The type's name, for messages.
    pub fn type_name(&self) -> Cow<'static, str> {
        match Format::ggml_name(self.ggml_type) {
            Some(name) => name.into(),
            None => format!("the unknown type {}", self.ggml_type).into(),
        }
    }
}

/// A tensor's entry.
struct Entry {
    ggml_type: u32,
    /// Sizes in ggml's order, innermost first.
    sizes: Vec<u64>,
    /// The offset from the start of the data.
    offset: u64,
}

/// The number of tensors, which precedes the metadata.
pub(super) async fn read_count(cursor: &mut Cursor<'_>) -> Result<u64> {
    // A name of one byte, no dimension, a type, and an offset.
    cursor.count("tensors", 8 + 1 + 4 + 4 + 8, MOST_TENSORS).await
}

/// Reads `count` entries and checks them. Afterwards every range is inside the file and has exactly
/// the bytes of its shape, and no two ranges overlap.
///
/// # Errors
/// [`Error::File`](crate::Error::File) and [`Error::Tensor`](crate::Error::Tensor) that name the
/// tensor; read errors.
pub(super) async fn read(
    cursor: &mut Cursor<'_>,
    count: u64,
    metadata: &Metadata,
    alignment: u64,
) -> Result<BTreeMap<String, GgufTensor>> {
    let mut entries = BTreeMap::new();
    for i in 0..count {
        cursor.begin("tensor", &format!("number {}", i + 1));
        let name = cursor.name("a name", LONGEST_NAME).await?;
        cursor.begin("tensor", &name);
        if entries.contains_key(&name) {
            return Err(cursor.fault("the name occurs twice"));
        }
        let entry = entry(cursor).await?;
        entries.insert(name, entry);
    }
    if entries.is_empty() {
        return Ok(BTreeMap::new());
    }
    let data = cursor.position().next_multiple_of(alignment);
    let ranges = ranges(cursor, &entries, data, alignment)?;
    let mut tensors = BTreeMap::new();
    for ((name, entry), range) in entries.into_iter().zip(ranges) {
        let shape = shape(cursor, &name, &entry, metadata)?;
        tensors.insert(name, GgufTensor { ggml_type: entry.ggml_type, shape, range });
    }
    Ok(tensors)
}

async fn entry(cursor: &mut Cursor<'_>) -> Result<Entry> {
    let dimensions = cursor.u32().await?;
    if dimensions > MOST_DIMENSIONS {
        return Err(cursor.fault(format!("expected at most {MOST_DIMENSIONS} dimensions, found {dimensions}")));
    }
    let mut sizes = Vec::new();
    for _ in 0..dimensions {
        sizes.push(cursor.u64().await?);
    }
    Ok(Entry { ggml_type: cursor.u32().await?, sizes, offset: cursor.u64().await? })
}

/// The range of each entry's data in the file, in the entries' order. The data starts at byte
/// `data`.
fn ranges(
    cursor: &Cursor<'_>,
    entries: &BTreeMap<String, Entry>,
    data: u64,
    alignment: u64,
) -> Result<Vec<Range<u64>>> {
    let mut ranges = vec![0..0; entries.len()];
    let mut order: Vec<_> = entries.iter().zip(&mut ranges).collect();
    order.sort_by_key(|((_, entry), _)| entry.offset);
    let nexts: Vec<u64> = order.iter().skip(1).map(|((_, entry), _)| entry.offset).collect();
    let mut last = data;
    for (i, ((name, entry), range)) in order.into_iter().enumerate() {
        let fault = |expected: String, found: String| Err(cursor.tensor_fault(name, expected, found));
        if !entry.offset.is_multiple_of(alignment) {
            let expected = format!("an offset that is a multiple of {alignment}, the file's alignment");
            return fault(expected, format!("the offset {}", entry.offset));
        }
        let past_end = |end: String| {
            let found = format!("a file of {} bytes: it is truncated; download it again", cursor.file_len());
            fault(format!("data up to byte {end}"), found)
        };
        let Some(start) = data.checked_add(entry.offset) else { return past_end("2^64".into()) };
        let end = match Format::from_ggml(entry.ggml_type) {
            Some(format) => match bytes_of(entry, format) {
                Ok(bytes) => start.checked_add(bytes),
                Err((expected, found)) => return fault(expected, found),
            },
            None => nexts.get(i).map_or(Some(cursor.file_len()), |next| data.checked_add(*next)),
        };
        match end {
            Some(end) if start.max(end) <= cursor.file_len() => *range = start..end.max(start),
            Some(end) => return past_end(end.max(start).to_string()),
            None => return past_end("2^64".into()),
        }
        if range.start < last {
            return fault(format!("data from byte {last} on"), format!("data from byte {start} on, in another tensor"));
        }
        last = range.end;
    }
    Ok(ranges)
}

/// The bytes of an entry; otherwise the expected and the found shape.
fn bytes_of(entry: &Entry, format: Format) -> std::result::Result<u64, (String, String)> {
    let (block, sizes) = (format.block(), &entry.sizes);
    let row = sizes.first().copied().unwrap_or(1);
    if !row.is_multiple_of(block.elements as u64) {
        return Err((
            format!("rows of whole {format} blocks of {} elements", block.elements),
            format!("rows of {row}"),
        ));
    }
    let bytes =
        product(sizes.iter().copied()).and_then(|n| (n / block.elements as u64).checked_mul(block.bytes as u64));
    bytes.ok_or_else(|| ("a shape that fits in memory".into(), format!("{format} {}", reversed(sizes))))
}

/// The number of elements.
fn product(mut sizes: impl Iterator<Item = u64>) -> Option<u64> {
    sizes.try_fold(1, u64::checked_mul)
}

/// Sizes outermost first, for messages.
fn reversed(sizes: &[u64]) -> String {
    format!("{:?}", sizes.iter().rev().collect::<Vec<_>>())
}

/// The shape of a tensor, outermost first.
fn shape(cursor: &Cursor<'_>, name: &str, entry: &Entry, metadata: &Metadata) -> Result<Vec<usize>> {
    let sizes = &entry.sizes;
    let fault = |expected: String, found: String| cursor.tensor_fault(name, expected, found);
    let Some(own) = metadata.shapes.get(name) else {
        let shape: Option<Vec<usize>> = sizes.iter().rev().map(|&size| size.try_into().ok()).collect();
        return shape.ok_or_else(|| fault("a shape that fits in memory".into(), reversed(sizes)));
    };
    if product(own.iter().map(|&size| size as u64)) != product(sizes.iter().copied()) {
        let expected = format!("the elements of its shape {} in the file", reversed(sizes));
        return Err(fault(expected, format!("{own:?} in comfy.gguf.orig_shape")));
    }
    Ok(own.clone())
}
