//! Device memory, and its reuse.
//!
//! An arena takes memory in large slabs and hands out parts of them, so that the driver, which may wait for the device
//! when it is asked, is asked seldom and never inside the loop. All work goes through one stream, in the order it was
//! called in, uploads included. So a part may be given to a new verb as soon as the last tensor on it is dropped:
//! whatever still reads it was called before. What a recording makes is elsewhere: see `layout.rs`.
//!
//! A tensor that is larger than a slab gets one of just its size, and so does all that an exact arena is asked for: weights,
//! which stay and leave no gaps then, and the pieces that recordings work in.

use super::layout::{Layout, Place};
use crate::backend::gpu::lock;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, DriverError, result};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// How an arena divides memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Placement {
    /// Large slabs, of which tensors get parts.
    #[default]
    Slabs,
    /// Each tensor in an allocation of its own, so that tools which watch the ends of allocations see a kernel that
    /// leaves its tensor. Slow. What a recording makes lies in one allocation all the same.
    Apart,
}

impl Placement {
    /// The smallest slab, in bytes.
    fn slab(self) -> u64 {
        match self {
            Placement::Slabs => 64 << 20,
            Placement::Apart => 0,
        }
    }

    /// What sizes and places are multiples of: the driver's own alignment, or what a thread reads at once.
    fn alignment(self) -> u64 {
        match self {
            Placement::Slabs => 512,
            Placement::Apart => 16,
        }
    }
}

/// Where an arena takes slabs from.
trait Source: Send + Sync {
    /// The address of new memory.
    fn allocate(&self, bytes: u64) -> Result<u64, DriverError>;
    /// Takes memory back that nothing reads or writes any more, of work that was called included.
    fn free(&self, address: u64, bytes: u64);
}

/// How many bytes all arenas of a device hold together, and the most that they ever held.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Now, and at most.
    bytes: Mutex<(u64, u64)>,
}

impl Held {
    fn add(&self, bytes: u64) {
        let (now, most) = &mut *lock(&self.bytes);
        *now += bytes;
        *most = (*most).max(*now);
    }

    fn sub(&self, bytes: u64) {
        lock(&self.bytes).0 -= bytes;
    }

    /// The most bytes that were held at once.
    pub(crate) fn peak(&self) -> u64 {
        lock(&self.bytes).1
    }
}

/// The driver.
struct Device {
    context: Arc<CudaContext>,
    held: Arc<Held>,
}

impl Source for Device {
    fn allocate(&self, bytes: u64) -> Result<u64, DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: the context is current, and the size is not 0.
        let address = unsafe { result::malloc_sync(bytes as usize) }?;
        self.held.add(bytes);
        Ok(address)
    }

    fn free(&self, address: u64, bytes: u64) {
        // SAFETY: the address came from `malloc_sync`, is freed once, and the device has nothing left to do with it.
        let freed = self.context.synchronize().and_then(|()| unsafe { result::free_sync(address) });
        if freed.is_ok() {
            self.held.sub(bytes);
        }
        // The next call to the driver returns what failed here. Memory that may still be used is not freed.
        self.context.record_err(freed);
    }
}

/// Slabs and what is free of them.
pub(crate) struct Arena {
    source: Box<dyn Source>,
    placement: Placement,
    /// The smallest slab, in bytes.
    slab: u64,
    parts: Mutex<Parts>,
}

/// Slabs, and the parts of them that are free.
#[derive(Default)]
pub(crate) struct Parts {
    /// Address and bytes of each.
    slabs: BTreeMap<u64, u64>,
    /// The same of free parts; no two of a slab touch.
    free: BTreeMap<u64, u64>,
}

impl Parts {
    /// One slab, all of it free.
    pub(crate) fn one(address: u64, bytes: u64) -> Self {
        let slab = BTreeMap::from([(address, bytes)]);
        Self { slabs: slab.clone(), free: slab }
    }

