//! Locks between processes, those of Python's `filelock` included: `flock` on Unix.

use super::cache::unwritable;
use super::retry::Stop;
use crate::error::Result;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(100);

/// A lock that is held until it is dropped. On a file system without locks it holds nothing: two
/// processes may then fetch the same bytes, which both write to the same places.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Option<File>,
}

impl Lock {
    /// Waits for the lock in `path`. `on_wait` is called once if another process has it.
    ///
    /// # Errors
    /// [`crate::Error::File`] if the file cannot be made; [`crate::Error::Cancelled`].
    pub(super) fn acquire(path: &Path, stop: &Stop, on_wait: &dyn Fn()) -> Result<Self> {
        let mut told = false;
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
            let file = file.map_err(|error| unwritable(path, &error))?;
            match file.try_lock() {
                // Python removes a lock's file when it lets go: the next owner makes a new one.
                Ok(()) if is_removed(&file) => {}
                Ok(()) => return Ok(Self { _file: Some(file) }),
                Err(TryLockError::Error(_)) => return Ok(Self { _file: None }),
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut told, true) {
                        on_wait();
                    }
                    stop.sleep(POLL)?;
                }
            }
        }
    }
}

#[cfg(unix)]
fn is_removed(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata().is_ok_and(|file| file.nlink() == 0)
}

#[cfg(not(unix))]
fn is_removed(_file: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_lock_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lock");
        let stop = Stop::default();
        let first = Lock::acquire(&path, &stop, &|| unreachable!()).unwrap();
        let waits = AtomicUsize::new(0);
        std::thread::scope(|threads| {
            let second = threads.spawn(|| {
                Lock::acquire(&path, &stop, &|| {
                    waits.fetch_add(1, Ordering::SeqCst);
                })
            });
            while waits.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            // As Python's filelock does.
            std::fs::remove_file(&path).unwrap();
            drop(first);
            second.join().unwrap().unwrap();
        });
        assert!(path.exists() && waits.load(Ordering::SeqCst) == 1);
    }

    #[test]
    fn waiting_can_be_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lock");
        let stop = Stop::default();
        let _first = Lock::acquire(&path, &stop, &|| ()).unwrap();
        assert!(matches!(Lock::acquire(&path, &stop, &|| stop.set()), Err(crate::Error::Cancelled)));
    }
}
