//! The writer for all files that a user names.
//!
//! A destination is tried before the work, with the operations that will follow it: links are
//! followed, the file is opened, a temporary file is made next to it. The bytes are then written to
//! a temporary file, which is renamed when complete, or into the existing file if a new one would
//! lose its owner or its other names.

mod overwrite;
mod space;
mod stream;
mod temporary;

pub(crate) use space::free_space;
pub(crate) use temporary::{Temporary, remove_leftovers};

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use stream::Stream;

/// Maximum number of links to follow, as in Linux.
const MAX_LINKS: usize = 40;
/// The mode to which the system's umask applies.
const USUAL_MODE: u32 = 0o666;
const FOLDER: &str = "expected the name of a file, found the name of a folder; name a file in it";

/// A writer of a whole file. It may be called again for another one.
type Fill<'f> = dyn FnMut(&mut dyn Write) -> io::Result<()> + 'f;

/// A destination, tried before the work and written after it.
#[derive(Debug)]
pub struct OutputFile {
    /// The name that the user gave.
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// A pipe, a character device or an open descriptor. Bytes go directly to it.
    Stream(Stream),
    /// The file that the name resolves to, which is created or overwritten.
    File(PathBuf),
    /// The first of the numbered names that is free when the file is complete.
    FirstFree,
}

