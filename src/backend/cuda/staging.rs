//! The way of weights to the device: a ring of page-locked buffers, each filled by all cores while those before it are
//! being copied.
//!
//! The driver would copy pageable memory such as a mapped file through a buffer of its own, on one core.

use super::memory::lock;
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result};
use rayon::prelude::*;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Bytes of a buffer.
const BUFFER: usize = 32 << 20;
/// Buffers in the ring: one that is filled, one that is copied, and one for when either is slow.
const BUFFERS: usize = 3;
/// What is smaller than this is not worth a buffer, in bytes.
const SMALL: usize = 1 << 20;
/// The least that a task fills, in bytes.
const TASK: usize = 512 << 10;

/// A buffer in the host's memory.
struct Buffer {
    memory: Host,
    /// The end of the last copy from it.
    sent: CudaEvent,
}

enum Host {
    /// [`BUFFER`] bytes from the driver.
    PageLocked(*mut u8),
    /// Where the system locks no more pages: the driver has read it when the copy returns.
    Pageable(Vec<u8>),
}

// SAFETY: the memory is the buffer's alone, and any thread may use it.
unsafe impl Send for Host {}

impl Buffer {
    fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        let sent = context.new_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING))?;
        // SAFETY: the context is current; the memory is written before it is read.
        let memory = match unsafe { result::malloc_host(BUFFER, 0) } {
            Ok(start) => {
                // SAFETY: the memory is as large.
                unsafe { start.cast::<u8>().write_bytes(0, BUFFER) };
                Host::PageLocked(start.cast())
            }
            Err(_) => Host::Pageable(vec![0; BUFFER]),
        };
        Ok(Self { memory, sent })
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
        if let Host::PageLocked(start) = self.memory {
            // What fails here cannot be mended: memory that may still be read is not freed.
            if self.sent.synchronize().is_ok() {
                // SAFETY: it came from `malloc_host`, is freed once, and nothing reads it any more.
                let _ = unsafe { result::free_host(start.cast()) };
            }
        }
    }
}

/// The ring, which is made when it is wanted.
pub(super) struct Staging {
    context: Arc<CudaContext>,
    /// The one that waits longest is the first.
    ring: Mutex<Vec<Buffer>>,
}

impl Staging {
    pub(super) fn new(context: &Arc<CudaContext>) -> Self {
        Self { context: context.clone(), ring: Mutex::default() }
    }

    /// Lets go of the buffers that only loading wants, once they are copied. One stays, for the noise and tables of pictures:
    /// to lock and unlock its pages takes as long as some layers.
    pub(super) fn trim(&self) {
        lock(&self.ring).truncate(1);
    }

    /// Copies `bytes` to the device, in the order of `stream`. They are made of units of `unit` bytes, the last of which may
    /// be shorter: `fill` is given the number of a unit and its place, whatever it holds.
    pub(super) fn send(
        &self,
        stream: &CudaStream,
        address: u64,
        bytes: usize,
        unit: usize,
        fill: impl Fn(usize, &mut [u8]) + Sync,
    ) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        if bytes < SMALL || unit > BUFFER {
            let mut all = vec![0; bytes];
            all.par_chunks_mut(unit).enumerate().for_each(|(i, place)| fill(i, place));
            // SAFETY: the caller's memory is as large, and the driver has read what is pageable when it returns.
            return unsafe { result::memcpy_htod_async(address, &all, stream.cu_stream()) };
        }
        // Taken out while it is used: a thread that waits for its tasks may run another's upload.
        let mut ring = std::mem::take(&mut *lock(&self.ring));
        let units = BUFFER / unit;
        let task = TASK.div_ceil(unit);
        for first in (0..bytes.div_ceil(unit)).step_by(units) {
            let start = first * unit;
            let wanted = ring.first().is_none_or(|first| ring.len() < BUFFERS && !first.sent.is_complete());
            let mut buffer = if wanted { Buffer::new(&self.context)? } else { ring.remove(0) };
            buffer.sent.synchronize()?;
            let part = &mut buffer.bytes()[..(units * unit).min(bytes - start)];
            part.par_chunks_mut(task * unit).enumerate().for_each(|(i, places)| {
                places.chunks_mut(unit).enumerate().for_each(|(j, place)| fill(first + i * task + j, place));
            });
            // SAFETY: the caller's memory is as large; the buffer is left alone until the event behind the copy.
            unsafe { result::memcpy_htod_async(address + start as u64, part, stream.cu_stream()) }?;
            buffer.sent.record(stream)?;
            ring.push(buffer);
        }
        *lock(&self.ring) = ring;
        Ok(())
    }
}

impl fmt::Debug for Staging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Staging({} buffers)", lock(&self.ring).len())
    }
}
