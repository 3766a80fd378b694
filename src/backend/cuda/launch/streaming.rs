//! Streaming: weights in host memory, copied to the device just before each use.
//!
//! A copy stream writes the weights into a ring buffer, as far ahead of the compute stream as the
//! buffer has room. Events order the two: a kernel waits for its copy, and a copy waits for the
//! kernels that read the bytes it overwrites. All of it can be recorded, so a CUDA graph holds the
//! copies of a step and their dependencies.
//!
//! Weights in pageable memory go through [`Staging`], which the host has to fill at each copy. A
//! recording with such copies therefore never becomes a graph: each replay enqueues its work, and
//! the host reads a matrix while the device computes with those before it.
//!
//! Copies that run at once and those of a recording never wait for each other's events: either
//! begins with a fork, which lets the copy stream wait for everything called before.

use super::args::Arg;
use super::copies::{LARGEST, Order};
use super::gpu::Gpu;
use super::recording::Work;
use crate::backend::DeviceTensor;
use crate::backend::cuda::driver::error::fault;
use crate::backend::cuda::memory::allocation::Allocation;
use crate::backend::cuda::memory::arena::Home;
use crate::backend::cuda::memory::ring::{Ring, Taken};
use crate::backend::cuda::memory::staging::Staging;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::gpu::lock;
use crate::error::{Error, Result};
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream, result};
use std::ops::Deref;
use std::sync::Arc;

/// A tensor in device memory: itself, or a copy in the ring that lives as long as this value.
#[derive(Debug)]
pub(crate) struct Staged<'g> {
    tensor: CudaTensor,
    slot: Option<(&'g Gpu, u64)>,
}

impl Staged<'_> {
    /// True for a copy in the ring.
    pub(crate) fn is_copy(&self) -> bool {
        self.slot.is_some()
    }
}

impl Deref for Staged<'_> {
    type Target = CudaTensor;

    fn deref(&self) -> &CudaTensor {
        &self.tensor
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if let Some((gpu, slot)) = self.slot {
            // A slot that no event releases is not taken again: the next copy reports it.
            let _ = gpu.release(slot);
        }
    }
}

impl Gpu {
    /// Makes the ring large enough for a tensor, if it will be streamed.
    pub(crate) fn size_ring_for(&self, tensor: &CudaTensor) {
        if tensor.allocation().home() != Home::Device {
            let buffer = &mut *lock(&self.streaming.buffer);
            buffer.largest = buffer.largest.max(tensor.bytes() as u64);
        }
    }

    /// Copies a tensor of host memory to the device; one of device memory is returned as it is.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] without memory for the ring.
    pub(crate) fn staged(&self, op: &'static str, tensor: &CudaTensor) -> Result<Staged<'_>> {
        if tensor.allocation().home() == Home::Device {
            return Ok(Staged { tensor: tensor.clone(), slot: None });
        }
        let bytes = tensor.bytes() as u64;
        let (copies, memory, Taken { number, offset, after }, forks) = self.take(op, bytes)?;
        if forks {
            self.enqueue(Fork { copies: copies.clone(), reached: self.order_event(op)? }, &[])?;
        }
        let part = Allocation::part(&memory, offset, bytes)?;
        let staged = CudaTensor::new(tensor.shape(), tensor.dtype(), part);
        let from = match tensor.allocation().home() {
            Home::Pageable => Source::Pageable(tensor.allocation().clone(), self.staging.clone()),
            Home::Device | Home::Host => Source::PageLocked(tensor.allocation().address()?),
        };
        let copy = Copy {
            op,
            from,
            to: staged.allocation().address()?,
            bytes: bytes as usize,
            copies,
            after,
            copied: self.order_event(op)?,
        };
        self.enqueue(copy, &[Arg::Read(tensor), Arg::Write(&staged)])?;
        Ok(Staged { tensor: staged, slot: Some((self, number)) })
    }

    /// A slot of the ring; true if its copy is the first after a fork.
    #[expect(clippy::type_complexity, reason = "its one caller takes it apart")]
    fn take(
        &self,
        op: &'static str,
        bytes: u64,
    ) -> Result<(Arc<CudaStream>, Arc<Allocation>, Taken<Arc<CudaEvent>>, bool)> {
        let copies = match self.streaming.copies.get() {
            Some(copies) => copies.clone(),
            None => {
                let made = self.device.context.new_stream().map_err(|error| fault(op, error))?;
                self.streaming.copies.get_or_init(|| made).clone()
            }
        };
        let buffer = &mut *lock(&self.streaming.buffer);
        let wanted = LARGEST * buffer.largest;
        let memory = match &buffer.memory {
            Some(memory) if memory.bytes() as u64 >= wanted => memory.clone(),
            _ => {
                buffer.memory = None;
                buffer.order = Order::default();
                buffer.memory.insert(self.ring_memory(op, wanted)?).clone()
            }
        };
        let forks = buffer.order.ring.is_none();
        let ring = buffer.order.ring.get_or_insert_with(|| Ring::new(memory.bytes() as u64));
        let taken = ring.take(bytes).ok_or_else(|| {
            Error::internal(format!("{op}: {bytes} streamed bytes do not fit the ring of {}", memory.bytes()))
        })?;
        Ok((copies, memory, taken, forks))
    }

    /// Ends the use of a slot after all work called so far.
    fn release(&self, slot: u64) -> Result<()> {
        let event = self.order_event("streaming")?;
        self.enqueue(Release { event: event.clone() }, &[])?;
        if let Some(ring) = &mut lock(&self.streaming.buffer).order.ring {
            ring.release(slot, event);
        }
        Ok(())
    }

    /// An event that only orders streams.
    fn order_event(&self, op: &str) -> Result<Arc<CudaEvent>> {
        let made = self.device.context.new_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING));
        made.map(Arc::new).map_err(|error| fault(op, error))
    }
}