impl OutputFile {
    /// Opens the destination `path` and tries whether a file can be written there. Existing files
    /// do not change, and nothing remains there until [`OutputFile::write`]. Links are followed,
    /// also to a missing file. A pipe, a character device or an open descriptor (`/dev/stdout`)
    /// stays open and is never replaced.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Io`] when no file can be written there: its folder is missing
    /// or closed, the path is a folder or a block device, the file is write-protected, or the pipe
    /// has no reader.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_after(path, &mut None)
    }

    /// Opens several destinations, each as [`OutputFile::open`] does.
    ///
    /// # Errors
    /// As [`OutputFile::open`].
    pub fn open_each(paths: impl IntoIterator<Item = PathBuf>) -> Result<Vec<Self>> {
        let mut cleaned = None;
        paths.into_iter().map(|path| Self::open_after(&path, &mut cleaned)).collect()
    }

    /// Opens a folder for files that must not replace others: [`OutputFile::write`] takes the first
    /// free name of `path`, `NAME-2.EXT`, `NAME-3.EXT`, …, when the file is complete.
    ///
    /// # Errors
    /// As [`OutputFile::open`].
    pub fn open_first_free(path: &Path) -> Result<Self> {
        if names_folder(path) {
            return Err(Error::file(path, FOLDER));
        }
        remove_leftovers(folder(path));
        try_folder(folder(path))?;
        Ok(Self { path: path.to_owned(), place: Place::FirstFree })
    }

    /// Opens this process's standard output.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn open_stdout() -> Result<Self> {
        let path = Path::new("standard output");
        let stream = Stream::stdout().map_err(|error| Error::io(path, error))?;
        Ok(Self { path: path.to_owned(), place: Place::Stream(stream) })
    }

    /// Opens the destination. `cleaned` is the last folder whose leftovers were removed.
    fn open_after(path: &Path, cleaned: &mut Option<PathBuf>) -> Result<Self> {
        let place = match Target::of(path)? {
            Target::Descriptor(number) => Place::Stream(Stream::of_descriptor(path, number)?),
            Target::Stream(found) => Place::Stream(Stream::open(path, &found)?),
            Target::File(target) => {
                let folder = folder(&target);
                if cleaned.as_deref() != Some(folder) {
                    remove_leftovers(folder);
                    *cleaned = Some(folder.to_owned());
                }
                try_file(path, &target)?;
                Place::File(target)
            }
        };
        Ok(Self { path: path.to_owned(), place })
    }

    /// True if `path` names a pipe, a device or an open descriptor. These take one file and have no
    /// numbered names next to them.
    pub fn is_stream(path: &Path) -> bool {
        matches!(Target::of(path), Ok(Target::Stream(_) | Target::Descriptor(_)))
    }

    /// True if bytes go to this process's standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(&self.place, Place::Stream(stream) if stream.descriptor() == Some(stream::STDOUT))
    }

    /// The name of file `number`, from 1 up, among files numbered after `path`: `fox-1.png`.
    pub fn numbered(path: &Path, number: usize) -> PathBuf {
        let mut name = path.file_stem().unwrap_or_default().to_owned();
        name.push(format!("-{number}"));
        with_extension_of(path, name)
    }

    /// Writes the whole file and returns its name. An existing file keeps its mode, owner and hard
    /// links. It has the old bytes or the new ones, also after a crash, unless only overwriting in
    /// place preserves those. If the destination fails after all, the bytes are saved to another
    /// file, which the error names.
    ///
    /// # Errors
    /// [`Error::Io`] when nothing could be written; [`Error::File`] when the bytes went to another
    /// file.
    pub fn write(&self, bytes: &[u8]) -> Result<PathBuf> {
        let written = self.fill(bytes.len() as u64, &mut |out| out.write_all(bytes));
        let keep = || if matches!(self.place, Place::Stream(_)) { None } else { keep(&self.path, bytes) };
        written.map_err(|error| match keep() {
            Some(kept) => {
                let kept = kept.display();
                Error::file(&self.path, format!("the file could not be written ({error}); it is kept as {kept}"))
            }
            None => Error::io(&self.path, error),
        })
    }

    /// Writes a file of `len` bytes that is too large for memory, and returns its name. `write`
    /// writes the bytes in order; it is called again if the first file that it wrote cannot take
    /// the place of an existing one. Existing files are treated as in
    /// [`OutputFile::write`]. The bytes of a file that fails are not saved.
    ///
    /// # Errors
    /// [`Error::File`] for a disk with less than `len` free bytes, before `write` is called;
    /// [`Error::Io`] for a file that cannot be written; errors of `write`, where those of this
    /// crate are inside of [`io::Error::other`].
    pub fn write_with(&self, len: u64, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> Result<PathBuf> {
        let on_disk = match &self.place {
            Place::Stream(_) => None,
            Place::File(target) => Some(target),
            Place::FirstFree => Some(&self.path),
        };
        if let Some(free) = on_disk.and_then(|target| free_space(folder(target)))
            && free < len
        {
            let problem = format!("the disk has {free} bytes left and the file needs {len}; free some space");
            return Err(Error::file(&self.path, problem));
        }
        self.fill(len, write).map_err(|error| match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => Error::io(&self.path, error),
        })
    }

    /// Writes a file of `len` bytes and returns its name.
    fn fill(&self, len: u64, fill: &mut Fill<'_>) -> io::Result<PathBuf> {
        match &self.place {
            Place::Stream(stream) => fill(&mut stream.writer()).map(|()| self.path.clone()),
            Place::File(target) => write_file(target, len, fill).map(|()| self.path.clone()),
            Place::FirstFree => write_first_free(&self.path, fill),
        }
    }

    /// The name that the user gave.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The kind of destination that a name resolves to.
enum Target {
    Descriptor(i32),
    Stream(Metadata),
    File(PathBuf),
}

impl Target {
    fn of(path: &Path) -> Result<Self> {
        let failed = |error| Error::io(path, error);
        if names_folder(path) {
            return Err(Error::file(path, FOLDER));
        }
        // The system decides whether links may be followed: in a shared folder it refuses links of
        // other users.
        let found = match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(Error::file(path, FOLDER)),
            Ok(found) => Some(found),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let mut target = path.to_owned();
        for _ in 0..MAX_LINKS {
            if let Some(number) = stream::descriptor(&target) {
                return Ok(Self::Descriptor(number));
            }
            let Ok(link) = fs::read_link(&target) else { break };
            target = folder(&target).join(link);
            if names_folder(&target) {
                return Err(Error::file(path, FOLDER));
            }
        }
        match found {
            Some(found) if !found.is_file() => Ok(Self::Stream(found)),
            // A link in another process's descriptors does not resolve to a name.
            Some(_) if !fs::symlink_metadata(&target).is_ok_and(|found| found.is_file()) => {
                Err(Error::file(path, "expected a file, found a link to a file without a name"))
            }
            _ => Ok(Self::File(target)),
        }
    }
}

