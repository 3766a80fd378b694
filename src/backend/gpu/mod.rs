//! Host code that both GPU backends share.

mod cache_folder;
pub(super) mod disk_cache;
pub(super) mod frequencies;
pub(super) mod quantized;
pub(super) mod residual_norm;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock. Data behind a poisoned lock stays usable: every holder leaves it valid.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
