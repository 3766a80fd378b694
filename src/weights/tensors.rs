//! The named tensors of one part of a model, from one file or from shards, each read when it is asked for: shared
//! where the file is in memory, fetched where it is not.

use super::folder::{ModelFile, ModelFolder};
use super::header::{Stored, read_header};
use super::index::read_index;
use super::random::RandomTensors;
use super::{StoredType, excerpt};
use crate::backend::{DType, HostTensor, ReadAt, Weight};
use crate::error::{Error, Result};
use crate::future::Answer;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Told of what was read, in bytes; its error ends the loading.
pub type OnRead<'a> = &'a dyn Fn(u64) -> Result<()>;

/// The tensors of one part, such as the transformer, by name.
#[derive(Debug)]
pub struct Tensors {
    /// What to name when a tensor is missing: the single file, or the index of the shards.
    path: PathBuf,
    pub(super) files: Vec<ModelFile>,
    /// What stands before every name in this file.
    prefix: &'static str,
    /// By the name that the file uses.
    pub(super) entries: BTreeMap<String, Entry>,
    /// What answers for every tensor where there are no files.
    random: Option<RandomTensors>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) file: usize,
    pub(super) dtype: StoredType,
    shape: Vec<usize>,
    /// Its place in the file.
    pub(super) range: Range<u64>,
    pub(super) read: AtomicBool,
}

/// Where a tensor begins that is read in pieces.
struct Place<'a> {
    file: &'a ModelFile,
    start: u64,
    on_read: OnRead<'a>,
}

impl ReadAt for Place<'_> {
    fn read_at(&self, range: Range<u64>) -> Answer<'_, Bytes> {
        Box::pin(async move {
            let bytes = self.file.read(self.start + range.start..self.start + range.end).await?;
            (self.on_read)(bytes.len() as u64)?;
            Ok(bytes)
        })
    }
}

/// What is known of a tensor without reading it.
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
    /// The type of its elements if it is one that [`Tensors::take`] reads.
    pub fn floating(&self) -> Option<DType> {
        floating(self.dtype)
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

fn floating(dtype: StoredType) -> Option<DType> {
    match dtype {
        StoredType::F32 => Some(DType::F32),
        StoredType::F16 => Some(DType::F16),
        StoredType::BF16 => Some(DType::Bf16),
        _ => None,
    }
}

/// What stands before the names of the tensors. A text encoder saved with its language-model head
/// (`Qwen3ForCausalLM`) has its body under `model.`; saved alone (`Qwen3Model`) it has not.
fn name_prefix(has: impl Fn(&str) -> bool) -> &'static str {
    if has("model.embed_tokens.weight") { "model." } else { "" }
}

impl Tensors {
    /// Opens `<part>/<stem>.safetensors`, or the shards that `<part>/<stem>.safetensors.index.json` names where there is
    /// no such file, and checks their headers; no tensor is read yet. Tensors that a shard holds beyond what the index
    /// says are there like all others. Of a folder with random weights no file is opened: nothing is listed, and every
    /// tensor is there.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Tensor`] for files that are missing, truncated, damaged or at odds with their index;
    /// those of reading.
    pub async fn open(folder: &ModelFolder, part: &str, stem: &str) -> Result<Self> {
        let single = format!("{part}/{stem}.safetensors");
        let index = format!("{single}.index.json");
        let random = folder.random_weights().cloned();
        let mut tensors = Self::none(folder.path(&single), random);
        if tensors.random.is_some() {
            return Ok(tensors);
        }
        if folder.exists(&single).await? {
            tensors.add_file(folder, &single).await?;
        } else if folder.exists(&index).await? {
            tensors.path = folder.path(&index);
            tensors.add_shards(folder, part, &index).await?;
        } else {
            return Err(no_weights(folder, part, stem).await);
        }
        tensors.prefix = name_prefix(|name| tensors.entries.contains_key(name));
        Ok(tensors)
    }

