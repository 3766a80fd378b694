//! The header of a safetensors file, parsed as untrusted input.
//!
//! A file is 8 bytes with the header's length, the header in JSON, then the data that the header's
//! offsets refer to. The crate `safetensors` defines the types of elements. Everything else is
//! here, because the crate's own checks do not name the tensor, accept duplicate names, and count
//! in `usize`, which in a browser is too small for a file of more than 4 GB.

use super::file::ModelFile;
use super::stored::{Header, Stored};
use crate::error::{Error, Result, excerpt};
use bytes::Bytes;
use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The format's own limit. A header causes allocations of a small multiple of its length, and must
/// be in the file completely.
const LONGEST_HEADER: u64 = 100_000_000;

/// Maximum dimensions of a tensor. A longer shape would only waste memory.
const MOST_DIMENSIONS: usize = 16;

/// Maximum tensors of a file: a shard of the published models has less than 1000.
const MOST_TENSORS: usize = 1 << 17;

/// Maximum entries of the metadata that are kept, and bytes of their texts: a LoRA's training data
/// may be longer, and nothing reads it.
const MOST_METADATA: usize = 1 << 10;
const LONGEST_METADATA: usize = 4 << 20;

/// One tensor of a file, as in the header.
#[derive(Debug, Deserialize)]
struct TensorInfo {
    dtype: Dtype,
    #[serde(deserialize_with = "shape")]
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// Reads and checks the header of `file`. Afterwards every range is inside the file and has exactly
/// its shape's elements, and no two ranges overlap.
pub(super) async fn read_header(file: &ModelFile) -> Result<Header> {
    let path = &file.path;
    let json = header(file).await?;
    let data_start = 8 + json.len() as u64;
    let Entries { tensors, metadata } = serde_json::from_slice(&json).map_err(|e| {
        Error::file(path, format!("broken safetensors header: {}; download the file again", excerpt(&e.to_string())))
    })?;
    check(path, &tensors, file.len - data_start)?;
    let stored = |info: TensorInfo| Stored {
        dtype: info.dtype.into(),
        range: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
        shape: info.shape,
    };
    let tensors = tensors.into_iter().map(|(name, info)| (name, stored(info))).collect();
    Ok(Header { tensors, metadata })
}

/// The header's JSON. The data starts at offset `8 + len`.
async fn header(file: &ModelFile) -> Result<Bytes> {
    const HINT: &str = "it is truncated or of another format; download it again";
    let start = file.read(0..file.len.min(LONGEST_MARK)).await?;
    let length = start.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
    let other = length.and(other_format(&start));
    let says_gguf = file.path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    let found = match length {
        Some(length) if length <= LONGEST_HEADER && 8 + length <= file.len => {
            if start.get(8) == Some(&b'{') || other.is_none() && !says_gguf {
                return file.read(8..8 + length).await;
            }
            String::new()
        }
        Some(length) if length > LONGEST_HEADER => {
            format!("a header of {length} bytes where at most {LONGEST_HEADER} are allowed")
        }
        Some(length) => format!("a header of {length} bytes in a file of {}", file.len),
        None => format!("a file of {} bytes", file.len),
    };
    let expected = if says_gguf { "a GGUF file, as the name says" } else { "a safetensors file" };
    let found = match other {
        Some(other) => other.to_owned(),
        None if says_gguf => {
            let mark = String::from_utf8_lossy(&start[..start.len().min(4)]);
            format!("a file of {} bytes that begins with {mark:?} instead of \"GGUF\": {HINT}", file.len)
        }
        None => format!("{found}: {HINT}"),
    };
    Err(Error::file(&file.path, format!("expected {expected}, found {found}")))
}

/// Bytes that suffice to recognise a format.
const LONGEST_MARK: u64 = 64;

/// The format that the file's first bytes match, with advice.
fn other_format(start: &[u8]) -> Option<&'static str> {
    let text = start.trim_ascii_start().to_ascii_lowercase();
    let begins = |marks: &[&[u8]]| marks.iter().any(|mark| text.starts_with(mark));
    if start.starts_with(b"GGUF") {
        Some("a GGUF file where only safetensors can be read")
    } else if start.starts_with(b"PK\x03\x04") || matches!(start, [0x80, 2..=5, ..]) {
        Some("a PyTorch checkpoint (pickle), which is not supported; save it as safetensors")
    } else if start.starts_with(b"\x89HDF") {
        Some("an HDF5 file, which is not supported; use the model's safetensors files")
    } else if start.starts_with(b"\x89PNG\r\n")
        || start.starts_with(b"\xff\xd8\xff")
        || start.get(8..12) == Some(b"WEBP")
    {
        Some("a picture; name a file with weights")
    } else if begins(&[b"<!doctype", b"<html", b"<?xml", b"<head"]) {
        Some("a web page, as a failed download leaves it; download the file again")
    } else if begins(&[b"{\"", b"{ \"", b"{\n"]) {
        Some("JSON, as a failed download leaves it; download the file again")
    } else if begins(&[b"version https://git-lfs"]) {
        Some("a git-lfs pointer, not the file itself; run git lfs pull")
    } else {
        None
    }
}

