//! Arenas and layouts on a fake device.

use super::allocation::Allocation;
use super::arena::{Arena, Footprint, Placement, Source, out_of_memory};
use super::layout::{Layout, RecordingMemory};
use crate::backend::gpu::lock;
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use std::sync::{Arc, Mutex};

/// A device of `left` bytes with adjacent slabs.
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
    let arena = Arena::with_source(Box::new(fake.clone()), placement, placement.slab());
    (fake, arena)
}

#[test]
fn parts_are_reused_and_merged() {
    let (fake, arena) = arena(4 * SLAB, Placement::Slabs);
    let parts = [1000, 2000, 1500].map(|bytes| Allocation::new(&arena, bytes).unwrap());
    assert_eq!(
        parts.each_ref().map(|part| (part.address().unwrap(), part.bytes())),
        [(0, 1024), (1024, 2048), (3072, 1536)]
    );
    let [first, second, third] = parts;
    drop(first);
    drop(third);
    assert_eq!(Allocation::new(&arena, 1024).unwrap().address().unwrap(), 0, "the smallest that fits");
    drop(second);
    let whole = Allocation::new(&arena, SLAB as usize).unwrap();
    assert_eq!((whole.address().unwrap(), lock(&fake.asked).len()), (0, 1));
    let other = Allocation::new(&arena, SLAB as usize).unwrap();
    drop((whole, other));
    drop(arena);
    assert_eq!(*lock(&fake.left), 4 * SLAB);
}

#[test]
fn a_nearly_full_device_gives_exact_slabs() {
    let (fake, arena) = arena(SLAB + SLAB / 2, Placement::Slabs);
    let large = Allocation::new(&arena, SLAB as usize).unwrap();
    // A whole slab does not fit, but the part does.
    let small = Allocation::new(&arena, 1 << 20).unwrap();
    assert!(out_of_memory(&Allocation::new(&arena, SLAB as usize)));
    drop((large, small));
    // Freed slabs make space for a larger one.
    assert_eq!(Allocation::new(&arena, (SLAB + SLAB / 4) as usize).unwrap().bytes() as u64, SLAB + SLAB / 4);
    drop(arena);
    assert_eq!(*lock(&fake.left), SLAB + SLAB / 2);
}

#[test]
fn successive_large_tensors_need_the_largest_only() {
    let (fake, arena) = arena(7 * SLAB, Placement::Slabs);
    let small = Allocation::new(&arena, 3 * SLAB as usize).unwrap();
    drop(small);
    let large = Allocation::new(&arena, 4 * SLAB as usize).unwrap();
    assert_eq!(*lock(&fake.left), 3 * SLAB);
    drop(large);
    assert_eq!(*lock(&fake.left), 3 * SLAB, "it is cached for reuse");
    arena.trim();
    assert_eq!(*lock(&fake.left), 7 * SLAB);
}

#[test]
fn exact_arenas_leave_no_gaps() {
    let fake = Arc::new(Fake { left: Mutex::new(3000), ..Fake::default() });
    let arena = Arena::with_source(Box::new(fake.clone()), Placement::Slabs, 0);
    let parts = [1, 512, 600].map(|bytes| Allocation::new(&arena, bytes).unwrap());
    assert_eq!(*lock(&fake.asked), [512, 512, 1024]);
    drop(parts);
    arena.trim();
    assert_eq!(*lock(&fake.left), 3000);
}

#[test]
fn the_footprint_remembers_its_peak() {
    let footprint = Footprint::default();
    let add = |bytes| footprint.add(bytes, || Ok(())).is_ok();
    assert!(add(5) && add(7));
    footprint.sub(5);
    assert!(add(1));
    assert_eq!(footprint.peak(), 12);
    assert!(add(5));
    assert_eq!((footprint.peak(), footprint.left()), (13, u64::MAX - 13));
    footprint.limit(15);
    assert!(add(2) && !add(1) && footprint.left() == 0, "a limit");
    assert_eq!(footprint.peak(), 15);
}