    /// The smallest free part that holds `bytes`.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<u64> {
        let fitting = self.free.iter().filter(|(_, len)| **len >= bytes);
        let (address, len) = fitting.min_by_key(|(_, len)| **len).map(|(address, len)| (*address, *len))?;
        self.free.remove(&address);
        if len > bytes {
            self.free.insert(address + bytes, len - bytes);
        }
        Some(address)
    }

    /// Takes a part back.
    pub(crate) fn give(&mut self, mut address: u64, mut bytes: u64) {
        let before = self.free.range(..address).next_back().map(|(start, len)| (*start, *len));
        if let Some((start, len)) = before
            && start + len == address
            && !self.slabs.contains_key(&address)
        {
            self.free.remove(&start);
            (address, bytes) = (start, len + bytes);
        }
        let next = address + bytes;
        if !self.slabs.contains_key(&next)
            && let Some(len) = self.free.remove(&next)
        {
            bytes += len;
        }
        self.free.insert(address, bytes);
    }

    /// Slabs of which nothing is used; they are the caller's.
    fn take_unused(&mut self) -> Vec<(u64, u64)> {
        let Parts { slabs, free } = self;
        let unused = slabs.iter().filter(|(address, bytes)| free.get(address) == Some(bytes));
        let unused: Vec<(u64, u64)> = unused.map(|(address, bytes)| (*address, *bytes)).collect();
        for (address, _) in &unused {
            slabs.remove(address);
            free.remove(address);
        }
        unused
    }
}

impl Arena {
    /// An arena of a device's memory.
    pub(crate) fn new(context: &Arc<CudaContext>, held: &Arc<Held>, placement: Placement) -> Arc<Self> {
        let device = Device { context: context.clone(), held: held.clone() };
        Self::of(Box::new(device), placement, placement.slab())
    }

    /// An arena of a device's memory in which every tensor has a slab of its size.
    pub(crate) fn exact(context: &Arc<CudaContext>, held: &Arc<Held>, placement: Placement) -> Arc<Self> {
        let device = Device { context: context.clone(), held: held.clone() };
        Self::of(Box::new(device), placement, 0)
    }

    fn of(source: Box<dyn Source>, placement: Placement, slab: u64) -> Arc<Self> {
        Arc::new(Self { source, placement, slab, parts: Mutex::default() })
    }

    /// Gives slabs back of which nothing is used.
    pub(crate) fn trim(&self) {
        self.free_unused(&mut lock(&self.parts));
    }

    fn free_unused(&self, parts: &mut Parts) {
        parts.take_unused().into_iter().for_each(|(address, bytes)| self.source.free(address, bytes));
    }

    /// Memory for `bytes`, aligned to 16 at least. Its contents are whatever it held before.
    pub(crate) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Arc<Memory>, DriverError> {
        let bytes = self.rounded(bytes as u64);
        Ok(Arc::new(Memory { at: self.take(bytes)?, bytes, home: Home::Arena(self.clone()) }))
    }

    /// Bytes up to what places are multiples of.
    fn rounded(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.placement.alignment())
    }

    /// The address of `bytes`, a size that is rounded.
    pub(crate) fn take(&self, bytes: u64) -> Result<u64, DriverError> {
        let mut parts = lock(&self.parts);
        if let Some(address) = parts.take(bytes) {
            return Ok(address);
        }
        let slab = bytes.max(self.slab);
        // So that large tensors of different sizes, one after the other, need no more than the largest.
        if slab == bytes {
            self.free_unused(&mut parts);
        }
        let mut made = self.source.allocate(slab).map(|address| (address, slab));
        // Where a whole slab is too much, the part itself may fit, and slabs that nothing uses are no use.
        if out_of_memory(&made) && slab > bytes {
            made = self.source.allocate(bytes).map(|address| (address, bytes));
        }
        if out_of_memory(&made) {
            self.free_unused(&mut parts);
            made = self.source.allocate(bytes).map(|address| (address, bytes));
        }
        let (address, slab) = made?;
        parts.slabs.insert(address, slab);
        if slab > bytes {
            parts.free.insert(address + bytes, slab - bytes);
        }
        Ok(address)
    }

    /// Takes back what was taken.
    pub(crate) fn give(&self, address: u64, bytes: u64) {
        let mut parts = lock(&self.parts);
        parts.give(address, bytes);
        if self.placement == Placement::Apart {
            self.free_unused(&mut parts);
        }
    }
}

fn out_of_memory<T>(result: &Result<T, DriverError>) -> bool {
    matches!(result, Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)))
}

