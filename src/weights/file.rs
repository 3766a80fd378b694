//! One file of a model, readable in parts: from memory, mapped, by plain reads, or remote.

use super::remote::RemoteFiles;
#[cfg(unix)]
use super::sigbus::Region;
use crate::error::{Error, MemoryKind, Result};
use crate::sync::lock;
use bytes::Bytes;
use std::fs::{File, metadata};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::SystemTime;

/// Files up to this many bytes are read into memory when they are opened. Later changes of the file
/// have no effect.
const SMALL: u64 = 8 << 20;
/// Bytes per read of a file that cannot be mapped.
const PIECE: u64 = 8 << 20;

/// The end of the names of files with weights.
const WEIGHTS: [&str; 3] = ["safetensors", "sft", "gguf"];

/// One file of a model. Any part of it can be read.
#[derive(Debug, Clone)]
pub(super) struct ModelFile {
    /// The path, for messages.
    pub path: PathBuf,
    /// Length in bytes.
    pub len: u64,
    contents: Contents,
}

#[derive(Debug, Clone)]
enum Contents {
    /// In memory or mapped.
    Here(Bytes),
    /// On disk, read on demand.
    Disk(Arc<OpenFile>),
    There {
        files: Arc<dyn RemoteFiles>,
        relative: String,
    },
}

/// The files on disk that weights are still read from.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenFiles(Arc<Mutex<Vec<Weak<OpenFile>>>>);

/// A file on disk. It stays open while something reads it.
#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: Mutex<File>,
    opened: Stamp,
}

/// A stamp that changes when a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
}

/// A mapping of a whole file.
#[cfg(not(target_family = "wasm"))]
struct Map {
    #[cfg(unix)]
    _region: Region,
    map: memmap2::Mmap,
    _file: Arc<OpenFile>,
}

#[cfg(not(target_family = "wasm"))]
impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl ModelFile {
    /// A file whose bytes are in memory.
    pub(super) fn in_memory(path: PathBuf, bytes: Bytes) -> Self {
        Self { path, len: bytes.len() as u64, contents: Contents::Here(bytes) }
    }

    /// A remote file of `len` bytes in `files`.
    pub(super) fn remote(path: PathBuf, len: u64, files: Arc<dyn RemoteFiles>, relative: &str) -> Self {
        Self { path, len, contents: Contents::There { files, relative: relative.to_owned() } }
    }

    /// A file on disk. A small file is read now. A large file is mapped, so that its pages are
    /// loaded on demand, or read in pieces if the file system allows no mappings; `open` watches
    /// it.
    ///
    /// # Errors
    /// [`Error::Io`] for system errors, [`Error::File`] if the path does not exist or is not a
    /// file.
    pub(super) fn open(path: &Path, open: &OpenFiles) -> Result<Self> {
        // This check precedes opening, because opening a named pipe would wait for its writer.
        let kind = metadata(path).map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => missing(path),
            _ => Error::io(path, e),
        })?;
        if !kind.is_file() {
            return Err(Error::file(path, "expected a file, found a folder or a device"));
        }
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let opened = Stamp::of(&file).map_err(|e| Error::io(path, e))?;
        let file = Arc::new(OpenFile { path: path.to_owned(), file: Mutex::new(file), opened });
        let contents = if opened.len <= SMALL {
            Contents::Here(file.read(0..opened.len)?)
        } else {
            open.watch(&file);
            file.map().map_or(Contents::Disk(file), Contents::Here)
        };
        Ok(Self { path: path.to_owned(), len: opened.len, contents })
    }

    /// Bytes per piece, for a file that is read in pieces; `None` for a file whose bytes are in
    /// memory or mapped.
    pub(super) fn piece(&self) -> Option<u64> {
        match &self.contents {
            Contents::Here(_) => None,
            Contents::Disk(_) => Some(PIECE),
            Contents::There { files, .. } => Some(files.piece()),
        }
    }

    /// The bytes in `range`. Bytes in memory or mapped are shared, not copied.
    ///
    /// # Errors
    /// [`Error::File`] for a range outside the file; read errors.
    pub(super) async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let part = match &self.contents {
            Contents::Here(bytes) => slice(bytes, &range),
            _ if range.is_empty() => Some(Bytes::new()),
            Contents::Disk(file) => Some(file.read(range.clone())?),
            Contents::There { files, relative } => {
                let bytes = files.read(relative, range.clone()).await?;
                (bytes.len() as u64 == range.end - range.start).then_some(bytes)
            }
        };
        part.ok_or_else(|| {
            let Range { start, end } = range;
            Error::file(&self.path, format!("bytes {start} to {end} of {} cannot be read", self.len))
        })
    }
}

