//! Weights in pageable memory: closures that write their bytes, a part at a time.
//!
//! A closure holds the pieces of the weight as they were read, so a part of a mapped file takes no
//! memory until it is copied.

use super::staging::{Fill, Staging};
use crate::backend::gpu::lock;
use crate::error::Result;
use cudarc::driver::CudaStream;
use std::fmt;
use std::sync::{Arc, Mutex};

/// The bytes of a tensor.
#[derive(Default)]
pub(crate) struct Pageable(Mutex<Vec<Arc<Part>>>);

/// Some of the bytes.
struct Part {
    /// The first byte in the tensor.
    at: usize,
    bytes: usize,
    /// Bytes of a chunk.
    chunk: usize,
    fill: Box<dyn Fill + Send>,
}

impl Pageable {
    /// Adds `bytes` bytes from byte `at` of the tensor on, which `fill` writes in chunks of
    /// `chunk`.
    pub(crate) fn push(&self, at: usize, bytes: usize, chunk: usize, fill: impl Fill + Send + 'static) {
        lock(&self.0).push(Arc::new(Part { at, bytes, chunk, fill: Box::new(fill) }));
    }

    /// Enqueues copies of all parts to a tensor at the device address `address`.
    pub(crate) fn send(&self, op: &str, staging: &Staging, stream: &CudaStream, address: u64) -> Result<()> {
        // Without the lock: a thread that waits for its tasks may run another copy.
        let parts = lock(&self.0).clone();
        parts.iter().try_for_each(|part| {
            let Part { at, bytes, chunk, fill } = &**part;
            staging.send(op, stream, address + *at as u64, *bytes, *chunk, fill)
        })
    }
}

impl fmt::Debug for Pageable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pageable({} parts)", lock(&self.0).len())
    }
}
