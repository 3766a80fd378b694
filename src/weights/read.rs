//! The header of a file of a model, by the file's own format.

use super::file::ModelFile;
use super::gguf::{Gguf, GgufValue};
use super::safetensors;
use super::stored::{Header, Stored, StoredType};
use crate::error::Result;
use serde_json::{Map, Value};

/// The first bytes of a GGUF file.
const GGUF: &[u8; 4] = b"GGUF";

/// Reads and checks the header of a safetensors or GGUF file, by its first bytes.
///
/// # Errors
/// [`Error::File`](crate::Error::File) and [`Error::Tensor`](crate::Error::Tensor) for a file that
/// is truncated, damaged or of another format; read errors.
pub(super) async fn read_header(file: &ModelFile) -> Result<Header> {
    let magic = file.read(0..file.len.min(GGUF.len() as u64)).await?;
    match *magic == GGUF[..] {
        true => Gguf::read(file.clone()).await.map(|gguf| header(&gguf)),
        false => safetensors::read_header(file).await,
    }
}

fn header(gguf: &Gguf) -> Header {
    let value = |value: &GgufValue| match value {
        GgufValue::Text(text) => Some(Value::from(text.as_str())),
        GgufValue::Unsigned(number) => Some(Value::from(*number)),
        GgufValue::Signed(number) => Some(Value::from(*number)),
        GgufValue::Float(number) => Some(Value::from(*number)),
        GgufValue::Bool(flag) => Some(Value::from(*flag)),
        _ => None,
    };
    let metadata: Map<String, Value> =
        gguf.metadata.iter().filter_map(|(key, found)| Some((key.clone(), value(found)?))).collect();
    let tensors = gguf.tensors.iter().map(|(name, tensor)| {
        let dtype = tensor.format().map_or(StoredType::Ggml(tensor.ggml_type), StoredType::Format);
        (name.clone(), Stored { dtype, shape: tensor.shape.clone(), range: tensor.range.clone() })
    });
    Header { tensors: tensors.collect(), metadata }
}
