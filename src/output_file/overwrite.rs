//! Overwriting an existing file.
//!
//! A new file with the same mode and owner replaces it, so that no reader finds half a file. If a
//! new file would differ for others (hard links, attributes, another owner) or is not allowed there
//! (a sticky or closed folder, a mount point), the bytes go into the old file.

use super::Fill;
use super::temporary::{Temporary, sync};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

/// Opens a file for overwriting, without changing it. A write-protected file is an error, also for
/// root, who may write it.
pub(super) fn open(target: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(target)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file any more"));
    }
    if found.permissions().readonly() {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "the file is write-protected"));
    }
    Ok(file)
}

/// Overwrites the file that was opened as `target` with `len` bytes.
pub(super) fn write(mut file: File, target: &Path, len: u64, fill: &mut Fill<'_>) -> io::Result<()> {
    let found = file.metadata()?;
    if is_alone(&file, &found)
        && let Ok(temporary) = Temporary::create(super::folder(target), super::USUAL_MODE)
    {
        // A full disk fails here, before the old file has changed.
        fill(&mut temporary.file()).and_then(|()| sync(temporary.file()))?;
        if inherit(temporary.file(), &found).is_ok() && temporary.replace(target).is_ok() {
            return Ok(());
        }
    }
    write_into(&mut file, found.len(), len, fill)
}

/// Writes into a file of `old` bytes. The file grows first: on a full disk that fails with the old
/// bytes intact.
fn write_into(file: &mut File, old: u64, len: u64, fill: &mut Fill<'_>) -> io::Result<()> {
    let mut missing = io::repeat(0).take(len.saturating_sub(old));
    let grown = file.seek(SeekFrom::Start(old)).and_then(|_| io::copy(&mut missing, file)).and_then(|_| sync(file));
    if let Err(error) = grown {
        // The first error is reported.
        let _ = file.set_len(old);
        return Err(error);
    }
    file.rewind()?;
    fill(file)?;
    file.set_len(len)?;
    sync(file)
}

/// True if the file has one name, and no attributes that a new file would lack.
#[cfg(unix)]
fn is_alone(file: &File, found: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(found) == 1 && !has_attributes(file)
}

#[cfg(not(unix))]
fn is_alone(_: &File, _: &Metadata) -> bool {
    true
}

/// True if a file has access lists or other extended attributes, besides the label that SELinux
/// gives every file.
#[cfg(target_os = "linux")]
fn has_attributes(file: &File) -> bool {
    use std::os::fd::AsRawFd;
    let mut names = [0u8; 1024];
    // SAFETY: the list is written into `names`, whose length is passed.
    let length = unsafe { libc::flistxattr(file.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    match usize::try_from(length) {
        Ok(length) => names[..length].split(|byte| *byte == 0).any(|name| !matches!(name, b"" | b"security.selinux")),
        Err(_) => io::Error::last_os_error().raw_os_error() == Some(libc::ERANGE),
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
fn has_attributes(_: &File) -> bool {
    false
}

/// Gives a new file the owner and the mode of an old one.
#[cfg(unix)]
fn inherit(new: &File, old: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let now = new.metadata()?;
    let differs = |old: u32, new: u32| (old != new).then_some(old);
    let (user, group) = (differs(old.uid(), now.uid()), differs(old.gid(), now.gid()));
    if user.is_some() || group.is_some() {
        fchown(new, user, group)?;
    }
    new.set_permissions(PermissionsExt::from_mode(old.mode() & 0o7777))
}

#[cfg(not(unix))]
fn inherit(_: &File, _: &Metadata) -> io::Result<()> {
    Ok(())
}
