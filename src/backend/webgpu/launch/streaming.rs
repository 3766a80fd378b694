//! Streaming: weights in host memory, copied to the device just before each use.
//!
//! The copy of a piece of a matrix is a command like a dispatch, so a recording replays it. Pieces
//! go through output memory, which is free again once the gemm is called, so one piece is on the
//! device at a time. WebGPU has one queue and orders its commands: the copy of the next piece does
//! not overlap with the gemm of this one. Tables are not copied: shaders read their few rows in
//! host memory.
//!
//! Pieces in pageable memory are written by the queue instead, between two submissions, and the
//! host waits for the piece before the last one, so that few of them are in flight.
//!
//! No browser streams. Its buffers for the host cannot be bound, and mapping them would copy every
//! weight through this program's memory.

use super::binding::Binding;
use super::gpu::Gpu;
use crate::backend::webgpu::memory::allocate::{Place, of_host};
use crate::backend::webgpu::memory::pool::Memory;
use crate::backend::webgpu::memory::scratch::Largest;
use crate::error::Result;
use crate::tensor::{StreamSource, Weight};
use std::sync::Arc;

/// Most bytes of a piece that is copied or dequantised for a gemm. This bounds the scratch memory,
/// and leaves each gemm enough rows to keep a GPU busy.
pub(crate) const MAX_PIECE: u64 = 64 << 20;

impl Gpu {
    /// The memory of weights that are uploaded together: `streamed` if they are streamed from the
    /// backend's memory.
    pub(crate) fn place<'w>(&self, weights: impl IntoIterator<Item = &'w Weight<'w>>, streamed: Place) -> Place {
        let source = weights.into_iter().filter_map(Weight::stream_source).min().filter(|_| self.device.streams);
        match (source, streamed) {
            (None, _) => Place::Device,
            (Some(StreamSource::Files), Place::Host) => Place::Pageable,
            (Some(_), streamed) => streamed,
        }
    }

    /// Output memory for a piece of `bytes`, as large as the largest one needs.
    pub(crate) fn scratch(&self, op: &'static str, largest: &Largest, bytes: u64) -> Result<Arc<Memory>> {
        let bytes = bytes.max(largest.bytes());
        self.output_memory(op, &[bytes as usize], bytes)
    }

    /// The first `bytes` of a weight in device memory: itself, or a copy if it is streamed.
    pub(crate) fn staged(&self, op: &'static str, weight: &Arc<Memory>, bytes: u64) -> Result<Arc<Memory>> {
        if !weight.is_of_host() {
            return Ok(weight.clone());
        }
        let copy = self.scratch(op, &self.scratch.streamed, bytes)?;
        let to = Binding::of(&copy, bytes);
        match weight.as_pageable() {
            Some(_) => self.write_pageable(weight, &to),
            None => self.copy(Binding::of(weight, bytes), to),
        }
        Ok(copy)
    }

    /// As [`Gpu::staged`] for a streamed weight, but the copy is made at once, also inside a
    /// recording.
    pub(crate) fn staged_now(&self, op: &str, weight: &Arc<Memory>, bytes: u64) -> Result<Arc<Memory>> {
        let copy = self.scratch_now(op, bytes)?;
        self.copy_now(&Binding::of(weight, bytes), &Binding::of(&copy, bytes));
        Ok(copy)
    }

    /// Memory of the backend for commands that run at once.
    pub(crate) fn scratch_now(&self, op: &str, bytes: u64) -> Result<Arc<Memory>> {
        // Pending work may use a free buffer.
        self.flush();
        let bytes = bytes.max(self.scratch.streamed.bytes());
        match self.pool.take(bytes) {
            Some(buffer) => Ok(Memory::new(buffer, &self.pool)),
            None => self.matrix_memory(op, &[bytes as usize], bytes),
        }
    }

    /// Copies the first `bytes` of `from` at once to host memory for a streamed matrix of this
    /// shape: to `to` if it is as large, else to new memory.
    pub(crate) fn to_host_now(
        &self,
        op: &str,
        shape: &[usize],
        from: &Arc<Memory>,
        to: Arc<Memory>,
        bytes: u64,
    ) -> Result<Arc<Memory>> {
        let to = match to.bytes() == bytes {
            true => to,
            false => Arc::new(Memory::Host(of_host(&self.device, op, shape, bytes, Place::Host)?)),
        };
        self.copy_now(&Binding::of(from, bytes), &Binding::of(&to, bytes));
        Ok(to)
    }
}
