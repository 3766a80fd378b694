//! The named tensors of one part of a model, from one file or from shards, each read when it is
//! asked for: shared where the file is in memory, fetched where it is not.

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

/// Bytes in memory that are converted at once of a tensor whose elements have another type there.
const CONVERTED: u64 = 8 << 20;

/// Told of what was read, in bytes; its error ends the loading.
pub type OnRead<'a> = &'a dyn Fn(u64) -> Result<()>;

/// The tensors of one part, such as the transformer, by name.
#[derive(Debug)]
pub struct Tensors {
    /// The file that errors about a missing tensor name: the single one, or the index of the
    /// shards.
    pub(super) path: PathBuf,
    pub(super) files: Vec<ModelFile>,
    /// The prefix of every name in these files, for the names of missing tensors.
    pub(super) prefix: &'static str,
    /// By the name that the library which wrote the files loads a tensor under.
    pub(super) entries: BTreeMap<String, Entry>,
    /// The tensors of the index that no shard holds, with their shards.
    pub(super) lost: BTreeMap<String, PathBuf>,
    /// True if some weights have scales beside them, as files with FP8 weights may have.
    pub(super) scaled: bool,
    pub(super) warnings: Vec<String>,
    /// The source of every tensor where there are no files.
    pub(super) random: Option<RandomTensors>,
    pub(super) transform: Option<Arc<dyn Transform>>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) file: usize,
    /// The name in that file, where it is another one.
    pub(super) stored: Option<String>,
    pub(super) dtype: StoredType,
    pub(super) shape: Vec<usize>,
    /// Its place in the file.
    pub(super) range: Range<u64>,
    pub(super) read: AtomicBool,
}

impl Entry {
    /// The name in the file, of the tensor that is loaded as `name`.
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
    /// The type of its elements.
    pub dtype: StoredType,
    /// Sizes, outermost first.
    pub shape: &'a [usize],
    /// The space that it takes in its file.
    pub bytes: u64,
    /// That file.
    pub file: &'a Path,
}

impl Listing<'_> {
    /// The type that its elements have in memory, if it is one that [`Tensors::take`] reads.
    pub fn floating(&self) -> Option<DType> {
        in_memory(self.dtype)
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Tensors {
    /// The tensor of this name, which has to have this shape and floating elements. Those of F64
    /// come as F32, those of FP8 as BF16; others share the memory of a file on this machine. It
    /// counts as read from now on.
    ///
    /// # Errors
    /// [`Error::Tensor`] when it is missing or different, saying how; those of reading.
    pub async fn take(&self, name: &str, shape: &[usize]) -> Result<HostTensor> {
        match self.take_optional(name, shape).await? {
            Some(tensor) => Ok(tensor),
            None => Err(self.missing(name, shape)),
        }
    }

    /// As [`Tensors::take`], but `None` when there is no tensor of this name.
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

    /// As [`Tensors::take`], but one that is somewhere else is read when it is uploaded, piece by
    /// piece. `on_read` is told of the bytes of every piece; its error ends the reading. What is on
    /// this machine counts at once.
    ///
    /// # Errors
    /// Those of [`Tensors::take`], and that of `on_read`.
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

    /// The place of the tensor of this name, if there is one, and the type of its elements in
    /// memory.
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

    /// All of a tensor.
    async fn read(&self, entry: &Entry, dtype: DType) -> Result<HostTensor> {
        let bytes = convert(entry.dtype, self.files[entry.file].read(entry.range.clone()).await?);
        entry.read.store(true, Ordering::Relaxed);
        Ok(HostTensor::new(dtype, &entry.shape, bytes).expect("the header was held against the shapes"))
    }

    /// The whole numbers of the vector of this name, stored as U32, I32 or I64 and each in the
    /// range of a `u32`. It counts as read from now on.
    ///
    /// # Errors
    /// [`Error::Tensor`] when it is missing or different, saying how; those of reading.
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

    /// The shape of the tensor of this name, where there is one.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// True if a tensor of this name exists, in any shape and type.
    pub fn contains(&self, name: &str) -> bool {
        self.random.is_some() || self.entries.contains_key(name)
    }

    /// The bytes that the tensor of this name takes in its file, where there is one.
    pub(crate) fn stored_bytes(&self, name: &str) -> Option<u64> {
        self.entries.get(name).map(|entry| entry.range.end - entry.range.start)
    }

    /// Warnings about the files, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The tensors that nothing has read and that are not `known` to go unread, by the names that
    /// the file uses. `known` sees the names that [`Tensors::take`] takes.
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

    /// The elements of all tensors together.
    pub fn parameters(&self) -> usize {
        self.iter().map(|tensor| tensor.elements()).sum()
    }

    /// The bytes of all tensors together.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|tensor| tensor.bytes).sum()
    }

    /// All tensors but those that are `known` to go unread, as [`Tensors::unread`] knows them.
    pub fn iter_but(&self, known: impl Fn(&str) -> bool) -> impl Iterator<Item = Listing<'_>> {
        self.entries.iter().filter(move |(name, _)| !known(name)).map(|(name, entry)| Listing {
            name: entry.stored(name),
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: entry.range.end - entry.range.start,
            file: &self.files[entry.file].path,
        })
    }

    /// The bytes of [`Tensors::iter_but`] together.
    pub fn bytes_but(&self, known: impl Fn(&str) -> bool) -> u64 {
        self.iter_but(known).map(|tensor| tensor.bytes).sum()
    }

    /// The files that the tensors are in.
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

    /// Says that a tensor is not there, and where it should be or which one may be meant: among
    /// those that nothing has read yet, the one whose name begins and ends most alike.
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
