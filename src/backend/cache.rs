//! The user's cache folder, where backends keep what they compiled.
//!
//! Whatever goes wrong here costs time and nothing else, so it is not an error.

use std::fs;
use std::path::{Path, PathBuf};

/// Where this program may keep what it can make again.
pub(super) fn folder() -> Option<PathBuf> {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = if cfg!(windows) {
        path("LOCALAPPDATA")
    } else {
        path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")))
    };
    Some(caches?.join("zimage"))
}

/// Writes a file that another process may be reading or writing: it sees the old file or the new one.
pub(super) fn write(file: &Path, data: &[u8]) -> Option<()> {
    fs::create_dir_all(file.parent()?).ok()?;
    let part = file.with_extension(std::process::id().to_string());
    let written = fs::write(&part, data).and_then(|()| fs::rename(&part, file));
    if written.is_err() {
        fs::remove_file(&part).ok()?;
    }
    Some(())
}
