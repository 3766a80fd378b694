//! The way of weights to the device: a ring of page-locked buffers, each filled by all cores while those before it are
//! being copied.
//!
//! The driver would copy pageable memory such as a mapped file through a buffer of its own, on one core.

use crate::backend::cuda::driver::device::fault;
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
/// Buffers in the ring: one that is filled, one that is copied, and one for when either is slow.
const BUFFERS: usize = 3;
/// Copies of fewer bytes take no buffer of the ring.
const SMALL: usize = 1 << 20;
/// Small copies that may be under way at once.
const SMALL_BUFFERS: usize = 64;
/// The least that a task fills, in bytes.
const TASK: usize = 512 << 10;

/// Memory of the host that copies to the device read. It is freed when they have ended, or never.
struct Buffer {
    memory: Host,
    /// The end of the last copy from it.
    sent: CudaEvent,
    /// Whether a copy was called whose end `sent` does not mark.
    unmarked: bool,
}

enum Host {
    /// [`BUFFER`] bytes from the driver.
    PageLocked(*mut u8),
    /// Small copies, and all of them where the system locks no more pages.
    Pageable(Vec<u8>),
}

// SAFETY: the memory is the buffer's alone, and any thread may use it.
unsafe impl Send for Host {}

impl Buffer {
    fn with(context: &Arc<CudaContext>, memory: Host) -> Result<Self, DriverError> {
        let sent = context.new_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING))?;
        Ok(Self { memory, sent, unmarked: false })
    }

    /// [`BUFFER`] bytes.
    fn new(context: &Arc<CudaContext>, verb: &str) -> Result<Self> {
        let failed = |error| fault(verb, error);
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

    /// Copies its first `bytes` bytes to `address` on the device, which holds as many, in the order of `stream`.
    fn send(&mut self, stream: &CudaStream, address: u64, bytes: usize) -> Result<(), DriverError> {
        // Also where the call fails: the driver may report what went wrong before.
        self.unmarked = true;
        let part = &self.bytes()[..bytes];
        // SAFETY: the caller's memory is as large; the buffer is neither written nor freed before the copy has ended.
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
            // SAFETY: the memory is as large, was written in `new`, and is borrowed from nobody else.
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
                // SAFETY: it came from `malloc_host`, is freed once, and nothing reads it any more.
                let _ = unsafe { result::free_host(start.cast()) };
            }
            Host::Pageable(_) if ended => {}
            // Memory that may still be read is not freed.
            Host::PageLocked(_) => {}
            Host::Pageable(bytes) => std::mem::forget(std::mem::take(bytes)),
        }
    }
}

/// The ring, which is made when it is wanted.
pub(crate) struct Staging {
    context: Arc<CudaContext>,
    /// The one that waits longest is the first.
    ring: Mutex<Vec<Buffer>>,
    /// The buffers of small copies that may be under way, the first one called first.
    small: Mutex<VecDeque<Buffer>>,
}

impl Staging {
    pub(crate) fn new(context: &Arc<CudaContext>) -> Self {
        Self { context: context.clone(), ring: Mutex::default(), small: Mutex::default() }
    }

    /// Lets go of the buffers that only loading wants, once they are copied. One stays, for the noise and tables of pictures:
    /// to lock and unlock its pages takes as long as some layers.
    pub(crate) fn trim(&self) {
        lock(&self.ring).truncate(1);
        lock(&self.small).clear();
    }

    /// Copies `bytes` to the device, in the order of `stream`. They are made of units of `unit` bytes, the last of which may
    /// be shorter: `fill` is given the number of a unit and its place, whatever it holds.
    pub(crate) fn send(
        &self,
        verb: &str,
        stream: &CudaStream,
        address: u64,
        bytes: usize,
        unit: usize,
        fill: impl Fn(usize, &mut [u8]) + Sync,
    ) -> Result<()> {
        let failed = |error| fault(verb, error);
        self.context.bind_to_thread().map_err(failed)?;
        if bytes < SMALL || unit > BUFFER {
            let memory = Host::Pageable(zeros(bytes, "the copies to the GPU")?);
            let mut buffer = Buffer::with(&self.context, memory).map_err(failed)?;
            buffer.bytes().par_chunks_mut(unit).enumerate().for_each(|(i, place)| fill(i, place));
            buffer.send(stream, address, bytes).map_err(failed)?;
            self.keep_small(buffer);
            return Ok(());
        }
        // Taken out while it is used: a thread that waits for its tasks may run another's upload.
        let mut ring = std::mem::take(&mut *lock(&self.ring));
        let units = BUFFER / unit;
        let task = TASK.div_ceil(unit);
        for first in (0..bytes.div_ceil(unit)).step_by(units) {
            let start = first * unit;
            let wanted = ring.first().is_none_or(|first| ring.len() < BUFFERS && !first.sent.is_complete());
            let mut buffer = if wanted { Buffer::new(&self.context, verb)? } else { ring.remove(0) };
            buffer.wait().map_err(failed)?;
            let part = &mut buffer.bytes()[..(units * unit).min(bytes - start)];
            part.par_chunks_mut(task * unit).enumerate().for_each(|(i, places)| {
                places.chunks_mut(unit).enumerate().for_each(|(j, place)| fill(first + i * task + j, place));
            });
            let filled = part.len();
            buffer.send(stream, address + start as u64, filled).map_err(failed)?;
            ring.push(buffer);
        }
        *lock(&self.ring) = ring;
        Ok(())
    }

    /// Keeps a buffer until its copy has ended, and lets go of those whose copies have. The interface promises only that a copy
    /// from pageable memory *may* be over when the call returns.
    fn keep_small(&self, buffer: Buffer) {
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
