//! The memory of a recording, planned while its work is collected and allocated before it runs.
//!
//! No work runs while it is collected, so tensors need offsets but no memory yet. The total size is
//! known at the end and allocated at once; a replay never asks the driver for memory. An offset is
//! reused within the recording as soon as the last handle on its tensor is dropped, because work
//! runs in call order.
//!
//! Recordings share memory: replays run one after another, and the tensors of a recording are valid
//! until another one is replayed. So the decoder of a picture costs no memory beside the denoising
//! loop.

use super::arena::Arena;
use super::free_list::FreeList;
use crate::backend::gpu::lock;
use crate::error::{Error, Result};
use cudarc::driver::DriverError;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// More bytes than any device has: only the allocation itself can run out of memory.
const UNBOUNDED: u64 = 1 << 62;
/// Alignment of offsets; the driver's addresses have the same.
const ALIGNMENT: u64 = 512;

/// The memory of recordings.
#[derive(Debug)]
pub(crate) struct RecordingMemory {
    arena: Arc<Arena>,
    latest: Mutex<Weak<Shared>>,
}

impl RecordingMemory {
    /// Memory from `arena`.
    pub(crate) fn new(arena: Arc<Arena>) -> Arc<Self> {
        Arc::new(Self { arena, latest: Mutex::default() })
    }

    /// Frees memory that no recording uses.
    pub(crate) fn trim(&self) {
        self.arena.trim();
    }

    /// Memory of at least `bytes`: the latest recording's, if `share` allows it and it is large
    /// enough.
    fn take(&self, bytes: u64, share: bool) -> Result<Arc<Shared>, DriverError> {
        let mut latest = lock(&self.latest);
        if let Some(shared) = latest.upgrade().filter(|shared| share && shared.bytes >= bytes) {
            return Ok(shared);
        }
        let made = Arc::new(Shared { arena: self.arena.clone(), address: self.arena.take(bytes)?, bytes });
        *latest = Arc::downgrade(&made);
        Ok(made)
    }
}

/// One allocation, of one recording or of several.
#[derive(Debug)]
struct Shared {
    arena: Arc<Arena>,
    address: u64,
    bytes: u64,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.arena.give(self.address, self.bytes);
    }
}

/// Offsets into one allocation, and the allocation once it is made.
pub(crate) struct Layout {
    source: Arc<RecordingMemory>,
    plan: Mutex<Plan>,
    /// `None` inside for a layout without tensors.
    memory: OnceLock<Option<Arc<Shared>>>,
}

struct Plan {
    free_list: FreeList,
    /// The end of the last part that was ever taken.
    bytes: u64,
}

impl Layout {
    /// An empty layout that will be allocated from `source`.
    pub(crate) fn new(source: &Arc<RecordingMemory>) -> Arc<Self> {
        let mut free_list = FreeList::default();
        free_list.add_slab(0, UNBOUNDED, 0);
        let plan = Plan { free_list, bytes: 0 };
        Arc::new(Self { source: source.clone(), plan: Mutex::new(plan), memory: OnceLock::new() })
    }

    /// Takes `bytes` and returns their offset and rounded size; not after [`Layout::allocate`].
    pub(crate) fn take(&self, bytes: u64) -> (u64, u64) {
        debug_assert!(self.memory.get().is_none());
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        let plan = &mut *lock(&self.plan);
        let at = plan.free_list.take(bytes).unwrap_or(UNBOUNDED);
        plan.bytes = plan.bytes.max(at + bytes);
        (at, bytes)
    }

    /// Returns a part.
    pub(crate) fn give(&self, at: u64, bytes: u64) {
        lock(&self.plan).free_list.give(at, bytes);
    }

    /// The total size.
    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.plan).bytes
    }

    /// Allocates the memory, once, and returns its address. `share` allows the memory of another
    /// recording. Only the collector of the work calls it.
    pub(crate) fn allocate(&self, share: bool) -> Result<u64, DriverError> {
        let memory = match self.memory.get() {
            Some(memory) => memory,
            None => {
                let bytes = self.bytes();
                let made = if bytes == 0 { None } else { Some(self.source.take(bytes, share)?) };
                self.memory.get_or_init(|| made)
            }
        };
        Ok(memory.as_ref().map_or(0, |memory| memory.address))
    }

    /// The device address of an offset.
    pub(crate) fn address(&self, at: u64) -> Result<u64> {
        let memory = self.memory.get();
        let memory = memory.ok_or_else(|| Error::shape("record", "its tensors have no memory before it is whole"))?;
        Ok(memory.as_ref().map_or(0, |memory| memory.address) + at)
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layout({} bytes)", self.bytes())
    }
}
