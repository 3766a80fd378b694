//! The device: adapters, shader variants, faults and compiled pipelines.

pub(crate) mod adapters;
pub(crate) mod device;
mod faults;
mod pipeline_cache;
pub(crate) mod pipelines;
pub(crate) mod signal;
pub(crate) mod variant;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock. Data behind a poisoned lock stays usable: every holder leaves it valid.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
