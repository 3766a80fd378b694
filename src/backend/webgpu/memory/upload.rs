//! New memory that the host writes.

use super::pageable::{Pageable, write_words};
use super::pool::{Memory, Pool};
use crate::error::{Error, Result};
use std::sync::Arc;

/// New memory that the host is writing. No submitted work uses it yet.
#[derive(Debug)]
pub(crate) struct Upload {
    view: Option<wgpu::BufferViewMut>,
    memory: Arc<Memory>,
}

impl Upload {
    /// Whether the buffer is mapped. A browser would map a copy of the whole buffer into this
    /// program's memory, while its queue takes parts as they are.
    pub(crate) const MAPPED: bool = !cfg!(target_family = "wasm");

    /// Starts writing a buffer of the device, which was created as [`Upload::MAPPED`] asks.
    pub(crate) fn new(op: &str, buffer: wgpu::Buffer, pool: &Arc<Pool>) -> Result<Self> {
        let view = Self::MAPPED.then(|| buffer.get_mapped_range_mut(..)).transpose();
        let fault = |error| Error::Device(format!("{op}: the GPU's memory cannot be written: {error}"));
        Ok(Self { view: view.map_err(fault)?, memory: Memory::new(buffer, pool) })
    }

    /// Starts writing a buffer in host memory, through the queue.
    pub(crate) fn of_host(buffer: wgpu::Buffer) -> Self {
        Self { view: None, memory: Arc::new(Memory::Host(buffer)) }
    }

    /// Starts a piece of `bytes` bytes in pageable memory.
    pub(crate) fn pageable(bytes: u64) -> Self {
        Self { view: None, memory: Arc::new(Memory::Pageable(Pageable::new(bytes))) }
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Writes `part` at byte `at`, a multiple of 4. A part of another length is followed by zeros
    /// up to the next one.
    pub(crate) fn write(&mut self, queue: &wgpu::Queue, at: usize, part: &[u8]) {
        if let Some(view) = &mut self.view {
            return view.slice(at..at + part.len()).copy_from_slice(part);
        }
        write_words(queue, self.memory.buffer(), at as u64, part);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.view.take().is_some() {
            self.memory.buffer().unmap();
        }
    }
}
