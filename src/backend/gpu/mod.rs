//! Host code that both GPU backends share.

mod cache_folder;
pub(super) mod disk_cache;
#[cfg(feature = "cuda")]
pub(super) mod frequencies;
#[cfg(feature = "cuda")]
pub(super) mod residual_norm;

#[cfg(feature = "cuda")]
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock. Data behind a poisoned lock stays usable: every holder leaves it valid.
#[cfg(feature = "cuda")]
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
