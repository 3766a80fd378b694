//! Arenas: device memory in slabs, from which tensors get parts.
//!
//! The driver may wait for the device when it allocates, so an arena asks it seldom and never
//! inside the denoising loop. All work runs on one stream in call order, uploads included. A part
//! is therefore reusable as soon as the last tensor on it is dropped: whatever still reads it was
//! called before. Recordings get their memory from a [`Layout`](super::layout::Layout).
//!
//! A tensor larger than a slab gets a slab of its own size. In an exact arena every tensor does:
//! weights, which stay and would leave gaps, and the memory of recordings.

use super::free_list::FreeList;
use crate::backend::gpu::lock;
use crate::tensor::{StreamSource, Weight};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, DriverError, result};
use std::fmt;
use std::sync::{Arc, Mutex};

/// The division of an arena into allocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Placement {
    /// Tensors get parts of large slabs.
    #[default]
    Slabs,
    /// Each tensor has an allocation of its own, so that memory checkers see a kernel that leaves
    /// its tensor. This is slow. The tensors of a recording still share one allocation.
    Separate,
}

impl Placement {
    /// The smallest slab, in bytes.
    pub(crate) fn slab(self) -> u64 {
        match self {
            Placement::Slabs => 64 << 20,
            Placement::Separate => 0,
        }
    }

    /// The alignment of sizes and addresses: the driver's own, or the width of a thread's load.
    fn alignment(self) -> u64 {
        match self {
            Placement::Slabs => 512,
            Placement::Separate => 16,
        }
    }
}

/// The memory that an arena takes slabs from.
pub(crate) trait Source: Send + Sync {
    /// Returns the address of new memory.
    fn allocate(&self, bytes: u64) -> Result<u64, DriverError>;
    /// Frees memory once all work that was called has run.
    fn free(&self, address: u64, bytes: u64);
}

/// The bytes that all arenas of a device have allocated.
#[derive(Debug, Default)]
pub(crate) struct Footprint(Mutex<Bytes>);

#[derive(Debug)]
struct Bytes {
    current: u64,
    peak: u64,
    limit: u64,
}

impl Default for Bytes {
    fn default() -> Self {
        Self { current: 0, peak: 0, limit: u64::MAX }
    }
}

impl Footprint {
    /// Adds the bytes of an allocation that `allocate` makes; out of memory past the limit.
    pub(crate) fn add<T>(
        &self,
        bytes: u64,
        allocate: impl FnOnce() -> Result<T, DriverError>,
    ) -> Result<T, DriverError> {
        let total = &mut *lock(&self.0);
        if bytes > total.limit.saturating_sub(total.current) {
            return Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
        }
        let made = allocate()?;
        total.current += bytes;
        total.peak = total.peak.max(total.current);
        Ok(made)
    }

    /// Limits the bytes that are allocated at once.
    pub(crate) fn limit(&self, bytes: u64) {
        lock(&self.0).limit = bytes;
    }

    /// The bytes that the limit leaves.
    pub(crate) fn left(&self) -> u64 {
        let total = lock(&self.0);
        total.limit.saturating_sub(total.current)
    }

    pub(crate) fn sub(&self, bytes: u64) {
        lock(&self.0).current -= bytes;
    }

    /// The most bytes that were allocated at once.
    pub(crate) fn peak(&self) -> u64 {
        lock(&self.0).peak
    }
}

/// A device's memory, from the driver.
struct DriverMemory {
    context: Arc<CudaContext>,
    footprint: Arc<Footprint>,
}

impl Source for DriverMemory {
    fn allocate(&self, bytes: u64) -> Result<u64, DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: the context is current, and the size is not 0.
        self.footprint.add(bytes, || unsafe { result::malloc_sync(bytes as usize) })
    }

    fn free(&self, address: u64, bytes: u64) {
        // SAFETY: the address came from `malloc_sync`, is freed once, and the device is idle.
        let freed = self.context.synchronize().and_then(|()| unsafe { result::free_sync(address) });
        if freed.is_ok() {
            self.footprint.sub(bytes);
        }
        // The next call to the driver returns this error. Memory that may still be used is leaked.
        self.context.record_err(freed);
    }
}

/// The memory that tensors lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    Device,
    /// Page-locked host memory. Kernels read it slowly, through the bus.
    Host,
    /// Pageable host memory: the pieces of a weight as they were read, often those of a mapped
    /// file. Only the host reads it.
    Pageable,
}

