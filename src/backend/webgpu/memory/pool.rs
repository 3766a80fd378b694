//! Device memory and its reuse.
//!
//! All work goes through one queue in call order. So a new op may write a buffer as soon as the
//! last tensor on it is dropped: everything that still reads it was called before. Uploads are the
//! exception. They run before work that is still to be submitted, so each has a buffer of its own.
//!
//! Free buffers are cached across stages, because drivers allocate slowly and the next picture
//! needs the same sizes. A cached buffer is freed before an allocation would raise the peak, so
//! caching costs no memory. With a limit, all free and cached buffers are freed before an
//! allocation that would exceed it, and an allocation that still would is out of memory.
//!
//! Buffers in host memory belong to no pool.

use super::pageable::Pageable;
use crate::backend::gpu::lock;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeBounds;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Largest ratio of a reused buffer's size to the requested size, when a new buffer would raise the
/// peak.
const MAX_WASTE: u64 = 4;

/// Buffers by their size in bytes.
#[derive(Default)]
struct Buffers(BTreeMap<u64, Vec<wgpu::Buffer>>);

impl Buffers {
    /// Takes the smallest buffer with a size in `sizes`.
    fn take(&mut self, sizes: impl RangeBounds<u64>) -> Option<wgpu::Buffer> {
        self.0.range_mut(sizes).find_map(|(_, buffers)| buffers.pop())
    }

    fn take_largest(&mut self) -> Option<wgpu::Buffer> {
        self.0.values_mut().rev().find_map(Vec::pop)
    }

    fn put(&mut self, buffer: wgpu::Buffer) {
        self.0.entry(buffer.size()).or_default().push(buffer);
    }

    fn drain(&mut self) -> impl Iterator<Item = wgpu::Buffer> + use<> {
        std::mem::take(&mut self.0).into_values().flatten()
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(size, buffers)| size * buffers.len() as u64).sum()
    }
}

/// Buffers that no tensor uses. The backend has one pool, and each recording its own, because a
/// replay writes the recording's memory again.
#[derive(Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
    /// The pool that a recording takes buffers from, and returns them to when it is dropped.
    parent: Option<Arc<Pool>>,
}

#[derive(Default)]
struct State {
    /// Free buffers of the current stage.
    free: Buffers,
    /// Free buffers of earlier stages.
    cached: Buffers,
    /// Bytes of all buffers that are allocated, and their peak.
    allocated: u64,
    peak: u64,
    /// The most bytes to allocate; `None` for all that the device has.
    limit: Option<u64>,
}

impl State {
    /// Bytes by which another `bytes` would raise the peak.
    fn excess(&self, bytes: u64) -> u64 {
        (self.allocated + bytes).saturating_sub(self.peak)
    }
}

