//! The named tensors of one part of a model, from one file or from shards. Each is read on demand:
//! shared if the file is in memory, fetched otherwise.

use super::StoredType;
use super::convert::{convert, in_memory, is_converted};
use super::file::ModelFile;
use super::random::RandomTensors;
use super::transform::Transform;
use crate::error::{Error, Result, excerpt};
use crate::future::BoxFuture;
use crate::tensor::{DType, HostTensor, ReadAt, Weight};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes in memory that are converted at once, for a tensor whose type in memory differs.
const CONVERTED: u64 = 8 << 20;

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
    /// True if some weights have separate scales, as files with FP8 weights may.
    pub(super) scaled: bool,
    pub(super) warnings: Vec<String>,
    /// The source of every tensor where there are no files.
    pub(super) random: Option<RandomTensors>,
    pub(super) transform: Option<Arc<dyn Transform>>,
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
    pub(super) read: AtomicBool,
}

impl Entry {
    /// The name in the file of the tensor that is loaded as `name`.
    pub(super) fn stored<'n>(&'n self, name: &'n str) -> &'n str {
        self.stored.as_deref().unwrap_or(name)
    }
}

/// The start of a tensor that is read in pieces.
struct Place<'a> {
    file: &'a ModelFile,
    start: u64,
    stored: StoredType,
    /// Bytes of an element in memory.
    size: u64,
    on_read: OnRead<'a>,
}

impl ReadAt for Place<'_> {
    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Bytes> {
        Box::pin(async move {
            let place = |byte: u64| self.start + byte / self.size * (self.stored.bitsize() as u64 / 8);
            let bytes = self.file.read(place(range.start)..place(range.end)).await?;
            (self.on_read)(bytes.len() as u64)?;
            Ok(convert(self.stored, bytes))
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
    /// The type in memory of the elements, if [`Tensors::take`] reads the stored type.
    pub fn floating(&self) -> Option<DType> {
        in_memory(self.dtype)
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Tensors {
    /// The tensor of this name, which must have this shape and floating elements. F64 becomes F32
    /// and FP8 becomes BF16; other types share the memory of a local file. The tensor counts as
    /// read from now on.
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
        let Some((entry, dtype)) = self.find(name, shape)? else { return Ok(None) };
        let tensor = self.read(entry, dtype).await?;
        Ok(Some(match self.transform_of(name) {
            Some(transform) => transform.apply(name, tensor),
            None => tensor,
        }))
    }

    /// As [`Tensors::take`], but a remote tensor is read during its upload, piece by piece.
    /// `on_read` receives the bytes of every piece; its error ends the reading. A local tensor
    /// counts at once.
    ///
    /// # Errors
    /// Errors of [`Tensors::take`] and of `on_read`.
    pub async fn weight<'a>(&'a self, name: &str, shape: &[usize], on_read: OnRead<'a>) -> Result<Weight<'a>> {
        let here = |tensor: HostTensor| {
            on_read(tensor.bytes().len() as u64)?;
            Ok(tensor.into())
        };
        if let Some(random) = &self.random {
            return here(random.weight(name, shape));
        }
        if self.transform_of(name).is_some() {
            return here(self.take(name, shape).await?);
        }
        let Some((entry, dtype)) = self.find(name, shape)? else { return Err(self.missing(name, shape)) };
        let file = &self.files[entry.file];
        let piece = match file.piece() {
            Some(piece) => piece,
            None if is_converted(entry.dtype) => CONVERTED,
            None => return here(self.read(entry, dtype).await?),
        };
        entry.read.store(true, Ordering::Relaxed);
        let place = Place { file, start: entry.range.start, stored: entry.dtype, size: dtype.size() as u64, on_read };
        Ok(Weight::there(dtype, shape, place).in_pieces(piece))
    }

    /// The transform that changes the tensor of this name.
    fn transform_of(&self, name: &str) -> Option<&dyn Transform> {
        self.transform.as_deref().filter(|transform| transform.changes(name))
    }

    /// The entry of the tensor of this name, if any, and the type of its elements in memory.
    fn find(&self, name: &str, shape: &[usize]) -> Result<Option<(&Entry, DType)>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let fault = |found| Err(self.fault(self.files[entry.file].path.clone(), entry.stored(name), shape, found));
        let found = || format!("{} {:?}", entry.dtype, entry.shape);
        let Some(dtype) = in_memory(entry.dtype) else {
            return fault(format!("{}; quantised files are not supported", found()));
        };
        if self.scaled && entry.dtype.bitsize() == 8 {
            return fault(format!("{} with scales beside it; quantised files are not supported", found()));
        }
        if entry.shape == shape { Ok(Some((entry, dtype))) } else { fault(found()) }
    }

    /// Reads a whole tensor.
    async fn read(&self, entry: &Entry, dtype: DType) -> Result<HostTensor> {
        let bytes = convert(entry.dtype, self.files[entry.file].read(entry.range.clone()).await?);
        entry.read.store(true, Ordering::Relaxed);
        Ok(HostTensor::new(dtype, &entry.shape, bytes).expect("the header was held against the shapes"))
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
        let numbers: Vec<i64> = match (entry.dtype, entry.shape.len()) {
            (StoredType::U32, 1) => bytes.chunks_exact(4).map(|b| u32::from_le_bytes(word(b)).into()).collect(),
            (StoredType::I32, 1) => bytes.chunks_exact(4).map(|b| i32::from_le_bytes(word(b)).into()).collect(),
            (StoredType::I64, 1) => {
                let wide = |b: &[u8]| {
                    i64::from(i32::from_le_bytes(word(&b[4..]))) << 32 | i64::from(u32::from_le_bytes(word(b)))
                };
                bytes.chunks_exact(8).map(wide).collect()
            }
            _ => return Err(fault(format!("{} {:?}", entry.dtype, entry.shape))),
        };
        entry.read.store(true, Ordering::Relaxed);
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
        let unread = self.entries.iter().filter(|(_, entry)| !entry.read.load(Ordering::Relaxed));
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

    /// The number of bytes of [`Tensors::iter_but`].
    pub fn bytes_but(&self, known: impl Fn(&str) -> bool) -> u64 {
        self.iter_but(known).map(|tensor| tensor.bytes).sum()
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
        Error::Tensor { path, tensor: tensor.to_owned(), expected: format!("{shape:?} of F32, F16 or BF16"), found }
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
        let unread = self.entries.iter().filter(|(_, entry)| !entry.read.load(Ordering::Relaxed));
        let nearest = unread.max_by_key(|(other, _)| alike(other));
        match nearest {
            Some((other, entry)) if 2 * alike(other) > name.len().max(other.len()) => {
                format!("nothing; did you mean {}?", excerpt(entry.stored(other)))
            }
            _ => format!("nothing among {} tensors", self.entries.len()),
        }
    }
}
