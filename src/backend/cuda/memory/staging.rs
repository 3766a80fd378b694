//! Staging: a ring of page-locked buffers through which weights go to the device. All cores fill
//! one buffer while earlier ones are copied.
//!
//! The driver would copy pageable memory, such as a mapped file, on one core.

use crate::backend::cuda::driver::error::fault;
use crate::backend::gpu::lock;
use crate::error::Result;
use crate::reserve::zeros;
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result};
use rayon::prelude::*;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Bytes of a buffer.
const BUFFER: usize = 32 << 20;
/// Buffers in the ring: one is filled, one is copied, and one is spare.
const BUFFERS: usize = 3;
/// Copies of fewer bytes bypass the ring.
const SMALL: usize = 1 << 20;
/// The most small copies in flight.
const SMALL_BUFFERS: usize = 64;
/// The bytes that one task fills at least.
const TASK: usize = 512 << 10;

/// Writes a chunk of a tensor: its index, and its undefined contents. The last chunk may be
/// shorter.
pub(crate) trait Fill: Fn(usize, &mut [u8]) + Sync {}

impl<F: Fn(usize, &mut [u8]) + Sync + ?Sized> Fill for F {}

/// Host memory that copies to the device read. It is freed when they have ended, or never.
struct Buffer {
    memory: Host,
    /// The end of the last copy from it.
    sent: CudaEvent,
    /// True if a copy was called whose end `sent` does not mark.
    unmarked: bool,
}

enum Host {
    /// [`BUFFER`] bytes from the driver.
    PageLocked(*mut u8),
    /// Memory of small copies, and of all copies if the system locks no more pages.
    Pageable(Vec<u8>),
}

// SAFETY: the buffer alone owns the memory, and any thread may use it.
unsafe impl Send for Host {}

impl Buffer {
    fn with(context: &Arc<CudaContext>, memory: Host) -> Result<Self, DriverError> {
        let sent = context.new_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING))?;
        Ok(Self { memory, sent, unmarked: false })
    }

    /// A buffer of [`BUFFER`] bytes.
    fn new(context: &Arc<CudaContext>, op: &str) -> Result<Self> {
        let failed = |error| fault(op, error);
        context.bind_to_thread().map_err(failed)?;
        // SAFETY: the context is current; the memory is written before it is read.
        let memory = match unsafe { result::malloc_host(BUFFER, 0) } {
            Ok(start) => {
                // SAFETY: the memory is as large.
                unsafe { start.cast::<u8>().write_bytes(0, BUFFER) };
                Host::PageLocked(start.cast())
            }
            Err(_) => Host::Pageable(zeros(BUFFER, "the copies to the GPU")?),
        };
        Self::with(context, memory).map_err(failed)
    }

    /// Enqueues a copy of its first `bytes` bytes to the device address `address`.
    fn send(&mut self, stream: &CudaStream, address: u64, bytes: usize) -> Result<(), DriverError> {
        // Also if the call fails: the driver may report an earlier error.
        self.unmarked = true;
        let part = &self.bytes()[..bytes];
        // SAFETY: the caller's memory is as large; the buffer is neither written nor freed before
        // the copy has ended.
        unsafe { result::memcpy_htod_async(address, part, stream.cu_stream()) }?;
        self.sent.record(stream)?;
        self.unmarked = false;
        Ok(())
    }

    /// Waits until no copy reads it.
    fn wait(&mut self) -> Result<(), DriverError> {
        if self.unmarked {
            self.sent.context().synchronize()?;
            self.unmarked = false;
        }
        self.sent.synchronize()
    }

    fn bytes(&mut self) -> &mut [u8] {
        match &mut self.memory {
            // SAFETY: the memory is as large, was written in `new`, and is borrowed once.
            Host::PageLocked(start) => unsafe { std::slice::from_raw_parts_mut(*start, BUFFER) },
            Host::Pageable(bytes) => bytes,
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let ended = self.wait().is_ok();
        match &mut self.memory {
            Host::PageLocked(start) if ended => {
                // SAFETY: it came from `malloc_host`, is freed once, and its copies have ended.
                let _ = unsafe { result::free_host(start.cast()) };
            }
            Host::Pageable(_) if ended => {}
            // Memory that may still be read is leaked.
            Host::PageLocked(_) => {}
            Host::Pageable(bytes) => std::mem::forget(std::mem::take(bytes)),
        }
    }
}