impl Pool {
    /// The pool of a recording.
    pub(crate) fn child(parent: &Arc<Pool>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), parent: Some(parent.clone()) })
    }

    /// Takes a buffer of at least `bytes` and at most a quarter more.
    pub(crate) fn take(&self, bytes: u64) -> Option<wgpu::Buffer> {
        let fitting = bytes..=bytes + bytes / 4;
        let own = {
            let State { free, cached, .. } = &mut *lock(&self.state);
            free.take(fitting.clone()).or_else(|| cached.take(fitting))
        };
        own.or_else(|| self.parent.as_ref().and_then(|parent| parent.take(bytes)))
    }

    /// Takes a larger buffer when a new one of `bytes` would raise the peak: a free one of up to
    /// [`MAX_WASTE`] times the size, or a cached one of any size, which would have to be freed
    /// anyway.
    pub(crate) fn take_instead(&self, bytes: u64) -> Option<wgpu::Buffer> {
        let spacious = bytes..=bytes * MAX_WASTE;
        match &self.parent {
            None => {
                let mut state = lock(&self.state);
                let full = state.excess(bytes) > 0;
                full.then(|| state.free.take(spacious).or_else(|| state.cached.take(bytes..))).flatten()
            }
            Some(parent) if parent.is_full(bytes) => {
                let own = lock(&self.state).free.take(spacious);
                own.or_else(|| parent.take_instead(bytes))
            }
            Some(_) => None,
        }
    }

    /// Whether a new buffer of `bytes` would raise the peak.
    fn is_full(&self, bytes: u64) -> bool {
        lock(&self.state).excess(bytes) > 0
    }

    fn give(&self, buffer: wgpu::Buffer) {
        lock(&self.state).free.put(buffer);
    }

    /// Ends a stage: free buffers become cached ones.
    pub(crate) fn end_stage(&self) {
        let State { free, cached, .. } = &mut *lock(&self.state);
        free.drain().for_each(|buffer| cached.put(buffer));
    }

    /// Frees as few cached buffers as a new buffer of `bytes` needs to leave the peak as it is.
    pub(crate) fn evict(&self, bytes: u64) {
        let mut state = lock(&self.state);
        loop {
            let excess = state.excess(bytes);
            if excess == 0 {
                break;
            }
            let Some(buffer) = state.cached.take(excess..).or_else(|| state.cached.take_largest()) else { break };
            state.allocated = state.allocated.saturating_sub(buffer.size());
        }
    }

    /// Frees every free and every cached buffer.
    pub(crate) fn clear(&self) {
        let mut state = lock(&self.state);
        let bytes = state.free.bytes() + state.cached.bytes();
        state.allocated = state.allocated.saturating_sub(bytes);
        state.free = Buffers::default();
        state.cached = Buffers::default();
    }

    /// Counts a buffer that is freed instead of returning to a pool.
    fn freed(&self, bytes: u64) {
        let mut state = lock(&self.state);
        state.allocated = state.allocated.saturating_sub(bytes);
    }

    /// Counts a new buffer that will return to this pool, or to a recording's.
    pub(super) fn allocated(&self, bytes: u64) {
        let mut state = lock(&self.state);
        state.allocated += bytes;
        state.peak = state.peak.max(state.allocated);
    }

    /// Limits the bytes of all buffers counted here.
    pub(crate) fn limit(&self, bytes: u64) {
        lock(&self.state).limit = Some(bytes);
    }

    /// The limit, if a new buffer of `bytes` would exceed it.
    pub(super) fn exceeded(&self, bytes: u64) -> Option<u64> {
        let state = lock(&self.state);
        state.limit.filter(|limit| state.allocated.saturating_add(bytes) > *limit)
    }

    /// The bytes that the limit leaves, with those of free and cached buffers; `None` without a
    /// limit.
    pub(crate) fn left(&self) -> Option<u64> {
        let state = lock(&self.state);
        let used = state.allocated.saturating_sub(state.free.bytes() + state.cached.bytes());
        state.limit.map(|limit| limit.saturating_sub(used))
    }

    /// The peak of the bytes of all buffers counted here.
    pub(crate) fn peak(&self) -> u64 {
        lock(&self.state).peak
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(parent) = &self.parent {
            lock(&self.state).free.drain().for_each(|buffer| parent.give(buffer));
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        write!(f, "Pool({} bytes free, {} cached)", state.free.bytes(), state.cached.bytes())
    }
}

/// The memory of a tensor.
#[derive(Debug)]
pub(crate) enum Memory {
    /// A buffer in device memory.
    Device {
        buffer: wgpu::Buffer,
        /// The pool that it returns to when the last tensor on it is dropped.
        home: Arc<Pool>,
        /// Whether it is freed instead.
        temporary: AtomicBool,
    },
    /// A buffer in host memory, which no pool counts.
    Host(wgpu::Buffer),
    /// A streamed weight without a buffer.
    Pageable(Pageable),
}

impl Memory {
    pub(crate) fn new(buffer: wgpu::Buffer, home: &Arc<Pool>) -> Arc<Self> {
        Arc::new(Self::Device { buffer, home: home.clone(), temporary: AtomicBool::new(false) })
    }

    /// True for memory that is copied to the device before each use.
    pub(crate) fn is_of_host(&self) -> bool {
        !matches!(self, Self::Device { .. })
    }

    /// The pieces in pageable memory.
    pub(crate) fn as_pageable(&self) -> Option<&Pageable> {
        match self {
            Self::Pageable(pageable) => Some(pageable),
            Self::Device { .. } | Self::Host(_) => None,
        }
    }

    /// Has the buffer freed in the end, because no tensor will ask for its size.
    pub(crate) fn free_on_drop(&self) {
        if let Self::Device { temporary, .. } = self {
            temporary.store(true, Ordering::Relaxed);
        }
    }

    /// The buffer.
    ///
    /// # Panics
    /// For pageable memory, which is staged before anything is bound.
    pub(crate) fn buffer(&self) -> &wgpu::Buffer {
        match self {
            Self::Device { buffer, .. } | Self::Host(buffer) => buffer,
            Self::Pageable(pageable) => panic!("{pageable:?} is bound"),
        }
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Device { buffer, .. } | Self::Host(buffer) => buffer.size(),
            Self::Pageable(pageable) => pageable.bytes(),
        }
    }

    /// Whether this memory will return to `pool`.
    pub(crate) fn belongs_to(&self, pool: &Arc<Pool>) -> bool {
        matches!(self, Self::Device { home, .. } if Arc::ptr_eq(home, pool))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Self::Device { buffer, home, temporary } = self {
            match *temporary.get_mut() {
                true => home.freed(buffer.size()),
                false => home.give(buffer.clone()),
            }
        }
    }
}
