//! Device memory, and its reuse.
//!
//! All work goes through one queue, in the order it was called in. So a buffer may be written by a new verb as soon as
//! the last tensor on it is dropped: whatever still reads it was called before. Uploads are the exception, they happen
//! before the work that is still to be submitted, and therefore always get a buffer of their own.
//!
//! What a stage leaves is *kept*: the next picture wants the same again, and a driver takes long to hand out gigabytes. It
//! gives way before the buffers ever hold more than they did so far, so that keeping it takes no memory that a picture
//! would not have needed anyway.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeBounds;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Takes a lock; a panic elsewhere does not make its data worse.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many times as large as what is asked for a buffer may be before a new one is made.
const WASTE: u64 = 4;

/// Buffers by their size in bytes.
#[derive(Default)]
struct Buffers(BTreeMap<u64, Vec<wgpu::Buffer>>);

impl Buffers {
    /// The smallest of a size in `sizes`.
    fn take(&mut self, sizes: impl RangeBounds<u64>) -> Option<wgpu::Buffer> {
        self.0.range_mut(sizes).find_map(|(_, buffers)| buffers.pop())
    }

    fn take_largest(&mut self) -> Option<wgpu::Buffer> {
        self.0.values_mut().rev().find_map(Vec::pop)
    }

    fn put(&mut self, buffer: wgpu::Buffer) {
        self.0.entry(buffer.size()).or_default().push(buffer);
    }

    /// All of them, which leaves none.
    fn drain(&mut self) -> impl Iterator<Item = wgpu::Buffer> + use<> {
        std::mem::take(&mut self.0).into_values().flatten()
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(size, buffers)| size * buffers.len() as u64).sum()
    }
}

/// Buffers that no tensor uses. The backend has one pool, and every recording one of its own, because a recording's
/// memory is written again whenever it is replayed.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    /// Where a recording takes buffers from, and where they go when it is dropped.
    parent: Option<Arc<Pool>>,
}

#[derive(Default)]
struct State {
    /// What this stage has used.
    free: Buffers,
    /// What earlier stages left.
    kept: Buffers,
    /// Bytes of the buffers that were made and have not been let go of, and the most that there ever were.
    held: u64,
    peak: u64,
}

impl State {
    /// How many bytes more than ever there would be with another `bytes`.
    fn excess(&self, bytes: u64) -> u64 {
        (self.held + bytes).saturating_sub(self.peak)
    }
}

impl Pool {
    /// The pool of a recording.
    pub(super) fn child(parent: &Arc<Pool>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), parent: Some(parent.clone()) })
    }

    /// A buffer for `bytes`, not much larger than that.
    pub(super) fn take(&self, bytes: u64) -> Option<wgpu::Buffer> {
        let fitting = bytes..=bytes + bytes / 4;
        let own = {
            let State { free, kept, .. } = &mut *lock(&self.state);
            free.take(fitting.clone()).or_else(|| kept.take(fitting))
        };
        own.or_else(|| self.parent.as_ref().and_then(|parent| parent.take(bytes)))
    }

    /// A buffer for `bytes` where a new one would make them more than there ever were: a free one that is up to [`WASTE`]
    /// times as large, or one of an earlier stage, which would have to give way.
    pub(super) fn take_instead(&self, bytes: u64) -> Option<wgpu::Buffer> {
        let spacious = bytes..=bytes * WASTE;
        match &self.parent {
            None => {
                let mut state = lock(&self.state);
                let full = state.excess(bytes) > 0;
                full.then(|| state.free.take(spacious).or_else(|| state.kept.take(bytes..))).flatten()
            }
            Some(parent) if parent.is_full(bytes) => {
                let own = lock(&self.state).free.take(spacious);
                own.or_else(|| parent.take_instead(bytes))
            }
            Some(_) => None,
        }
    }

    /// Whether a new buffer of `bytes` would make them more than there ever were.
    fn is_full(&self, bytes: u64) -> bool {
        lock(&self.state).excess(bytes) > 0
    }

    fn give(&self, buffer: wgpu::Buffer) {
        lock(&self.state).free.put(buffer);
    }

    /// Ends a stage: what is free is kept for as long as nothing else wants its room.
    pub(super) fn keep(&self) {
        let State { free, kept, .. } = &mut *lock(&self.state);
        free.drain().for_each(|buffer| kept.put(buffer));
    }

    /// Has what earlier stages left give way to a new buffer of `bytes`: no more of it than has to.
    pub(super) fn make_room(&self, bytes: u64) {
        let mut state = lock(&self.state);
        while let excess @ 1.. = state.excess(bytes) {
            let Some(buffer) = state.kept.take(excess..).or_else(|| state.kept.take_largest()) else { break };
            state.held = state.held.saturating_sub(buffer.size());
        }
    }

    /// Lets go of everything that is free or kept here.
    pub(super) fn clear(&self) {
        let mut state = lock(&self.state);
        let bytes = state.free.bytes() + state.kept.bytes();
        state.held = state.held.saturating_sub(bytes);
        (state.free, state.kept) = Default::default();
    }

    /// Counts a buffer that is let go of instead of coming to a pool.
    fn gone(&self, bytes: u64) {
        let mut state = lock(&self.state);
        state.held = state.held.saturating_sub(bytes);
    }

    /// Counts a buffer that was made and will come to this pool, or to one of its recordings'.
    pub(super) fn made(&self, bytes: u64) {
        let mut state = lock(&self.state);
        state.held += bytes;
        state.peak = state.peak.max(state.held);
    }

    /// The most bytes that the buffers counted here ever had at once.
    pub(super) fn peak(&self) -> u64 {
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
        write!(f, "Pool({} bytes free, {} kept)", state.free.bytes(), state.kept.bytes())
    }
}

/// A buffer that goes to its pool when the last tensor on it is dropped, or is let go of where it is of no use to another.
#[derive(Debug)]
pub(super) struct Memory {
    buffer: wgpu::Buffer,
    home: Arc<Pool>,
    transient: AtomicBool,
}

impl Memory {
    pub(super) fn new(buffer: wgpu::Buffer, home: &Arc<Pool>) -> Arc<Self> {
        Arc::new(Self { buffer, home: home.clone(), transient: AtomicBool::new(false) })
    }

    /// Has the buffer let go of in the end: one that was only on the way to another, of a size that no tensor asks for.
    pub(super) fn let_go(&self) {
        self.transient.store(true, Ordering::Relaxed);
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
        if *self.transient.get_mut() {
            self.home.gone(self.buffer.size());
        } else {
            self.home.give(self.buffer.clone());
        }
    }
}