/// A shape of bounded length.
fn shape<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<usize>, D::Error> {
    deserializer.deserialize_seq(ShapeVisitor)
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Vec<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of sizes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sizes: A) -> std::result::Result<Vec<usize>, A::Error> {
        let mut shape = Vec::new();
        while let Some(size) = sizes.next_element()? {
            if shape.len() == MOST_DIMENSIONS {
                return Err(A::Error::custom(format!("expected at most {MOST_DIMENSIONS} dimensions, found more")));
            }
            shape.push(size);
        }
        Ok(shape)
    }
}

/// The header's entries, with unique names.
struct Entries {
    tensors: BTreeMap<String, TensorInfo>,
    metadata: Map<String, Value>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// The one header entry that is not a tensor.
const METADATA: &str = "__metadata__";

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
        let mut tensors = BTreeMap::new();
        let mut found: Option<Map<String, Value>> = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                let metadata = map.next_value::<Option<Texts>>();
                let metadata = metadata.map_err(|error| A::Error::custom(format!("{METADATA}: {error}")))?;
                if found.replace(metadata.map_or_else(Map::new, |Texts(texts)| texts)).is_some() {
                    return Err(A::Error::custom(format!("{METADATA}: the name occurs twice")));
                }
                continue;
            }
            let named = |text: &dyn fmt::Display| A::Error::custom(format!("tensor {}: {text}", excerpt(&name)));
            let info = map.next_value::<TensorInfo>().map_err(|e| named(&e))?;
            if tensors.contains_key(&name) {
                return Err(named(&"the name occurs twice"));
            }
            if tensors.len() == MOST_TENSORS {
                return Err(A::Error::custom(format!("expected at most {MOST_TENSORS} tensors, found more")));
            }
            tensors.insert(name, info);
        }
        Ok(Entries { tensors, metadata: found.unwrap_or_default() })
    }
}

/// A map of texts, the format's metadata, as far as it is not longer than any published one.
struct Texts(Map<String, Value>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(TextsVisitor)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Texts, A::Error> {
        let (mut texts, mut bytes) = (Map::new(), 0);
        while let Some((key, text)) = map.next_entry::<String, String>()? {
            bytes += key.len() + text.len();
            if bytes <= LONGEST_METADATA && texts.len() < MOST_METADATA {
                texts.insert(key, Value::String(text));
            }
        }
        Ok(Texts(texts))
    }
}

/// Checks every tensor against its shape and type, and all tensors against the `data` bytes of the
/// file.
fn check(path: &Path, entries: &BTreeMap<String, TensorInfo>, data: u64) -> Result<()> {
    let mut order: Vec<_> = entries.iter().collect();
    order.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, info) in order {
        let fault = |expected: String, found: String| {
            Err(Error::Tensor { path: path.to_owned(), tensor: excerpt(name), expected, found })
        };
        let (from, to) = info.data_offsets;
        let Some(bytes) = bytes_of(info) else {
            return fault(
                "a shape that makes whole bytes in memory".into(),
                format!("{} {:?}", info.dtype, info.shape),
            );
        };
        if to.checked_sub(from) != Some(bytes) {
            let found = format!("data_offsets [{from}, {to}]");
            return fault(format!("{bytes} bytes for {} {:?}", info.dtype, info.shape), found);
        }
        if from != end {
            let what = if from < end { "overlap the tensor before" } else { "leave a gap" };
            return fault(format!("data from byte {end} on"), format!("bytes {from} to {to}, which {what}"));
        }
        if to > data {
            let found = format!("{data} bytes of data: the file is truncated; download it again");
            return fault(format!("data up to byte {to}"), found);
        }
        end = to;
    }
    if end != data {
        let problem = format!("expected {end} bytes of data, found {data}: the file is damaged; download it again");
        return Err(Error::file(path, problem));
    }
    Ok(())
}

/// The bytes of a shape; `None` if they overflow or, for types smaller than a byte, are not whole.
fn bytes_of(info: &TensorInfo) -> Option<u64> {
    let elements = info.shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n as u64))?;
    let bits = elements.checked_mul(info.dtype.bitsize() as u64)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}