/// True if only a folder can have this name: `a/`, `a/.`, `..`.
fn names_folder(path: &Path) -> bool {
    let text = path.as_os_str().to_string_lossy();
    let name = text.strip_suffix('.').unwrap_or(&text);
    path.file_name().is_none() || text.ends_with(std::path::is_separator) || name.ends_with(std::path::is_separator)
}

/// The folder of a file.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file next to `path` with the same extension.
fn with_extension_of(path: &Path, mut name: OsString) -> PathBuf {
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// Tries whether `target`, known to the user as `path`, can be written.
fn try_file(path: &Path, target: &Path) -> Result<()> {
    match overwrite::open(target) {
        // A file that can be opened for writing can be overwritten in place, independent of its
        // folder.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => try_folder(folder(target)),
        Err(error) => Err(Error::io(path, error)),
    }
}

/// Tries whether a file can be made in `folder` and removed again.
fn try_folder(folder: &Path) -> Result<()> {
    let tried = Temporary::create(folder, USUAL_MODE).and_then(Temporary::remove);
    tried.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::file(folder, "no such folder to write to; create it or choose another"),
        ErrorKind::NotADirectory => Error::file(folder, "expected a folder, found a file; choose another folder"),
        _ => Error::file(folder, format!("no file can be written here ({error}); choose another folder")),
    })
}

/// Writes a file of `len` bytes, over one that is there.
fn write_file(target: &Path, len: u64, fill: &mut Fill<'_>) -> io::Result<()> {
    match overwrite::open(target) {
        Ok(file) => overwrite::write(file, target, len, fill),
        Err(error) if error.kind() == ErrorKind::NotFound => whole(target, fill)?.replace(target),
        Err(error) => Err(error),
    }
}

/// Writes a file under the first free name after `path`. The file takes the name when it is
/// complete, so a process that dies leaves no empty file and two processes take two names.
fn write_first_free(path: &Path, fill: &mut Fill<'_>) -> io::Result<PathBuf> {
    let mut temporary = whole(path, fill)?;
    let names = (1..).map(|number| if number == 1 { path.to_owned() } else { OutputFile::numbered(path, number) });
    for name in names.filter(|name| fs::symlink_metadata(name).is_err()) {
        match temporary.take_name(&name) {
            Ok(()) => return Ok(name),
            Err((error, same)) if error.kind() == ErrorKind::AlreadyExists => temporary = same,
            Err((error, _)) => return Err(error),
        }
    }
    unreachable!("there is always another number")
}

/// A whole temporary file next to `target`.
fn whole(target: &Path, fill: &mut Fill<'_>) -> io::Result<Temporary> {
    let temporary = Temporary::create(folder(target), USUAL_MODE)?;
    fill(&mut temporary.file())?;
    temporary::sync(temporary.file())?;
    Ok(temporary)
}

/// Saves bytes that could not be written to a new file next to `path`, or else in the folder for
/// temporary files.
fn keep(path: &Path, bytes: &[u8]) -> Option<PathBuf> {
    let mut prefix = path.file_stem()?.to_owned();
    prefix.push("-kept-");
    let suffix = path.extension().map(|extension| format!(".{}", extension.display())).unwrap_or_default();
    [folder(path).to_owned(), std::env::temp_dir()].iter().find_map(|folder| {
        let mut file = tempfile::Builder::new().prefix(&prefix).suffix(&suffix).tempfile_in(folder).ok()?;
        file.write_all(bytes).ok()?;
        Some(file.keep().ok()?.1)
    })
}

#[cfg(test)]
mod tests;