    /// Opens a file on disk that is no part of a model, with the checks of [`Tensors::open`].
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::File`] and [`Error::Tensor`] for a file that is missing, truncated or damaged.
    pub async fn open_file(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::file(path, "there is no such file"));
        }
        let mut tensors = Self::none(path.to_owned(), None);
        tensors.add(ModelFile::open(path)?).await?;
        Ok(tensors)
    }

    fn none(path: PathBuf, random: Option<RandomTensors>) -> Self {
        Self { path, files: vec![], prefix: "", entries: BTreeMap::new(), random }
    }

    async fn add_file(&mut self, folder: &ModelFolder, relative: &str) -> Result<()> {
        self.add(folder.file(relative).await?).await
    }

    async fn add(&mut self, file: ModelFile) -> Result<()> {
        for (name, Stored { info, range }) in read_header(&file).await? {
            if let Some(other) = self.entries.get(&name) {
                return Err(Error::Tensor {
                    expected: "each tensor in one file only".into(),
                    found: format!("it in {} as well", self.files[other.file].path.display()),
                    tensor: excerpt(&name),
                    path: file.path,
                });
            }
            let (dtype, shape) = (info.dtype, info.shape);
            let entry = Entry { file: self.files.len(), dtype, shape, range, read: AtomicBool::new(false) };
            self.entries.insert(name, entry);
        }
        self.files.push(file);
        Ok(())
    }

    async fn add_shards(&mut self, folder: &ModelFolder, part: &str, index: &str) -> Result<()> {
        let map = read_index(&self.path, &folder.read(index).await?)?;
        for shard in map.values().collect::<BTreeSet<_>>() {
            self.add_file(folder, &format!("{part}/{shard}")).await?;
        }
        for (name, shard) in &map {
            let path = folder.path(&format!("{part}/{shard}"));
            let found = match self.entries.get(name) {
                Some(entry) if self.files[entry.file].path == path => continue,
                Some(entry) => format!("it in {}", self.files[entry.file].path.display()),
                None => "nothing".into(),
            };
            let expected = format!("the tensor, as {} says", self.path.display());
            return Err(Error::Tensor { path, tensor: excerpt(name), expected, found });
        }
        Ok(())
    }

    /// The tensor of this name, which has to have this shape and elements of F32, F16 or BF16. It shares the memory of a
    /// file on this machine. It counts as read from now on.
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
        self.read(entry, dtype).await.map(Some)
    }

    /// As [`Tensors::take`], but one that is somewhere else is read when it is uploaded, piece by piece. `on_read` is told of
    /// the bytes of every piece; its error ends the reading. What is on this machine counts at once.
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
        let Some((entry, dtype)) = self.find(name, shape)? else { return Err(self.missing(name, shape)) };
        let file = &self.files[entry.file];
        let Some(piece) = file.piece() else { return here(self.read(entry, dtype).await?) };
        entry.read.store(true, Ordering::Relaxed);
        let place = Place { file, start: entry.range.start, on_read };
        Ok(Weight::there(dtype, shape, place).in_pieces(piece))
    }

    /// Where the tensor of this name is, if there is one, and the type of its elements.
    fn find(&self, name: &str, shape: &[usize]) -> Result<Option<(&Entry, DType)>> {
        let Some(entry) = self.entries.get(&self.file_name(name)) else { return Ok(None) };
        let fault = |found| Err(self.fault(self.files[entry.file].path.clone(), name, shape, found));
        let found = || format!("{} {:?}", entry.dtype, entry.shape);
        let Some(dtype) = floating(entry.dtype) else {
            return fault(format!("{}; FP8 and other quantised files are not supported", found()));
        };
        if entry.shape == shape { Ok(Some((entry, dtype))) } else { fault(found()) }
    }

    /// All of a tensor.
    async fn read(&self, entry: &Entry, dtype: DType) -> Result<HostTensor> {
        let bytes = self.files[entry.file].read(entry.range.clone()).await?;
        entry.read.store(true, Ordering::Relaxed);
        Ok(HostTensor::new(dtype, &entry.shape, bytes).expect("the header was held against the shapes"))
    }

    /// The whole numbers of the vector of this name, stored as U32, I32 or I64 and each in the range of a `u32`. It counts
    /// as read from now on.
    ///
    /// # Errors
    /// [`Error::Tensor`] when it is missing or different, saying how; those of reading.
    pub async fn take_numbers(&self, name: &str) -> Result<Vec<u32>> {
        let fault = |found| {
            let expected = "a vector of U32, I32 or I64 with numbers from 0 to 2³² − 1".into();
            Error::Tensor { path: self.path.clone(), tensor: excerpt(&self.file_name(name)), expected, found }
        };
        let file_name = self.file_name(name);
        let entry = self.entries.get(&file_name).ok_or_else(|| fault(self.absent(&file_name)))?;
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
        self.entries.get(&self.file_name(name)).map(|entry| entry.shape.as_slice())
    }

    /// Whether there is a tensor of this name, whatever its shape and type.
    pub fn contains(&self, name: &str) -> bool {
        self.random.is_some() || self.entries.contains_key(&self.file_name(name))
    }

    /// The tensors that nothing has read and that are not `known` to go unread, by the names that the file uses. `known`
    /// sees the names that [`Tensors::take`] takes: without the prefix of this file, where they have it.
    pub fn unread(&self, known: impl Fn(&str) -> bool) -> Vec<String> {
        let unread = self.entries.iter().filter(|(_, entry)| !entry.read.load(Ordering::Relaxed));
        let names = unread.map(|(name, _)| name);
        names.filter(|name| !known(self.own_name(name))).cloned().collect()
    }

    /// Every tensor, by name.
    pub fn iter(&self) -> impl Iterator<Item = Listing<'_>> {
        self.entries.iter().map(|(name, entry)| Listing {
            name,
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: entry.range.end - entry.range.start,
            file: &self.files[entry.file].path,
        })
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no tensors.
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
        self.iter().filter(move |tensor| !known(self.own_name(tensor.name)))
    }

    /// The bytes of [`Tensors::iter_but`] together.
    pub fn bytes_but(&self, known: impl Fn(&str) -> bool) -> u64 {
        self.iter_but(known).map(|tensor| tensor.bytes).sum()
    }

    /// The files that the tensors are in.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// A name without the prefix of this file, where it has it.
    pub(super) fn own_name<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.prefix).unwrap_or(name)
    }

    fn file_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn missing(&self, name: &str, shape: &[usize]) -> Error {
        self.fault(self.path.clone(), name, shape, self.absent(&self.file_name(name)))
    }

    fn fault(&self, path: PathBuf, name: &str, shape: &[usize], found: String) -> Error {
        let expected = format!("{shape:?} of F32, F16 or BF16");
        Error::Tensor { path, tensor: self.file_name(name), expected, found }
    }

    /// Says that a tensor is not there, and which one may be meant: among those that nothing has read yet, the one
    /// whose name begins and ends most alike.
    fn absent(&self, name: &str) -> String {
        let alike = |other: &str| {
            let shortest = name.len().min(other.len());
            let start = name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            let end = name.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
            (start + end).min(shortest)
        };
        let unread = self.entries.iter().filter(|(_, entry)| !entry.read.load(Ordering::Relaxed));
        let nearest = unread.map(|(other, _)| (alike(other), other)).max_by_key(|(score, _)| *score);
        match nearest {
            Some((score, other)) if 2 * score > name.len().max(other.len()) => {
                format!("nothing; did you mean {}?", excerpt(other))
            }
            _ => format!("nothing among {} tensors", self.entries.len()),
        }
    }
}

/// Says what the folder holds instead of weights.
async fn no_weights(folder: &ModelFolder, part: &str, stem: &str) -> Error {
    const MOST_NAMES: usize = 8;
    let names = folder.list(part).await;
    // There, but no file: a link whose target is gone, a folder. Reading it says which.
    for name in [format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json")] {
        if names.contains(&name)
            && let Err(error) = folder.read(&format!("{part}/{name}")).await
        {
            return error;
        }
    }
    let mut found = match names.len() {
        0 => "nothing".to_owned(),
        _ => names.iter().take(MOST_NAMES).map(|name| excerpt(name)).collect::<Vec<_>>().join(", "),
    };
    if names.len() > MOST_NAMES {
        found += ", …";
    }
    if names.iter().any(|name| name.ends_with(".bin") || name.ends_with(".gguf")) {
        found += "; only safetensors files are supported";
    }
    let expected = format!("{stem}.safetensors or {stem}.safetensors.index.json");
    Error::file(&folder.path(part), format!("expected {expected}, found {found}"))
}