fn slice(bytes: &Bytes, range: &Range<u64>) -> Option<Bytes> {
    let [start, end] = [range.start, range.end].map(usize::try_from);
    let (start, end) = (start.ok()?, end.ok()?);
    (start <= end && end <= bytes.len()).then(|| bytes.slice(start..end))
}

/// True for the name of a file with weights.
pub(super) fn is_weights(path: &Path) -> bool {
    path.extension().is_some_and(|end| WEIGHTS.iter().any(|known| end.eq_ignore_ascii_case(known)))
}

/// The error for a missing file.
pub(super) fn missing(path: &Path) -> Error {
    Error::file(path, "there is no such file: the model is incomplete; download it again")
}

impl OpenFiles {
    fn watch(&self, file: &Arc<OpenFile>) {
        let mut files = lock(&self.0);
        files.retain(|file| file.strong_count() > 0);
        files.push(Arc::downgrade(file));
    }

    /// Checks that no open file has changed since it was opened.
    ///
    /// # Errors
    /// [`Error::File`] that names the changed file.
    pub(super) fn check(&self) -> Result<()> {
        let files = lock(&self.0);
        files.iter().filter_map(Weak::upgrade).try_for_each(|file| file.check())
    }
}

impl OpenFile {
    /// Checks the open file, not its path: a new file of the same name does not affect an open one.
    fn check(&self) -> Result<()> {
        let file = lock(&self.file);
        let now = Stamp::of(&file).map_err(|e| Error::io(&self.path, e))?;
        if now == self.opened {
            return Ok(());
        }
        let problem = "the file changed while it was in use, so the result would be wrong; run this again once \
                       nothing writes to it";
        Err(Error::file(&self.path, problem))
    }

    /// Reads a range into memory.
    fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let len = range.end - range.start;
        let mut bytes = Vec::new();
        if usize::try_from(len).map_or(true, |len| bytes.try_reserve_exact(len).is_err()) {
            let problem = format!("there is no memory for {len} bytes of {}", self.path.display());
            return Err(Error::out_of_memory(MemoryKind::Host, problem));
        }
        let mut file = lock(&self.file);
        let read = file.seek(SeekFrom::Start(range.start)).and_then(|_| (&mut *file).take(len).read_to_end(&mut bytes));
        match read {
            Ok(read) if read as u64 == len => Ok(bytes.into()),
            Ok(_) => Err(Error::file(&self.path, "the file became shorter while it was read; run this again")),
            Err(e) => Err(Error::io(&self.path, e)),
        }
    }

    /// A mapping of the file, if its file system allows one: shared, else private.
    #[cfg(not(target_family = "wasm"))]
    fn map(self: &Arc<Self>) -> Option<Bytes> {
        let file = lock(&self.file);
        // SAFETY: both mappings are read-only, live as long as the `Bytes` that own them, and are
        // only ever read as bytes, for which every value is valid. Another program may change the
        // file meanwhile. If it overwrites the file, other numbers appear, which `OpenFiles::check`
        // detects; if it truncates the file, reading past the new end raises SIGBUS, which
        // `explain_sigbus` handles. Slices are checked against the length that the file had here.
        let map =
            unsafe { memmap2::Mmap::map(&*file).or_else(|_| memmap2::MmapOptions::new().map_copy_read_only(&*file)) };
        let map = map.ok().filter(|map| map.len() as u64 == self.opened.len)?;
        Some(Bytes::from_owner(Map {
            #[cfg(unix)]
            _region: Region::new(&map, &self.path),
            map,
            _file: self.clone(),
        }))
    }

    /// This platform has no mappings.
    #[cfg(target_family = "wasm")]
    fn map(self: &Arc<Self>) -> Option<Bytes> {
        None
    }
}

impl Stamp {
    fn of(file: &File) -> std::io::Result<Self> {
        let file = file.metadata()?;
        Ok(Self { len: file.len(), modified: file.modified().ok() })
    }
}
