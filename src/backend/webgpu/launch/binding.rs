//! Buffers as shaders see them.

use crate::backend::webgpu::memory::pool::Memory;
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use std::sync::Arc;

/// A range of a buffer that a dispatch reads or writes.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub memory: Arc<Memory>,
    pub offset: u64,
    pub bytes: u64,
}

impl Binding {
    /// The first `bytes` of a buffer.
    pub(crate) fn of(memory: &Arc<Memory>, bytes: u64) -> Self {
        Self { memory: memory.clone(), offset: 0, bytes }
    }
}

impl From<&WebGpuTensor> for Binding {
    fn from(tensor: &WebGpuTensor) -> Self {
        Self { memory: tensor.memory().clone(), offset: 0, bytes: tensor.bytes() }
    }
}
