//! The memory of a recording, planned while its work is collected and allocated before it runs.
//!
//! No work runs while it is collected, so its tensors need no memory yet, only a lifetime: from the
//! op that makes a tensor to the drop of the last handle on it, because work runs in call order.
//! Once all lifetimes are known, [`packed`] gives each tensor an offset, and one allocation holds
//! them all; a replay never asks the driver for memory.
//!
//! Recordings share memory: replays run one after another, and the tensors of a recording are valid
//! until another one is replayed. So the decoder of a picture costs no memory beside the denoising
//! loop.

use super::arena::Arena;
use crate::backend::gpu::lock;
use crate::error::{Error, Result};
use cudarc::driver::DriverError;
use std::cmp::Reverse;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// Alignment of offsets; the driver's addresses have the same.
pub(super) const ALIGNMENT: u64 = 512;

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

/// The tensors of a recording, and their allocation once it is made.
pub(crate) struct Layout {
    source: Arc<RecordingMemory>,
    parts: Mutex<Parts>,
    packing: OnceLock<Packing>,
    /// `None` inside for a layout without tensors.
    memory: OnceLock<Option<Arc<Shared>>>,
}

#[derive(Debug, Default)]
struct Parts {
    parts: Vec<Part>,
    /// The number of times that a part was taken or returned.
    now: usize,
}

/// A tensor's size, and its lifetime as a range of [`Parts::now`].
#[derive(Debug)]
struct Part {
    bytes: u64,
    life: Range<usize>,
}

/// An offset for each part.
#[derive(Debug, PartialEq, Eq)]
struct Packing {
    offsets: Vec<u64>,
    bytes: u64,
}

/// Places the parts one by one, the largest first, each in the smallest gap that fits between the
/// parts placed so far that live at the same time: "greedy by size for offset calculation" of
/// Pisarchyk and Lee, arXiv 2001.03288.
fn packed(parts: &[Part]) -> Packing {
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|&part| Reverse(parts[part].bytes));
    let mut packing = Packing { offsets: vec![0; parts.len()], bytes: 0 };
    // Ascending offsets.
    let mut placed: Vec<usize> = Vec::with_capacity(parts.len());
    for index in order {
        let Part { bytes, life } = &parts[index];
        let mut end = 0;
        let mut best: Option<(u64, u64)> = None;
        for &other in &placed {
            let (start, other) = (packing.offsets[other], &parts[other]);
            if other.life.start >= life.end || life.start >= other.life.end {
                continue;
            }
            if start >= end + bytes && best.is_none_or(|(gap, _)| start - end < gap) {
                best = Some((start - end, end));
            }
            end = end.max(start + other.bytes);
        }
        let offset = best.map_or(end, |(_, start)| start);
        packing.offsets[index] = offset;
        packing.bytes = packing.bytes.max(offset + bytes);
        placed.insert(placed.partition_point(|&other| packing.offsets[other] <= offset), index);
    }
    packing
}

impl Layout {
    /// An empty layout that will be allocated from `source`.
    pub(crate) fn new(source: &Arc<RecordingMemory>) -> Arc<Self> {
        let (packing, memory) = (OnceLock::new(), OnceLock::new());
        Arc::new(Self { source: source.clone(), parts: Mutex::default(), packing, memory })
    }

    /// Takes a part of `bytes` and returns its index and rounded size; not after
    /// [`Layout::allocate`].
    pub(crate) fn take(&self, bytes: u64) -> (u64, u64) {
        debug_assert!(self.packing.get().is_none());
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        let Parts { parts, now } = &mut *lock(&self.parts);
        parts.push(Part { bytes, life: *now..usize::MAX });
        *now += 1;
        (parts.len() as u64 - 1, bytes)
    }

    /// Returns a part.
    pub(crate) fn give(&self, index: u64) {
        let Parts { parts, now } = &mut *lock(&self.parts);
        parts[index as usize].life.end = *now;
        *now += 1;
    }

    fn packing(&self) -> &Packing {
        self.packing.get_or_init(|| packed(&lock(&self.parts).parts))
    }

    /// The total size; no part is taken afterwards.
    pub(crate) fn bytes(&self) -> u64 {
        self.packing().bytes
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

    /// The device address of a part.
    pub(crate) fn address(&self, index: u64) -> Result<u64> {
        let memory = self.memory.get();
        let memory = memory.ok_or_else(|| Error::shape("record", "its tensors have no memory before it is whole"))?;
        Ok(memory.as_ref().map_or(0, |memory| memory.address) + self.packing().offsets[index as usize])
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layout({} parts)", lock(&self.parts).parts.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::splitmix64;

    fn parts(of: &[(u64, Range<usize>)]) -> Vec<Part> {
        of.iter().map(|(bytes, life)| Part { bytes: *bytes, life: life.clone() }).collect()
    }

    /// The most bytes that live at once: no packing is smaller.
    fn floor(parts: &[Part]) -> u64 {
        let at = |now| parts.iter().filter(|part| part.life.contains(&now)).map(|part| part.bytes).sum();
        parts.iter().map(|part| at(part.life.start)).max().unwrap_or(0)
    }

    #[track_caller]
    fn check(parts: &[Part], packing: &Packing) {
        let place = |i: usize| packing.offsets[i]..packing.offsets[i] + parts[i].bytes;
        for i in 0..parts.len() {
            assert!(place(i).end <= packing.bytes);
            for j in 0..i {
                let together = parts[i].life.start < parts[j].life.end && parts[j].life.start < parts[i].life.end;
                assert!(!together || place(i).end <= place(j).start || place(j).end <= place(i).start, "{i} {j}");
            }
        }
    }

    /// A decoder's last level: taking the first gap that fits in call order needs 11 units.
    #[test]
    fn a_decoder_is_packed_without_gaps() {
        let decoder = parts(&[(1, 0..2), (4, 1..7), (4, 3..5), (2, 4..6), (2, 5..9), (2, 6..10), (2, 8..11)]);
        let packing = packed(&decoder);
        check(&decoder, &packing);
        assert_eq!((packing.bytes, floor(&decoder)), (10, 10));
    }

    #[test]
    fn tensors_that_live_together_never_overlap() {
        for seed in 0..50 {
            let random = |i: usize, below: u64| splitmix64(seed, i as u64) % below;
            let life = |i: usize| i..i + 1 + random(2 * i + 1, 12) as usize;
            let parts: Vec<Part> = (0..60).map(|i| Part { bytes: 1 + random(2 * i, 9), life: life(i) }).collect();
            let packing = packed(&parts);
            check(&parts, &packing);
            assert!(packing.bytes >= floor(&parts) && packing.bytes <= 2 * floor(&parts));
        }
    }
}
