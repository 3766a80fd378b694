//! Device memory, and its reuse.
//!
//! All work goes through one queue, in the order it was called in. So a buffer may be written by a new verb as soon as
//! the last tensor on it is dropped: whatever still reads it was called before. Uploads are the exception, they happen
//! before the work that is still to be submitted, and therefore always get a buffer of their own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Takes a lock; a panic elsewhere does not make its data worse.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Buffers that no tensor uses. The backend has one pool, and every recording one of its own, because a recording's
/// memory is written again whenever it is replayed.
#[derive(Default)]
pub(super) struct Pool {
    free: Mutex<BTreeMap<u64, Vec<wgpu::Buffer>>>,
    /// Where a recording takes buffers from, and where they go when it is dropped.
    parent: Option<Arc<Pool>>,
    held: Mutex<Held>,
}

/// Bytes of the buffers that were made and have not been let go of.
#[derive(Debug, Default)]
struct Held {
    now: u64,
    peak: u64,
}

impl Pool {
    /// The pool of a recording.
    pub(super) fn child(parent: &Arc<Pool>) -> Arc<Self> {
        Arc::new(Self { free: Mutex::default(), parent: Some(parent.clone()), held: Mutex::default() })
    }

    /// A buffer for `bytes`, not much larger than that.
    pub(super) fn take(&self, bytes: u64) -> Option<wgpu::Buffer> {
        let own = {
            let mut free = lock(&self.free);
            let fitting = free.range_mut(bytes..=bytes + bytes / 4).find(|(_, buffers)| !buffers.is_empty());
            fitting.and_then(|(_, buffers)| buffers.pop())
        };
        own.or_else(|| self.parent.as_ref().and_then(|parent| parent.take(bytes)))
    }

    fn give(&self, buffer: wgpu::Buffer) {
        lock(&self.free).entry(buffer.size()).or_default().push(buffer);
    }

    /// Lets go of everything that is free here.
    pub(super) fn clear(&self) {
        let free = std::mem::take(&mut *lock(&self.free));
        let bytes: u64 = free.iter().map(|(size, buffers)| size * buffers.len() as u64).sum();
        let mut held = lock(&self.held);
        held.now = held.now.saturating_sub(bytes);
    }

    /// Counts a buffer that was made and will come to this pool, or to one of its recordings'.
    pub(super) fn made(&self, bytes: u64) {
        let mut held = lock(&self.held);
        held.now += bytes;
        held.peak = held.peak.max(held.now);
    }

    /// The most bytes that the buffers counted here ever had at once.
    pub(super) fn peak(&self) -> u64 {
        lock(&self.held).peak
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(parent) = &self.parent {
            let free = std::mem::take(&mut *lock(&self.free));
            free.into_values().flatten().for_each(|buffer| parent.give(buffer));
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free = lock(&self.free);
        let bytes: u64 = free.iter().map(|(size, buffers)| size * buffers.len() as u64).sum();
        write!(f, "Pool({bytes} bytes free)")
    }
}

/// A buffer that goes to its pool when the last tensor on it is dropped.
#[derive(Debug)]
pub(super) struct Memory {
    buffer: wgpu::Buffer,
    home: Arc<Pool>,
}

impl Memory {
    pub(super) fn new(buffer: wgpu::Buffer, home: &Arc<Pool>) -> Arc<Self> {
        Arc::new(Self { buffer, home: home.clone() })
    }

    pub(super) fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Whether this memory will go to `pool`.
    pub(super) fn belongs_to(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.home, pool)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.home.give(self.buffer.clone());
    }
}