/// The ring, whose buffers are made on demand.
pub(crate) struct Staging {
    context: Arc<CudaContext>,
    /// The buffer of the oldest copy is the first.
    ring: Mutex<Vec<Buffer>>,
    /// The buffers of small copies that may be in flight, oldest first.
    small: Mutex<VecDeque<Buffer>>,
}

impl Staging {
    pub(crate) fn new(context: &Arc<CudaContext>) -> Self {
        Self { context: context.clone(), ring: Mutex::default(), small: Mutex::default() }
    }

    /// Frees the buffers that only loading and streaming from files need, once they are copied. One
    /// stays for the noise and tables of pictures: locking and unlocking its pages takes as long as
    /// some layers.
    pub(crate) fn trim(&self) {
        lock(&self.ring).truncate(1);
        lock(&self.small).clear();
    }

    /// Enqueues a copy of `bytes` to the device, which `fill` writes in chunks of `chunk` bytes.
    pub(crate) fn send(
        &self,
        op: &str,
        stream: &CudaStream,
        address: u64,
        bytes: usize,
        chunk: usize,
        fill: &(impl Fill + ?Sized),
    ) -> Result<()> {
        let failed = |error| fault(op, error);
        self.context.bind_to_thread().map_err(failed)?;
        if bytes < SMALL || chunk > BUFFER {
            let memory = Host::Pageable(zeros(bytes, "the copies to the GPU")?);
            let mut buffer = Buffer::with(&self.context, memory).map_err(failed)?;
            buffer.bytes().par_chunks_mut(chunk).enumerate().for_each(|(i, to)| fill(i, to));
            buffer.send(stream, address, bytes).map_err(failed)?;
            self.retain(buffer);
            return Ok(());
        }
        // Taken out while it is used: a thread that waits for its tasks may run another upload.
        let mut ring = std::mem::take(&mut *lock(&self.ring));
        let chunks = BUFFER / chunk;
        let task = TASK.div_ceil(chunk);
        for first in (0..bytes.div_ceil(chunk)).step_by(chunks) {
            let start = first * chunk;
            let wanted = ring.first().is_none_or(|first| ring.len() < BUFFERS && !first.sent.is_complete());
            let mut buffer = if wanted { Buffer::new(&self.context, op)? } else { ring.remove(0) };
            buffer.wait().map_err(failed)?;
            let part = &mut buffer.bytes()[..(chunks * chunk).min(bytes - start)];
            part.par_chunks_mut(task * chunk).enumerate().for_each(|(i, task_bytes)| {
                task_bytes.chunks_mut(chunk).enumerate().for_each(|(j, to)| fill(first + i * task + j, to));
            });
            let filled = part.len();
            buffer.send(stream, address + start as u64, filled).map_err(failed)?;
            ring.push(buffer);
        }
        *lock(&self.ring) = ring;
        Ok(())
    }

    /// Stores a buffer until its copy has ended, and frees those whose copies have. CUDA promises
    /// only that a copy from pageable memory *may* have ended when the call returns.
    fn retain(&self, buffer: Buffer) {
        let mut small = lock(&self.small);
        while small.front().is_some_and(|first| small.len() >= SMALL_BUFFERS || first.sent.is_complete()) {
            small.pop_front();
        }
        small.push_back(buffer);
    }
}

impl fmt::Debug for Staging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Staging({} buffers)", lock(&self.ring).len())
    }
}
