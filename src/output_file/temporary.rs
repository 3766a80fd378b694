//! Temporary files next to the final files.
//!
//! Each is locked while its process lives, so that another process can distinguish a file in use
//! from one that a dead process left. This also works across containers, where process ids mean
//! nothing.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;
use tempfile::{Builder, NamedTempFile};

const PREFIX: &str = ".zimage-";
const SUFFIX: &str = ".tmp";
/// Maximum attempts to create a file that no other process takes for a leftover.
const ATTEMPTS: usize = 32;

/// A file under a temporary name. It is deleted on drop unless it has taken another name.
#[derive(Debug)]
pub(crate) struct Temporary(NamedTempFile);

impl Temporary {
    /// Creates an empty file in `folder`, on Unix with this mode minus the umask.
    pub(crate) fn create(folder: &Path, mode: u32) -> io::Result<Self> {
        for _ in 0..ATTEMPTS {
            let mut builder = Builder::new();
            builder.prefix(PREFIX).suffix(SUFFIX);
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
            #[cfg(not(unix))]
            let _ = mode;
            let file = builder.tempfile_in(folder)?;
            // Until the file is locked, another process may take it for a leftover; then another
            // name is tried. On a file system without locks no process can do so.
            let taken = matches!(file.as_file().try_lock(), Err(TryLockError::WouldBlock));
            if !taken && fs::symlink_metadata(file.path()).is_ok() {
                return Ok(Self(file));
            }
        }
        Err(io::Error::other("other processes remove the temporary files"))
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        self.0.as_file()
    }

    /// Takes the name `target`, replacing an existing file.
    pub(crate) fn replace(self, target: &Path) -> io::Result<()> {
        self.0.persist(target).map(drop).map_err(|failed| failed.error)
    }

    /// Takes the name `name` if it is free; else the file is returned with the error.
    pub(crate) fn take_name(self, name: &Path) -> Result<(), (io::Error, Self)> {
        let failed = match self.0.persist_noclobber(name) {
            Ok(_) => return Ok(()),
            Err(failed) if failed.error.kind() == ErrorKind::AlreadyExists => failed,
            // Some network file systems support neither a rename that spares the target nor hard
            // links.
            Err(failed) => match OpenOptions::new().write(true).create_new(true).open(name) {
                Ok(_) => match failed.file.persist(name) {
                    Ok(_) => return Ok(()),
                    Err(failed) => {
                        // The first error is reported.
                        let _ = fs::remove_file(name);
                        failed
                    }
                },
                Err(error) => return Err((error, Self(failed.file))),
            },
        };
        Err((failed.error, Self(failed.file)))
    }

    /// Removes the file.
    pub(crate) fn remove(self) -> io::Result<()> {
        self.0.close()
    }
}

/// Flushes a file's bytes to the disk, if the file system can.
pub(super) fn sync(file: &File) -> io::Result<()> {
    match file.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// Removes temporary files of dead processes from `folder`.
pub(crate) fn remove_leftovers(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(is_temporary);
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            // A leftover that cannot be removed does no harm.
            let _ = remove_if_left(&entry.path());
        }
    }
}

/// True for names of this program's temporary files.
fn is_temporary(name: &str) -> bool {
    let inner = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    inner.is_some_and(|inner| !inner.is_empty() && inner.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
}

fn remove_if_left(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path)?;
    // A file that has taken its final name meanwhile no longer has this name, and no other file
    // gets it.
    if file.try_lock().is_ok() { fs::remove_file(path) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_names_of_this_program_are_leftovers() {
        for name in [".zimage-aB3xYz.tmp", ".zimage-4711-0.tmp", ".zimage-1.tmp"] {
            assert!(is_temporary(name), "{name}");
        }
        for name in [".zimage-.tmp", ".zimage.tmp", "zimage-1.tmp", ".zimage-a b.tmp", ".zimage-1.tmp.png", ".zimage-1"]
        {
            assert!(!is_temporary(name), "{name}");
        }
    }

    #[test]
    fn leftovers_go_and_files_in_use_stay() {
        let folder = tempfile::tempdir().unwrap();
        let used = Temporary::create(folder.path(), 0o666).unwrap();
        fs::write(folder.path().join(".zimage-left12.tmp"), "half a picture").unwrap();
        fs::create_dir(folder.path().join(".zimage-folder.tmp")).unwrap();
        fs::write(folder.path().join("mine.tmp"), "").unwrap();
        remove_leftovers(folder.path());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        assert!(used.0.path().exists());
        used.remove().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn clean_up_neither_follows_links_nor_waits() {
        let folder = tempfile::tempdir().unwrap();
        let [link, pipe, mine] =
            [".zimage-link12.tmp", ".zimage-pipe12.tmp", "mine"].map(|name| folder.path().join(name));
        fs::write(&mine, "mine").unwrap();
        std::os::unix::fs::symlink(&mine, &link).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        remove_leftovers(folder.path());
        assert_eq!(fs::read(&mine).unwrap(), b"mine");
        assert!(fs::symlink_metadata(&link).is_ok() && fs::symlink_metadata(&pipe).is_ok());
    }

    #[test]
    fn a_taken_name_gives_the_file_back() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        fs::write(&taken, "mine").unwrap();
        let file = Temporary::create(folder.path(), 0o666).unwrap();
        file.file().write_all(b"new").unwrap();
        let (error, file) = file.take_name(&taken).unwrap_err();
        assert_eq!((error.kind(), fs::read(&taken).unwrap().as_slice()), (ErrorKind::AlreadyExists, &b"mine"[..]));
        file.take_name(&folder.path().join("free")).unwrap();
        assert_eq!(fs::read(folder.path().join("free")).unwrap(), b"new");
    }
}
