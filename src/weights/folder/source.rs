//! The places that a model's files are read from: a folder on disk, the binary itself, or remote
//! files.

use crate::error::{Error, Result};
use crate::weights::file::{ModelFile, OpenFiles, missing};
use crate::weights::remote::RemoteFiles;
use bytes::Bytes;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// The first line of the text file that git leaves in place of a large file it has not fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
/// Maximum bytes of such a file.
const LONGEST_LFS_POINTER: u64 = 1024;

/// A set of files by their path, relative to the source and separated by `/`.
#[derive(Clone)]
pub(super) enum Source {
    Disk(PathBuf, OpenFiles),
    Memory { name: String, files: &'static [(&'static str, &'static [u8])] },
    Remote { name: String, files: Arc<dyn RemoteFiles> },
}

impl Source {
    /// The path of a file, for messages. The file need not exist.
    pub(super) fn path(&self, relative: &str) -> PathBuf {
        match self {
            Source::Disk(root, _) => root.join(relative),
            Source::Memory { name, .. } | Source::Remote { name, .. } => Path::new(name).join(relative),
        }
    }

    /// True if a file exists at this path.
    pub(super) async fn exists(&self, relative: &str) -> Result<bool> {
        Ok(match self {
            Source::Disk(root, _) => stays_inside(relative) && is_file(&root.join(relative))?,
            Source::Memory { files, .. } => files.iter().any(|(path, _)| *path == relative),
            Source::Remote { files, .. } => stays_inside(relative) && files.size(relative).await?.is_some(),
        })
    }

    /// A file to read in parts.
    ///
    /// # Errors
    /// [`Error::Io`] for system errors, [`Error::File`] if the path does not exist, is not a file,
    /// or is a git-lfs pointer; errors of remote files.
    pub(super) async fn file(&self, relative: &str) -> Result<ModelFile> {
        let path = self.path(relative);
        if !stays_inside(relative) {
            return Err(Error::file(&path, "expected a path inside the model's folder"));
        }
        let file = match self {
            Source::Disk(_, open) => ModelFile::open(&path, open)?,
            Source::Memory { files, .. } => match files.iter().find(|(path, _)| *path == relative) {
                Some((_, bytes)) => ModelFile::in_memory(path, Bytes::from_static(bytes)),
                None => return Err(missing(&path)),
            },
            Source::Remote { files, .. } => match files.size(relative).await? {
                Some(len) => ModelFile::remote(path, len, files.clone(), relative),
                None => return Err(missing(&path)),
            },
        };
        check_fetched(&file).await?;
        Ok(file)
    }

    /// The names of the files in one folder, for messages that list them; empty if the folder does
    /// not exist or cannot be listed.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder exists and may not be read.
    pub(super) async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let mut names: Vec<String> = match self {
            Source::Disk(root, _) => {
                let folder = root.join(folder);
                match fs::read_dir(&folder) {
                    Ok(entries) => {
                        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
                    }
                    Err(e) if is_absent(&e) => Vec::new(),
                    Err(e) => return Err(Error::io(&folder, e)),
                }
            }
            Source::Memory { files, .. } => files
                .iter()
                .filter_map(|(path, _)| path.strip_prefix(folder)?.strip_prefix('/'))
                .map(str::to_owned)
                .collect(),
            Source::Remote { files, .. } => files.list(folder).await.unwrap_or_default(),
        };
        names.sort();
        Ok(names)
    }

    /// Checks that no file on disk that is still read from has changed since it was opened.
    ///
    /// # Errors
    /// [`Error::File`] that names the changed file.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        match self {
            Source::Disk(_, open) => open.check(),
            Source::Memory { .. } | Source::Remote { .. } => Ok(()),
        }
    }
}

impl fmt::Debug for Source {
    /// Omits the bytes of a model in memory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Disk(root, _) => write!(f, "{}", root.display()),
            Source::Memory { name, files } => write!(f, "{name}, {} files in memory", files.len()),
            Source::Remote { name, files } => write!(f, "{name}, {files:?}"),
        }
    }
}

/// Refuses a git-lfs pointer in place of a file.
pub(super) async fn check_fetched(file: &ModelFile) -> Result<()> {
    if file.len <= LONGEST_LFS_POINTER && file.read(0..file.len).await?.starts_with(LFS_POINTER) {
        return Err(Error::file(&file.path, "this is a git-lfs pointer, not the file itself; run git lfs pull"));
    }
    Ok(())
}

fn stays_inside(relative: &str) -> bool {
    !relative.is_empty() && Path::new(relative).components().all(|part| matches!(part, Component::Normal(_)))
}

/// True if a file exists at `path`; an error if the system cannot tell.
fn is_file(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(kind) => Ok(kind.is_file()),
        Err(e) if is_absent(&e) => Ok(false),
        Err(e) => Err(Error::io(path, e)),
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
