//! The named tensors of one part of a model, from one file or from shards. Each is read on demand:
//! shared if the file is in memory, fetched otherwise.

use super::beside::Beside;
use super::file::ModelFile;
use super::names::Rows;
use super::random::RandomTensors;
use super::stored::{OnTheWay, StoredType};
use super::transform::Transform;
use super::weight_format::WeightFormat;
use crate::error::{Error, Result, excerpt};
use crate::future::BoxFuture;
use crate::tensor::{Compute, DType, Format, HostTensor, ReadAt, Storage, Unquantizable, Weight};
use bytes::Bytes;
use safetensors::Dtype;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Bytes in memory that are dequantised or changed at once.
const DEQUANTIZED: u64 = 16 << 20;
/// The types of a weight, for messages.
pub(super) const READ: &str = "F32, F16, BF16 or a quantised format";

/// A callback with the bytes read. Its error ends the loading.
pub type OnRead<'a> = &'a dyn Fn(u64) -> Result<()>;

/// The tensors of one part, such as the transformer, by name.
#[derive(Debug)]
pub struct Tensors {
    /// The file that errors about a missing tensor name: the single file, or the index of the
    /// shards.
    pub(super) path: PathBuf,
    pub(super) files: Vec<ModelFile>,
    /// The prefix of every name in these files, for the names of missing tensors.
    pub(super) prefix: &'static str,
    /// Entries by the name under which the writing library loads a tensor.
    pub(super) entries: BTreeMap<String, Entry>,
    /// Tensors in the index that no shard contains, with their shards.
    pub(super) lost: BTreeMap<String, PathBuf>,
    pub(super) warnings: Vec<String>,
    /// The source of every tensor where there are no files.
    pub(super) random: Option<RandomTensors>,
    pub(super) transform: Option<Arc<dyn Transform>>,
    /// The storage of large matrices on the device.
    pub(super) weights: WeightFormat,
    /// The type that the operands of gemms with them should have.
    pub(super) compute: Compute,
    /// The type that queries, keys and values should have.
    pub(super) attention_in: Compute,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) file: usize,
    /// The name in that file, if it differs.
    pub(super) stored: Option<String>,
    pub(super) dtype: StoredType,
    pub(super) shape: Vec<usize>,
    /// Its offsets in the file.
    pub(super) range: Range<u64>,
    /// The scales beside a quantised weight, and its rows in the stored matrix.
    pub(super) beside: Option<(Beside, Rows)>,
    /// The shape that it was read in, if it was.
    pub(super) read: OnceLock<Vec<usize>>,
}

impl Entry {
    /// The name in the file of the tensor that is loaded as `name`.
    pub(super) fn stored<'n>(&'n self, name: &'n str) -> &'n str {
        self.stored.as_deref().unwrap_or(name)
    }

    fn is_read(&self) -> bool {
        self.read.get().is_some()
    }

    /// The format of the elements or codes; `None` for types that no weight has.
    fn format(&self) -> Option<Format> {
        match &self.beside {
            Some((beside, _)) => Some(beside.codes()),
            None => self.dtype.format(),
        }
    }

    /// The type of the elements in memory; `None` for types that no weight has.
    pub(super) fn in_memory(&self) -> Option<DType> {
        match &self.beside {
            Some(_) => Some(DType::F32),
            None => self.dtype.format().map(|format| Storage::Plain(format).dtype()),
        }
    }
}

/// The start of a tensor that is read in pieces.
struct Place<'a> {
    file: &'a ModelFile,
    start: u64,
    on_read: OnRead<'a>,
    /// The bytes that `on_read` has received, or will once they are read. A tensor that is read
    /// again for its change counts once.
    counted: Cell<u64>,
}

impl ReadAt for Place<'_> {
    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Bytes> {
        let counted = self.counted.get().max(range.start);
        self.counted.set(counted.max(range.end));
        Box::pin(async move {
            let bytes = self.file.read(self.start + range.start..self.start + range.end).await?;
            (self.on_read)(range.end.saturating_sub(counted))?;
            Ok(bytes)
        })
    }
}

/// The properties of a tensor that are known without reading it.
#[derive(Debug, Clone, Copy)]
pub struct Listing<'a> {
    /// The name that the file uses.
    pub name: &'a str,
    /// The type of the elements.
    pub dtype: StoredType,
    /// Sizes, outermost first.
    pub shape: &'a [usize],
    /// Its bytes in the file.
    pub bytes: u64,
    /// The file that contains it.
    pub file: &'a Path,
}

