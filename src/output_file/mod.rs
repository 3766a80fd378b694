//! The one writer for the files that a user names.
//!
//! A place is tried before the work, by the operations that it will see after it: links are
//! followed, the file is opened, a temporary file is made beside it. The bytes then go to a
//! temporary file that takes the name when it is whole, or into the file that is there where
//! a new one would lose its owner or its other names.

mod overwrite;
mod stream;
mod temporary;

pub(crate) use temporary::{Temporary, remove_leftovers};

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use stream::Stream;

/// The most links that are followed to a file, as Linux has it.
const MAX_LINKS: usize = 40;
/// The mode that the system's umask is taken from.
const USUAL_MODE: u32 = 0o666;
const FOLDER: &str = "expected the name of a file, found the name of a folder; name a file in it";

/// A place for a file, tried before the work and written after it.
#[derive(Debug)]
pub struct OutputFile {
    /// The name that the user gave.
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// A pipe, a character device or an open descriptor: bytes go to it as they are.
    Stream(Stream),
    /// The file that the name leads to, which is created or written over.
    File(PathBuf),
    /// The first of the numbered names that is free when the file is whole.
    FirstFree,
}

impl OutputFile {
    /// Opens the place that `path` names and tries whether a file can be written there. Nothing
    /// that is there changes, and nothing stays there until [`OutputFile::write`]. Links are
    /// followed, also to a file that is not there yet. A pipe, a character device or an open
    /// descriptor (`/dev/stdout`) is kept open and is never replaced.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Io`] when no file can be written there: its folder is missing
    /// or closed, a folder or a block device is there, the file is write-protected, nobody reads
    /// from the pipe.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_after(path, &mut None)
    }

    /// Opens several places, as [`OutputFile::open`] does one.
    ///
    /// # Errors
    /// As [`OutputFile::open`].
    pub fn open_each(paths: impl IntoIterator<Item = PathBuf>) -> Result<Vec<Self>> {
        let mut cleaned = None;
        paths.into_iter().map(|path| Self::open_after(&path, &mut cleaned)).collect()
    }

    /// Opens a folder for files that must not replace any: [`OutputFile::write`] takes the first
    /// free name of `path`, `NAME-2.EXT`, `NAME-3.EXT`, …, when the file is whole.
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

    /// Opens the place; `cleaned` is the folder whose leftovers were removed last.
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

    /// Whether `path` names a pipe, a device or an open descriptor, which take one file and have
    /// no numbered names beside them.
    pub fn is_stream(path: &Path) -> bool {
        matches!(Target::of(path), Ok(Target::Stream(_) | Target::Descriptor(_)))
    }

    /// Whether bytes go to this process's standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(&self.place, Place::Stream(stream) if stream.descriptor() == Some(stream::STDOUT))
    }

    /// The name of file `number`, from 1 up, of those that are numbered after `path`: `fox-1.png`.
    pub fn numbered(path: &Path, number: usize) -> PathBuf {
        let mut name = path.file_stem().unwrap_or_default().to_owned();
        name.push(format!("-{number}"));
        with_extension_of(path, name)
    }

    /// Writes the whole file and returns its name. A file that is there keeps its mode, its owner
    /// and its hard links; it holds the old bytes or the new ones, also after a crash, unless only
    /// writing into it keeps them. When the place refuses after all, the bytes are kept in a file
    /// of another name, which the error tells.
    ///
    /// # Errors
    /// [`Error::Io`] when nothing could be written; [`Error::File`] when the bytes went to another
    /// file.
    pub fn write(&self, bytes: &[u8]) -> Result<PathBuf> {
        let written = match &self.place {
            Place::Stream(stream) => {
                let done = stream.write(bytes).map(|()| self.path.clone());
                return done.map_err(|error| Error::io(&self.path, error));
            }
            Place::File(target) => write_file(target, bytes).map(|()| self.path.clone()),
            Place::FirstFree => write_first_free(&self.path, bytes),
        };
        written.map_err(|error| match keep(&self.path, bytes) {
            Some(kept) => {
                let kept = kept.display();
                Error::file(&self.path, format!("the file could not be written ({error}); it is kept as {kept}"))
            }
            None => Error::io(&self.path, error),
        })
    }
}

/// The kind of place that a name leads to.
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
        // The system decides whether the links may be followed: in a shared folder it refuses
        // those of other users.
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
            // A link of another process's descriptors leads to no name.
            Some(_) if !fs::symlink_metadata(&target).is_ok_and(|found| found.is_file()) => {
                Err(Error::file(path, "expected a file, found a link to a file without a name"))
            }
            _ => Ok(Self::File(target)),
        }
    }
}

/// Whether only a folder can have this name: `a/`, `a/.`, `..`.
fn names_folder(path: &Path) -> bool {
    let text = path.as_os_str().to_string_lossy();
    let name = text.strip_suffix('.').unwrap_or(&text);
    path.file_name().is_none() || text.ends_with(std::path::is_separator) || name.ends_with(std::path::is_separator)
}

/// The folder that a file is in.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file beside `path` with its extension.
fn with_extension_of(path: &Path, mut name: OsString) -> PathBuf {
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// Tries whether `target`, which the user calls `path`, can be written.
fn try_file(path: &Path, target: &Path) -> Result<()> {
    match overwrite::open(target) {
        // A file that can be opened for writing can be written into, whatever its folder allows.
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

/// Writes a file over the one that is there.
fn write_file(target: &Path, bytes: &[u8]) -> io::Result<()> {
    match overwrite::open(target) {
        Ok(file) => overwrite::write(file, target, bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => whole(target, bytes)?.replace(target),
        Err(error) => Err(error),
    }
}

/// Writes a file under the first free name after `path`, which it takes when it is whole, so that
/// a process that dies leaves no empty file and two at once take two names.
fn write_first_free(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let mut temporary = whole(path, bytes)?;
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

/// A temporary file beside `target` that holds these bytes.
fn whole(target: &Path, bytes: &[u8]) -> io::Result<Temporary> {
    let mut temporary = Temporary::create(folder(target), USUAL_MODE)?;
    temporary.write(bytes)?;
    temporary::sync(temporary.file())?;
    Ok(temporary)
}

/// Keeps bytes that found no place in a new file beside `path`, or else in the folder for
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
