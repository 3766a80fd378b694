//! The memory of a recording, planned while its work is collected and allocated before it runs.
//!
//! No work runs while it is collected, so tensors need offsets but no memory yet. The total size is
//! known at the end and allocated at once; a replay never asks the driver for memory. An offset is
//! reused within the recording as soon as the last handle on its tensor is dropped, because work
//! runs in call order. Nothing outside the recording gets it, because a replay writes it again.

use super::arena::Arena;
use super::free_list::FreeList;
use crate::backend::gpu::lock;
use crate::error::{Error, Result};
use cudarc::driver::DriverError;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

/// More bytes than any device has: only the allocation itself can run out of memory.
const UNBOUNDED: u64 = 1 << 62;
/// Alignment of offsets; the driver's addresses have the same.
const ALIGNMENT: u64 = 512;

/// Offsets into one allocation, and its address once it is made.
pub(crate) struct Layout {
    source: Arc<Arena>,
    plan: Mutex<Plan>,
    start: OnceLock<u64>,
}

struct Plan {
    free_list: FreeList,
    /// The end of the last part that was ever taken.
    bytes: u64,
}

impl Layout {
    /// An empty layout that will be allocated from `source`.
    pub(crate) fn new(source: &Arc<Arena>) -> Arc<Self> {
        let mut free_list = FreeList::default();
        free_list.add_slab(0, UNBOUNDED, 0);
        let plan = Plan { free_list, bytes: 0 };
        Arc::new(Self { source: source.clone(), plan: Mutex::new(plan), start: OnceLock::new() })
    }

    /// Takes `bytes` and returns their offset and rounded size; not after [`Layout::allocate`].
    pub(crate) fn take(&self, bytes: u64) -> (u64, u64) {
        debug_assert!(self.start.get().is_none());
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

    /// Allocates the memory, once, and returns its address. Only the collector of the work calls
    /// it.
    pub(crate) fn allocate(&self) -> Result<u64, DriverError> {
        if let Some(start) = self.start.get() {
            return Ok(*start);
        }
        let bytes = self.bytes();
        let start = if bytes == 0 { 0 } else { self.source.take(bytes)? };
        Ok(*self.start.get_or_init(|| start))
    }

    /// The device address of an offset.
    pub(crate) fn address(&self, at: u64) -> Result<u64> {
        let start =
            self.start.get().ok_or_else(|| Error::shape("record", "its tensors have no memory before it is whole"))?;
        Ok(start + at)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        let bytes = self.bytes();
        if let Some(start) = self.start.get().filter(|_| bytes > 0) {
            self.source.give(*start, bytes);
        }
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layout({} bytes)", self.bytes())
    }
}
