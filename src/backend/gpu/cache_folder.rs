//! The user's cache folder, where backends store what they compiled.
//!
//! Failures are ignored: they only cost time.

use crate::output_file::{Temporary, remove_leftovers};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Larger files are ignored. A pipeline cache has a few million bytes.
const MAX_BYTES: u64 = 256 << 20;
/// Only this user may read or write an entry.
const MODE: u32 = 0o600;

/// The folder for files that this program can make again.
pub(super) fn folder() -> Option<PathBuf> {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = if cfg!(windows) {
        path("LOCALAPPDATA")
    } else {
        path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")))
    };
    Some(caches?.join("zimage"))
}

/// Reads a file that only this user can have written. Pipes, devices and huge files are skipped
/// without waiting for them.
pub(super) fn read(file: &Path) -> Option<Vec<u8>> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let open = options.open(file).ok()?;
    let found = open.metadata().ok()?;
    if !found.is_file() || found.len() > MAX_BYTES || !is_own(&open) {
        return None;
    }
    let mut bytes = Vec::new();
    open.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// True if this user owns the file and nobody else may write it: a driver runs its contents.
#[cfg(unix)]
fn is_own(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    // SAFETY: the call has no arguments and cannot fail.
    let user = unsafe { libc::geteuid() };
    file.metadata().is_ok_and(|found| found.uid() == user && found.mode() & 0o022 == 0)
}

#[cfg(not(unix))]
fn is_own(_: &File) -> bool {
    true
}

/// Replaces a file. Another process that reads it sees the old file or the new one.
pub(super) fn write(file: &Path, data: &[u8]) -> Option<()> {
    let folder = file.parent()?;
    fs::create_dir_all(folder).ok()?;
    remove_leftovers(folder);
    let temporary = Temporary::create(folder, MODE).ok()?;
    temporary.file().write_all(data).ok()?;
    temporary.replace(file).ok()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_own_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let f = folder.path();
        write(&f.join("own"), b"data").unwrap();
        assert_eq!(read(&f.join("own")).unwrap(), b"data");
        for mode in [0o620, 0o602, 0o666] {
            fs::set_permissions(f.join("own"), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&f.join("own")), None, "{mode:o}");
        }
        write(&f.join("own"), b"data").unwrap();
        assert_eq!(read(&f.join("own")).unwrap(), b"data", "a new file takes its place");
        if std::os::unix::fs::chown(f.join("own"), Some(12345), None).is_ok() {
            assert_eq!(read(&f.join("own")), None);
        }
        assert!(std::process::Command::new("mkfifo").arg(f.join("pipe")).status().unwrap().success());
        symlink("loop", f.join("loop")).unwrap();
        symlink("/dev/zero", f.join("zero")).unwrap();
        fs::create_dir(f.join("folder")).unwrap();
        File::create(f.join("huge")).unwrap().set_len(1 << 40).unwrap();
        for name in ["pipe", "loop", "zero", "folder", "huge", "missing"] {
            assert_eq!(read(&f.join(name)), None, "{name}");
        }
    }

    #[test]
    fn writing_replaces_links_and_pipes() {
        let folder = tempfile::tempdir().unwrap();
        let f = folder.path();
        fs::write(f.join("mine"), "mine").unwrap();
        symlink("mine", f.join("link")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(f.join("pipe")).status().unwrap().success());
        for name in ["link", "pipe", "new/deep"] {
            write(&f.join(name), b"data").unwrap();
            assert_eq!(read(&f.join(name)).unwrap(), b"data", "{name}");
        }
        assert_eq!(fs::read(f.join("mine")).unwrap(), b"mine");
        fs::create_dir(f.join("folder")).unwrap();
        assert_eq!((write(&f.join("folder"), b"data"), write(&f.join("mine/deep"), b"data")), (None, None));
        assert_eq!(fs::read_dir(f).unwrap().count(), 5);
    }
}