impl Drop for Arena {
    fn drop(&mut self) {
        let slabs = std::mem::take(&mut lock(&self.parts).slabs);
        slabs.into_iter().for_each(|(address, bytes)| self.source.free(address, bytes));
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = lock(&self.parts);
        let sum = |parts: &BTreeMap<u64, u64>| parts.values().sum::<u64>();
        write!(f, "Arena({} bytes, {} of them free)", sum(&parts.slabs), sum(&parts.free))
    }
}

/// A part of an arena or of a recording's layout, to which it goes back when the last tensor on it is dropped.
#[derive(Debug)]
pub(crate) struct Memory {
    at: u64,
    bytes: u64,
    home: Home,
}

#[derive(Debug)]
enum Home {
    Arena(Arc<Arena>),
    Layout(Arc<Layout>),
}

impl Memory {
    /// Memory for `bytes` of a recording.
    pub(crate) fn laid(layout: &Arc<Layout>, bytes: usize) -> Arc<Self> {
        let (at, bytes) = layout.take(bytes as u64);
        Arc::new(Self { at, bytes, home: Home::Layout(layout.clone()) })
    }

    /// Where it starts.
    pub(crate) fn place(&self) -> Place {
        match &self.home {
            Home::Arena(_) => Place::At(self.at),
            Home::Layout(layout) => Place::In(layout.clone(), self.at),
        }
    }

    /// Where it starts on the device; an error in a recording that is not whole.
    pub(crate) fn address(&self) -> crate::error::Result<u64> {
        self.place().address()
    }