impl Listing<'_> {
    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Tensors {
    /// The tensor of this name, which must have this shape and floating or quantised elements. FP8
    /// without scales becomes BF16 and other quantised formats become F32; F32, F16 and BF16 share
    /// the memory of a local file. The tensor counts as read from now on.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is missing or different, with the difference; read errors.
    pub async fn take(&self, name: &str, shape: &[usize]) -> Result<HostTensor> {
        match self.take_optional(name, shape).await? {
            Some(tensor) => Ok(tensor),
            None => Err(self.missing(name, shape)),
        }
    }

    /// As [`Tensors::take`], but `None` if no tensor has this name.
    pub async fn take_optional(&self, name: &str, shape: &[usize]) -> Result<Option<HostTensor>> {
        if let Some(random) = &self.random {
            return Ok(Some(random.weight(name, shape)));
        }
        let Some(weight) = self.stored_weight(name, shape, &|_| Ok(())).await? else { return Ok(None) };
        self.changed(name, weight).await?.whole().await.map(Some)
    }

    /// As [`Tensors::take`], but a tensor that is remote or quantised is read during its upload,
    /// piece by piece. `on_read` receives the stored bytes of every piece; its error ends the
    /// reading. Other local tensors count at once. A matrix of an attention or feed-forward layer
    /// has the [`WeightFormat`] of the folder; for that in FP8 it is read once now.
    ///
    /// # Errors
    /// Errors of [`Tensors::take`] and of `on_read`.
    pub async fn weight<'a>(&'a self, name: &str, shape: &[usize], on_read: OnRead<'a>) -> Result<Weight<'a>> {
        if let Some(random) = &self.random {
            let weight = random.stored(name, shape);
            let stored = weight.storage().and_then(|storage| storage.bytes(shape[0], shape[1]));
            on_read(stored.unwrap_or(weight.rows() as u64 * weight.row_bytes() as u64))?;
            return Ok(if stored.is_some() { weight.in_pieces(DEQUANTIZED) } else { weight });
        }
        let weight = self.stored_weight(name, shape, on_read).await?.ok_or_else(|| self.missing(name, shape))?;
        let weight = self.changed(name, weight).await?;
        let tensor = name.to_owned();
        self.weights.apply(name, weight, move |reason| self.unquantizable(&tensor, reason)).await
    }

    /// As [`Tensors::weight`], a matrix as the operand of an FP8 gemm: as it is stored if that is
    /// E4M3 with a scale for a row at least, else in E4M3 with a scale for each row, for which it
    /// is read once now.
    ///
    /// # Errors
    /// As [`Tensors::weight`]; [`Error::File`] for values that are not finite.
    pub async fn fp8_operand<'a>(&'a self, name: &str, shape: &[usize], on_read: OnRead<'a>) -> Result<Weight<'a>> {
        let weight = self.weight(name, shape, on_read).await?;
        let tensor = name.to_owned();
        let rows = weight.in_fp8_rows(move |reason| self.unquantizable(&tensor, reason)).await?;
        Ok(rows.computed_in(Compute::Fp8))
    }

    /// The transform that changes the tensor of this name.
    fn transform_of(&self, name: &str) -> Option<&dyn Transform> {
        self.transform.as_deref().filter(|transform| transform.changes(name))
    }

    /// The weight, to be changed by its transform if it has one.
    async fn changed<'a>(&'a self, name: &str, weight: Weight<'a>) -> Result<Weight<'a>> {
        match self.transform_of(name) {
            Some(transform) => {
                let change = transform.open(name, &weight).await?;
                let piece = self.files[self.entries[name].file].piece().unwrap_or(DEQUANTIZED);
                Ok(weight.changed(change).in_pieces(piece))
            }
            None => Ok(weight),
        }
    }

    /// The tensor of this name as it is stored, if there is one; it counts as read.
    pub(super) async fn stored_weight<'a>(
        &'a self,
        name: &str,
        shape: &[usize],
        on_read: OnRead<'a>,
    ) -> Result<Option<Weight<'a>>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let file = &self.files[entry.file];
        let fault = |found| self.fault(file.path.clone(), entry.stored(name), shape, found);
        let found = || format!("{} {:?}", entry.dtype, entry.shape);
        let (storage, place) = match (&entry.beside, entry.dtype.format()) {
            (Some((beside, rows)), _) => beside.storage(file, entry.stored(name), shape, *rows).await?,
            (None, Some(format)) if entry.shape == shape => (Storage::Plain(format), entry.range.clone()),
            (None, Some(_)) => return Err(fault(found())),
            (None, None) => return Err(fault(format!("{}, {}", found(), unread_type(entry.dtype)))),
        };
        let shared = storage.is_plain();
        let weight = match file.piece() {
            None if shared => {
                let bytes = file.read(place).await?;
                on_read(bytes.len() as u64)?;
                HostTensor::new(storage.dtype(), shape, bytes).map(Weight::from)
            }
            piece => Weight::there(storage, shape, Place { file, start: place.start, on_read, counted: Cell::new(0) })
                .map(|weight| weight.in_pieces(piece.unwrap_or(DEQUANTIZED))),
        };
        let weight = weight.ok_or_else(|| fault(format!("{}, which are not whole blocks", found())))?;
        entry.read.get_or_init(|| shape.to_vec());
        Ok(Some(weight))
    }

    /// The whole numbers of the vector of this name, stored as U32, I32 or I64 and each in the
    /// range of a `u32`. The tensor counts as read from now on.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is missing or different, with the difference; read errors.
    pub async fn take_numbers(&self, name: &str) -> Result<Vec<u32>> {
        let fault = |found| {
            let expected = "a vector of U32, I32 or I64 with numbers from 0 to 2³² − 1".into();
            Error::Tensor { path: self.path.clone(), tensor: excerpt(name), expected, found }
        };
        let entry = self.entries.get(name).ok_or_else(|| fault(self.absent(name)))?;
        let bytes = self.files[entry.file].read(entry.range.clone()).await?;
        let word = |b: &[u8]| [b[0], b[1], b[2], b[3]];
        let StoredType::Other(dtype) = entry.dtype else {
            return Err(fault(format!("{} {:?}", entry.dtype, entry.shape)));
        };
        let numbers: Vec<i64> = match (dtype, entry.shape.len()) {
            (Dtype::U32, 1) => bytes.chunks_exact(4).map(|b| u32::from_le_bytes(word(b)).into()).collect(),
            (Dtype::I32, 1) => bytes.chunks_exact(4).map(|b| i32::from_le_bytes(word(b)).into()).collect(),
            (Dtype::I64, 1) => {
                let wide = |b: &[u8]| {
                    i64::from(i32::from_le_bytes(word(&b[4..]))) << 32 | i64::from(u32::from_le_bytes(word(b)))
                };
                bytes.chunks_exact(8).map(wide).collect()
            }
            _ => return Err(fault(format!("{} {:?}", entry.dtype, entry.shape))),
        };
        entry.read.get_or_init(|| entry.shape.clone());
        numbers.into_iter().map(|n| u32::try_from(n).map_err(|_| fault(n.to_string()))).collect()
    }

    /// The shape of the tensor of this name, if it exists.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// True if a tensor of this name exists, in any shape and type.
    pub fn contains(&self, name: &str) -> bool {
        self.random.is_some() || self.entries.contains_key(name)
    }

    /// The file of the tensor of this name, and its name there; the part's own file for a tensor
    /// that does not exist.
    pub(super) fn stored_as<'n>(&'n self, name: &'n str) -> (&'n Path, &'n str) {
        match self.entries.get(name) {
            Some(entry) => (&self.files[entry.file].path, entry.stored(name)),
            None => (&self.path, name),
        }
    }

    /// The error for a tensor that has no representation in a format.
    pub(super) fn unquantizable(&self, name: &str, reason: Unquantizable) -> Error {
        let (file, stored) = self.stored_as(name);
        Error::file(file, format!("tensor {}: {reason}", excerpt(stored)))
    }

    /// The bytes of the tensor of this name in its file, if it exists.
    pub(crate) fn stored_bytes(&self, name: &str) -> Option<u64> {
        self.entries.get(name).map(|entry| entry.range.end - entry.range.start)
    }

    /// Warnings about the files, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Tensors that nothing has read and that are not `known` to go unread, by the names in the
    /// file. `known` receives the names that [`Tensors::take`] takes.
    pub fn unread(&self, known: impl Fn(&str) -> bool) -> Vec<String> {
        let unread = self.entries.iter().filter(|(_, entry)| !entry.is_read());
        unread.filter(|(name, _)| !known(name)).map(|(name, entry)| entry.stored(name).to_owned()).collect()
    }

    /// Every tensor.
    pub fn iter(&self) -> impl Iterator<Item = Listing<'_>> {
        self.iter_but(|_| false)
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of elements of all tensors.
    pub fn parameters(&self) -> usize {
        self.iter().map(|tensor| tensor.elements()).sum()
    }

    /// The number of bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|tensor| tensor.bytes).sum()
    }

    /// All tensors except those that are `known` to go unread, as in [`Tensors::unread`].
    pub fn iter_but(&self, known: impl Fn(&str) -> bool) -> impl Iterator<Item = Listing<'_>> {
        self.entries.iter().filter(move |(name, _)| !known(name)).map(|(name, entry)| Listing {
            name: entry.stored(name),
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: entry.range.end - entry.range.start,
            file: &self.files[entry.file].path,
        })
    }

    /// The form of the tensor of this name on its way to a device, if there is one, as a
    /// [`Tensors::weight`] or a [`Tensors::fp8_operand`]. `shape` is its shape in a model without
    /// files.
    pub fn on_the_way(&self, name: &str, shape: &[usize], compute: Compute) -> Option<OnTheWay> {
        let stored = self.weight_on_the_way(name, shape)?;
        if compute == Compute::Native {
            return Some(stored);
        }
        let keeps_rows = |entry: &Entry| entry.beside.as_ref().is_none_or(|(beside, _)| beside.has_float_scales());
        let is_kept = stored.format == Some(Format::F8E4m3) && self.entries.get(name).is_some_and(keeps_rows);
        let in_memory = Some(Storage::Plain(Format::F8E4m3).dtype());
        Some(OnTheWay { format: Some(Format::F8E4m3), in_memory, is_mapped: stored.is_mapped && is_kept, ..stored })
    }

    fn weight_on_the_way(&self, name: &str, shape: &[usize]) -> Option<OnTheWay> {
        if let Some(random) = &self.random {
            return Some(random.on_the_way(name, shape));
        }
        let entry = self.entries.get(name)?;
        let in_memory = match self.weights.of(name, &entry.shape, None) {
            Some(format) => Some(Storage::Plain(format).dtype()),
            None => entry.in_memory(),
        };
        let stored = self.format(name, entry);
        let format = self.weights.of(name, &entry.shape, stored);
        let is_unchanged = self.transform_of(name).is_none() && format == stored;
        let is_mapped = is_unchanged && self.files[entry.file].piece().is_none();
        Some(OnTheWay { format, in_memory, bytes: entry.range.end - entry.range.start, is_mapped })
    }

    /// The names and shapes of all tensors.
    pub fn names(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice()))
    }

    /// The format of a tensor after its transform, which leaves no codes.
    fn format(&self, name: &str, entry: &Entry) -> Option<Format> {
        match self.transform_of(name) {
            Some(_) => entry.in_memory().and_then(Format::of),
            None => entry.format(),
        }
    }

    /// The number of bytes of [`Tensors::iter_but`].
    pub fn bytes_but(&self, known: impl Fn(&str) -> bool) -> u64 {
        self.iter_but(known).map(|tensor| tensor.bytes).sum()
    }

    /// The type that the operands of the gemms with the network's large matrices should have, as
    /// far as the sizes of a matrix allow it.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The type that the operands of the network's attention should have, as far as the size of a
    /// head allows it.
    pub fn attention_in(&self) -> Compute {
        self.attention_in
    }

    /// The files that contain the tensors.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    fn missing(&self, name: &str, shape: &[usize]) -> Error {
        self.fault(self.path.clone(), &format!("{}{name}", self.prefix), shape, self.absent(name))
    }

    /// The error for the tensor that its file calls `tensor`.
    fn fault(&self, path: PathBuf, tensor: &str, shape: &[usize], found: String) -> Error {
        Error::Tensor { path, tensor: tensor.to_owned(), expected: format!("{shape:?} of {READ}"), found }
    }

    /// The message for a missing tensor, with its expected file or a similar name: among the unread
    /// tensors, the one whose name begins and ends most alike.
    fn absent(&self, name: &str) -> String {
        if let Some(shard) = self.lost.get(name) {
            let file = shard.file_name().unwrap_or_default().display();
            return match self.files.iter().any(|file| file.path == *shard) {
                true => format!("nothing in {file}, which should hold it; download both files again"),
                false => format!("nothing, for there is no {file}, which should hold it; download the model again"),
            };
        }
        let alike = |other: &str| {
            let shortest = name.len().min(other.len());
            let start = name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            let end = name.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
            (start + end).min(shortest)
        };
        let unread = self.entries.iter().filter(|(_, entry)| !entry.is_read());
        let nearest = unread.max_by_key(|(other, _)| alike(other));
        match nearest {
            Some((other, entry)) if 2 * alike(other) > name.len().max(other.len()) => {
                format!("nothing; did you mean {}?", excerpt(entry.stored(other)))
            }
            _ => format!("nothing among {} tensors", self.entries.len()),
        }
    }
}

/// The reason why no weight has this type.
pub(super) fn unread_type(dtype: StoredType) -> &'static str {
    match dtype {
        StoredType::Other(Dtype::F64) => "which is not read; convert the file to F32, F16 or BF16",
        StoredType::Other(Dtype::I8 | Dtype::U8) => "which needs scales beside it, and there are none",
        _ => "which is not read",
    }
}
