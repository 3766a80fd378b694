//! The tensors of a LoRA file, read and checked, and grouped by module.

use super::super::file::ModelFile;
use super::super::identify::Kind;
use super::super::safetensors::read_header;
use super::super::single::kind;
use super::super::stored::StoredType;
use super::keys::{self, Role};
use crate::error::{Error, Result, excerpt};
use crate::tensor::{DType, HostTensor, Storage};
use ::safetensors::Dtype;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

/// Bytes that are hashed at once.
const PIECE: u64 = 8 << 20;

/// A tensor with its name in the file.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) name: String,
    pub(super) tensor: HostTensor,
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", excerpt(&self.name), self.tensor.shape())
    }
}

/// The tensors of one module.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) tensors: BTreeMap<Role, Stored>,
    /// Tensors of a role that another tensor has.
    pub(super) doubles: Vec<Stored>,
}

/// The contents of a file.
#[derive(Debug)]
pub(super) struct Contents {
    /// The groups by the module's name in the file.
    pub(super) groups: BTreeMap<String, Group>,
    /// Tensors that belong to no group, with the reason.
    pub(super) stray: Vec<(String, String)>,
    /// The number of all tensors.
    pub(super) tensors: usize,
    pub(super) kind: Kind,
}

/// Reads every tensor. Those of a mapped file share its memory.
pub(super) async fn read(file: &ModelFile) -> Result<Contents> {
    let header = read_header(file).await?;
    let kind = kind(&header);
    if !matches!(kind, Kind::Lora(_) | Kind::Piece(_) | Kind::Unknown) {
        return Err(Error::file(&file.path, format!("expected a LoRA, but {}", kind.refuse())));
    }
    let mut contents = Contents { groups: BTreeMap::new(), stray: Vec::new(), tensors: 0, kind };
    for (name, stored) in header.tensors {
        contents.tensors += 1;
        let Some((module, role)) = keys::split(&name) else {
            let reason = keys::reason(&name);
            contents.stray.push((name, reason));
            continue;
        };
        let bytes = file.read(stored.range).await?;
        let (dtype, shape) = (stored.dtype, stored.shape);
        let Some(tensor) = floating(dtype, &shape, bytes) else {
            let reason = format!("expected floating elements, found {dtype} {shape:?}");
            contents.stray.push((name, reason));
            continue;
        };
        let stored = Stored { name, tensor };
        let group = contents.groups.entry(module).or_default();
        match group.tensors.entry(role) {
            Entry::Vacant(vacant) => {
                vacant.insert(stored);
            }
            Entry::Occupied(_) => group.doubles.push(stored),
        }
    }
    if contents.groups.is_empty() {
        let problem = format!("expected a LoRA, found {} tensors with none of its names", contents.tensors);
        return Err(Error::file(&file.path, problem));
    }
    Ok(contents)
}

/// A floating tensor; a single integer, as some trainers store alpha, becomes an F32.
fn floating(dtype: StoredType, shape: &[usize], bytes: Bytes) -> Option<HostTensor> {
    if let Some(format) = dtype.format() {
        let storage = Storage::Plain(format);
        let elements = shape.iter().product();
        let bytes = storage.decode(0, elements, bytes, storage.dtype(), None).ok()?;
        return HostTensor::new(storage.dtype(), shape, bytes);
    }
    let value = match (dtype, &*bytes) {
        (StoredType::Other(Dtype::I64), &[a, b, c, d, e, f, g, h]) => {
            i64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32
        }
        (StoredType::Other(Dtype::I32), &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]) as f32,
        _ => return None,
    };
    HostTensor::new(DType::F32, shape, Bytes::copy_from_slice(&value.to_le_bytes()))
}

/// The SHA-256 of the whole file.
pub(super) async fn sha256(file: &ModelFile) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut start = 0;
    while start < file.len {
        let end = file.len.min(start + PIECE);
        hash.update(&file.read(start..end).await?);
        start = end;
    }
    Ok(hash.finalize().into())
}
