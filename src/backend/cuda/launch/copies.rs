//! The state of streaming: the copy stream, its ring buffer, and the order of its copies.

use crate::backend::cuda::memory::allocation::Allocation;
use crate::backend::cuda::memory::ring::Ring;
use crate::backend::gpu::lock;
use cudarc::driver::{CudaEvent, CudaStream};
use std::sync::{Arc, Mutex, OnceLock};

/// The ring has room for so many of the largest tensors that are streamed: one is read, one is
/// copied, and the one after it may begin.
pub(crate) const LARGEST: u64 = 3;

/// The copy stream and its ring buffer.
#[derive(Debug, Default)]
pub(super) struct Streaming {
    pub copies: OnceLock<Arc<CudaStream>>,
    pub buffer: Mutex<Buffer>,
}

#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// Bytes of the largest tensor in host memory.
    pub largest: u64,
    pub memory: Option<Arc<Allocation>>,
    pub order: Order,
}

/// The slots of the ring since the last fork.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// `None` before the fork.
    pub ring: Option<Ring<Arc<CudaEvent>>>,
}

impl Streaming {
    /// Starts another order of copies, which begins with a fork, and returns the current one.
    pub(super) fn replace(&self, order: Order) -> Order {
        std::mem::replace(&mut lock(&self.buffer).order, order)
    }

    /// Frees the ring, unless a recording still uses it.
    pub(super) fn trim(&self) {
        let buffer = &mut *lock(&self.buffer);
        buffer.memory = None;
        buffer.order = Order::default();
    }
}