/// Lets the copy stream wait for everything called before.
#[derive(Debug)]
struct Fork {
    copies: Arc<CudaStream>,
    reached: Arc<CudaEvent>,
}

impl Work for Fork {
    fn enqueue(&self, stream: &CudaStream) -> Result<()> {
        let forked = self.reached.record(stream).and_then(|()| self.copies.wait(&self.reached));
        forked.map_err(|error| fault("streaming", error))
    }
}

/// The host's bytes of a tensor.
#[derive(Debug)]
enum Source {
    /// A host address.
    PageLocked(u64),
    /// An allocation in pageable memory, and the buffers through which it is copied.
    Pageable(Arc<Allocation>, Arc<Staging>),
}

/// A copy from host memory on the copy stream, for which the compute stream waits.
#[derive(Debug)]
struct Copy {
    op: &'static str,
    from: Source,
    to: u64,
    bytes: usize,
    copies: Arc<CudaStream>,
    after: Vec<Arc<CudaEvent>>,
    copied: Arc<CudaEvent>,
}

impl Work for Copy {
    fn enqueue(&self, stream: &CudaStream) -> Result<()> {
        let failed = |error| fault(self.op, error);
        for event in &self.after {
            self.copies.wait(event).map_err(failed)?;
        }
        match &self.from {
            Source::PageLocked(address) => {
                // SAFETY: the recording, or the weight that is staged, holds the host's memory,
                // which is as large and was written during the upload; a weight is freed after the
                // device is idle.
                let from = unsafe { std::slice::from_raw_parts(*address as usize as *const u8, self.bytes) };
                // SAFETY: the slot is as large, and nothing reads its earlier contents after
                // `after`.
                unsafe { result::memcpy_htod_async(self.to, from, self.copies.cu_stream()) }.map_err(failed)?;
            }
            Source::Pageable(allocation, staging) => {
                let missing = || Error::internal("streaming: a tensor without pageable memory");
                let pageable = allocation.as_pageable().ok_or_else(missing)?;
                pageable.send(self.op, staging, &self.copies, self.to)?;
            }
        }
        self.copied.record(&self.copies).and_then(|()| stream.wait(&self.copied)).map_err(failed)
    }

    fn needs_host(&self) -> bool {
        matches!(self.from, Source::Pageable(..))
    }
}

/// Marks the end of a slot's use on the compute stream.
#[derive(Debug)]
struct Release {
    event: Arc<CudaEvent>,
}

impl Work for Release {
    fn enqueue(&self, stream: &CudaStream) -> Result<()> {
        self.event.record(stream).map_err(|error| fault("streaming", error))
    }
}