#[test]
fn a_recording_has_one_allocation_of_its_own() {
    for placement in [Placement::Slabs, Placement::Separate] {
        let fake = Arc::new(Fake { left: Mutex::new(SLAB), ..Fake::default() });
        let arena = Arena::with_source(Box::new(fake.clone()), placement, 0);
        let memory = RecordingMemory::new(arena.clone());
        let layout = Layout::new(&memory);
        let [first, second] = [1000, 2000].map(|bytes| Allocation::planned(&layout, bytes));
        assert!(first.belongs_to(&layout) && first.address().is_err(), "nothing is allocated yet");
        drop(first);
        let third = Allocation::planned(&layout, 500);
        assert!(lock(&fake.asked).is_empty());
        let locations = [&second, &third].map(|allocation| allocation.location());
        drop((second, third));
        let whole = 1024 + 2048;
        assert_eq!((layout.bytes(), layout.allocate(true), layout.allocate(true)), (whole, Ok(0), Ok(0)));
        assert_eq!(*lock(&fake.asked), [whole], "once");
        assert_eq!(
            locations.each_ref().map(|location| location.address().unwrap()),
            [0, 2048],
            "the third has the place of the first"
        );
        assert!(Allocation::new(&arena, 512).unwrap().address().unwrap() >= whole);
        drop(layout);
        assert_eq!(
            *lock(&fake.left) + whole,
            SLAB - if placement == Placement::Slabs { 512 } else { 0 },
            "its work may run"
        );
        drop(locations);
        arena.trim();
        assert_eq!(*lock(&fake.left), SLAB);
    }
}

#[test]
fn an_empty_recording_allocates_nothing() {
    let (fake, arena) = arena(SLAB, Placement::Slabs);
    let memory = RecordingMemory::new(arena.clone());
    assert_eq!(Layout::new(&memory).allocate(true), Ok(0));
    assert!(lock(&fake.asked).is_empty());
    let full = Layout::new(&memory);
    let allocation = Allocation::planned(&full, 2 * SLAB as usize);
    assert!(out_of_memory(&full.allocate(true)) && allocation.address().is_err());
    drop((allocation, full, memory, arena));
    assert_eq!(*lock(&fake.left), SLAB);
}

#[test]
fn recordings_share_memory_that_is_large_enough() {
    let fake = Arc::new(Fake { left: Mutex::new(SLAB), ..Fake::default() });
    let arena = Arena::with_source(Box::new(fake.clone()), Placement::Slabs, 0);
    let memory = RecordingMemory::new(arena.clone());
    let planned = |bytes, share| {
        let layout = Layout::new(&memory);
        drop(Allocation::planned(&layout, bytes));
        (layout.allocate(share).unwrap(), layout)
    };
    let (address, large) = planned(4096, true);
    let (shared, small) = planned(1024, true);
    assert_eq!((shared, *lock(&fake.left)), (address, SLAB - 4096));
    let (apart, reader) = planned(1024, false);
    assert_ne!(apart, address, "it reads the other recording's tensors");
    let (larger, largest) = planned(8192, true);
    assert!(larger != address && larger != apart);
    drop((large, reader, largest));
    arena.trim();
    assert_eq!(*lock(&fake.left), SLAB - 4096, "one recording still uses it");
    drop(small);
    arena.trim();
    assert_eq!(*lock(&fake.left), SLAB);
}

#[test]
fn separate_placement_allocates_every_part() {
    let (fake, arena) = arena(1000, Placement::Separate);
    let parts = [5, 40].map(|bytes| Allocation::new(&arena, bytes).unwrap());
    assert_eq!((parts.each_ref().map(|part| part.bytes()), *lock(&fake.left)), ([16, 48], 936));
    drop(parts);
    assert_eq!(*lock(&fake.left), 1000);
}
