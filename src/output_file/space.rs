//! The free space of a disk.

use std::path::Path;

/// The bytes that this user may still write to the disk with `folder`; `None` if the system does
/// not tell.
#[cfg(unix)]
#[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
pub(crate) fn free_space(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: `statvfs` is plain numbers, for which zeros are valid, and the path ends in a zero.
    let (done, disk) = unsafe {
        let mut disk: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &raw mut disk), disk)
    };
    (done == 0).then(|| (disk.f_bavail as u64).saturating_mul(disk.f_frsize as u64))
}

#[cfg(not(unix))]
pub(crate) fn free_space(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_disk_has_some_space() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_space(folder.path()).is_some_and(|free| free > 0));
        assert_eq!(free_space(&folder.path().join("nowhere")), None);
    }
}