    /// Its size, which is what was asked for or somewhat more.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Whether it is a part of `layout`.
    pub(crate) fn belongs_to(&self, layout: &Arc<Layout>) -> bool {
        matches!(&self.home, Home::Layout(home) if Arc::ptr_eq(home, layout))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match &self.home {
            Home::Arena(arena) => arena.give(self.at, self.bytes),
            Home::Layout(layout) => layout.give(self.at, self.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device of so many bytes, whose slabs lie side by side.
    #[derive(Default)]
    struct Fake {
        left: Mutex<u64>,
        next: Mutex<u64>,
        asked: Mutex<Vec<u64>>,
    }

    impl Source for Arc<Fake> {
        fn allocate(&self, bytes: u64) -> Result<u64, DriverError> {
            lock(&self.asked).push(bytes);
            let mut left = lock(&self.left);
            *left = left.checked_sub(bytes).ok_or(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY))?;
            let mut next = lock(&self.next);
            *next += bytes;
            Ok(*next - bytes)
        }

        fn free(&self, _: u64, bytes: u64) {
            *lock(&self.left) += bytes;
        }
    }

    const SLAB: u64 = 64 << 20;

    fn arena(bytes: u64, placement: Placement) -> (Arc<Fake>, Arc<Arena>) {
        let fake = Arc::new(Fake { left: Mutex::new(bytes), ..Fake::default() });
        let arena = Arena::of(Box::new(fake.clone()), placement, placement.slab());
        (fake, arena)
    }

    #[test]
    fn parts_are_reused_and_grow_together_again() {
        let (fake, arena) = arena(4 * SLAB, Placement::Slabs);
        let parts = [1000, 2000, 1500].map(|bytes| arena.allocate(bytes).unwrap());
        assert_eq!(
            parts.each_ref().map(|part| (part.address().unwrap(), part.bytes())),
            [(0, 1024), (1024, 2048), (3072, 1536)]
        );
        let [first, second, third] = parts;
        drop(first);
        drop(third);
        assert_eq!(arena.allocate(1024).unwrap().address().unwrap(), 0, "the smallest that fits");
        drop(second);
        let whole = arena.allocate(SLAB as usize).unwrap();
        assert_eq!((whole.address().unwrap(), lock(&fake.asked).len()), (0, 1));
        // The next slab touches the first one, and is never one with it.
        let other = arena.allocate(SLAB as usize).unwrap();
        drop((whole, other));
        assert_eq!(lock(&arena.parts).free.len(), 2);
        drop(arena);
        assert_eq!(*lock(&fake.left), 4 * SLAB);
    }

    #[test]
    fn a_full_device_gives_what_is_left_of_it() {
        let (fake, arena) = arena(SLAB + SLAB / 2, Placement::Slabs);
        let large = arena.allocate(SLAB as usize).unwrap();
        // No slab is left, but what was asked for is.
        let small = arena.allocate(1 << 20).unwrap();
        assert!(out_of_memory(&arena.allocate(SLAB as usize)));
        drop((large, small));
        // The unused slabs make room for a larger one.
        assert_eq!(arena.allocate((SLAB + SLAB / 4) as usize).unwrap().bytes() as u64, SLAB + SLAB / 4);
        drop(arena);
        assert_eq!(*lock(&fake.left), SLAB + SLAB / 2);
    }

    #[test]
    fn large_tensors_one_after_the_other_need_room_for_the_largest() {
        let (fake, arena) = arena(7 * SLAB, Placement::Slabs);
        let small = arena.allocate(3 * SLAB as usize).unwrap();
        drop(small);
        let large = arena.allocate(4 * SLAB as usize).unwrap();
        assert_eq!(*lock(&fake.left), 3 * SLAB);
        drop(large);
        assert_eq!(*lock(&fake.left), 3 * SLAB, "it is kept for reuse");
        arena.trim();
        assert_eq!(*lock(&fake.left), 7 * SLAB);
    }

    #[test]
    fn exact_arenas_leave_no_gaps() {
        let fake = Arc::new(Fake { left: Mutex::new(3000), ..Fake::default() });
        let arena = Arena::of(Box::new(fake.clone()), Placement::Slabs, 0);
        let parts = [1, 512, 600].map(|bytes| arena.allocate(bytes).unwrap());
        assert_eq!(*lock(&fake.asked), [512, 512, 1024]);
        drop(parts);
        arena.trim();
        assert_eq!(*lock(&fake.left), 3000);
    }

    #[test]
    fn the_most_that_was_held_is_known() {
        let held = Held::default();
        held.add(5);
        held.add(7);
        held.sub(5);
        held.add(1);
        assert_eq!(held.peak(), 12);
        assert_eq!(*lock(&held.bytes), (8, 12));
    }

    #[test]
    fn a_recording_takes_what_it_needs_in_one_piece_and_keeps_it_from_others() {
        for placement in [Placement::Slabs, Placement::Apart] {
            let fake = Arc::new(Fake { left: Mutex::new(SLAB), ..Fake::default() });
            let arena = Arena::of(Box::new(fake.clone()), placement, 0);
            let layout = Layout::new(&arena);
            let [first, second] = [1000, 2000].map(|bytes| Memory::laid(&layout, bytes));
            assert!(first.belongs_to(&layout) && first.address().is_err(), "nothing is taken yet");
            drop(first);
            let third = Memory::laid(&layout, 500);
            assert!(lock(&fake.asked).is_empty());
            let places = [&second, &third].map(|memory| memory.place());
            drop((second, third));
            let whole = 1024 + 2048;
            assert_eq!((layout.bytes(), layout.settle(), layout.settle()), (whole, Ok(0), Ok(0)));
            assert_eq!(*lock(&fake.asked), [whole], "once");
            assert_eq!(
                places.each_ref().map(|place| place.address().unwrap()),
                [1024, 0],
                "the third where the first was"
            );
            assert!(arena.allocate(512).unwrap().address().unwrap() >= whole);
            drop(layout);
            assert_eq!(
                *lock(&fake.left) + whole,
                SLAB - if placement == Placement::Slabs { 512 } else { 0 },
                "its work may run"
            );
            drop(places);
            arena.trim();
            assert_eq!(*lock(&fake.left), SLAB);
        }
    }

    #[test]
    fn an_empty_recording_takes_nothing() {
        let (fake, arena) = arena(SLAB, Placement::Slabs);
        assert_eq!(Layout::new(&arena).settle(), Ok(0));
        assert!(lock(&fake.asked).is_empty());
        let full = Layout::new(&arena);
        let memory = Memory::laid(&full, 2 * SLAB as usize);
        assert!(out_of_memory(&full.settle()) && memory.address().is_err());
        drop((memory, full, arena));
        assert_eq!(*lock(&fake.left), SLAB);
    }

    #[test]
    fn apart_every_part_is_an_allocation() {
        let (fake, arena) = arena(1000, Placement::Apart);
        let parts = [5, 40].map(|bytes| arena.allocate(bytes).unwrap());
        assert_eq!((parts.each_ref().map(|part| part.bytes()), *lock(&fake.left)), ([16, 48], 936));
        drop(parts);
        assert_eq!(*lock(&fake.left), 1000);
    }
}