impl Home {
    /// The memory for a matrix of these weights.
    pub(crate) fn of<'w>(weights: impl IntoIterator<Item = &'w Weight<'w>>) -> Self {
        match weights.into_iter().filter_map(Weight::stream_source).min() {
            None => Home::Device,
            Some(StreamSource::Memory) => Home::Host,
            Some(StreamSource::Files) => Home::Pageable,
        }
    }

    /// The memory for a table, whose rows kernels gather where they are.
    pub(crate) fn of_table(weight: &Weight<'_>) -> Self {
        if weight.stream_source().is_some() { Home::Host } else { Home::Device }
    }
}

/// Slabs of memory and their free parts.
pub(crate) struct Arena {
    source: Box<dyn Source>,
    pub home: Home,
    placement: Placement,
    /// The smallest slab, in bytes.
    pub slab: u64,
    free_list: Mutex<FreeList>,
}

impl Arena {
    /// An arena of a device's memory.
    pub(crate) fn new(context: &Arc<CudaContext>, footprint: &Arc<Footprint>, placement: Placement) -> Arc<Self> {
        let memory = DriverMemory { context: context.clone(), footprint: footprint.clone() };
        Self::with_source(Box::new(memory), placement, placement.slab())
    }

    /// An arena of a device's memory in which every tensor has a slab of its own size.
    pub(crate) fn exact(context: &Arc<CudaContext>, footprint: &Arc<Footprint>, placement: Placement) -> Arc<Self> {
        let memory = DriverMemory { context: context.clone(), footprint: footprint.clone() };
        Self::with_source(Box::new(memory), placement, 0)
    }

    /// An arena of host memory from `source`, in which every tensor has an allocation of its own.
    pub(crate) fn of_host(source: Box<dyn Source>, placement: Placement) -> Arc<Self> {
        Arc::new(Self { source, home: Home::Host, placement, slab: 0, free_list: Mutex::default() })
    }

    /// An arena with slabs of at least `slab` bytes from `source`.
    pub(crate) fn with_source(source: Box<dyn Source>, placement: Placement, slab: u64) -> Arc<Self> {
        Arc::new(Self { source, home: Home::Device, placement, slab, free_list: Mutex::default() })
    }

    /// Frees unused slabs.
    pub(crate) fn trim(&self) {
        self.free_unused(&mut lock(&self.free_list));
    }

    fn free_unused(&self, free_list: &mut FreeList) {
        free_list.take_unused().into_iter().for_each(|(address, bytes)| self.source.free(address, bytes));
    }

    /// Rounds a size up to the arena's alignment.
    pub(crate) fn rounded(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.placement.alignment())
    }

    /// Takes `bytes`, a rounded size, and returns their address. The contents are undefined.
    pub(crate) fn take(&self, bytes: u64) -> Result<u64, DriverError> {
        let mut free_list = lock(&self.free_list);
        if let Some(address) = free_list.take(bytes) {
            return Ok(address);
        }
        let slab = bytes.max(self.slab);
        // Large tensors of different sizes, one after the other, need no more than the largest.
        if slab == bytes {
            self.free_unused(&mut free_list);
        }
        let mut made = self.source.allocate(slab).map(|address| (address, slab));
        // If a whole slab does not fit, the part itself may, after unused slabs are freed if need
        // be.
        if out_of_memory(&made) && slab > bytes {
            made = self.source.allocate(bytes).map(|address| (address, bytes));
        }
        if out_of_memory(&made) {
            self.free_unused(&mut free_list);
            made = self.source.allocate(bytes).map(|address| (address, bytes));
        }
        let (address, slab) = made?;
        free_list.add_slab(address, slab, bytes);
        Ok(address)
    }

    /// Returns a part.
    pub(crate) fn give(&self, address: u64, bytes: u64) {
        let mut free_list = lock(&self.free_list);
        free_list.give(address, bytes);
        if self.placement == Placement::Separate {
            self.free_unused(&mut free_list);
        }
    }
}

/// True for the driver's out-of-memory error.
pub(crate) fn out_of_memory<T>(result: &Result<T, DriverError>) -> bool {
    matches!(result, Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)))
}

impl Drop for Arena {
    fn drop(&mut self) {
        let slabs = lock(&self.free_list).take_all();
        slabs.into_iter().for_each(|(address, bytes)| self.source.free(address, bytes));
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free_list = lock(&self.free_list);
        write!(f, "Arena({} bytes, {} of them free)", free_list.bytes(), free_list.free_bytes())
    }
}
