//! New buffers, and the errors for those that cannot be made.

use super::pool::Pool;
use crate::backend::webgpu::driver::device::Device;
use crate::error::{Error, MemoryKind, Result};
use std::fmt;

/// A buffer to allocate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// The op or the upload that needs it.
    pub op: &'a str,
    /// The tensor's shape.
    pub shape: &'a [usize],
    pub bytes: u64,
    /// Whether the host writes it first.
    pub mapped: bool,
    /// The use of the buffer, which the error names.
    pub memory: MemoryKind,
}

/// Refuses a buffer larger than `limit` bytes.
pub(crate) fn check_size(device: &Device, op: &str, what: fmt::Arguments<'_>, bytes: u64, limit: u64) -> Result<()> {
    if bytes <= limit {
        return Ok(());
    }
    let problem = format!(
        "{op}: {what} takes {:.1} MiB, and {} allows {:.1} MiB for one buffer",
        mebibytes(bytes),
        device.info.name,
        mebibytes(limit)
    );
    Err(Error::out_of_memory(MemoryKind::Buffer, problem))
}

/// A new buffer. Cached buffers of earlier stages are freed for it. When memory runs out, all free
/// buffers are freed and pending work is submitted with `flush` before the second attempt.
pub(crate) fn allocate(
    device: &Device,
    pool: &Pool,
    request: Request<'_>,
    flush: impl FnOnce(),
) -> Result<wgpu::Buffer> {
    let Request { op, shape, bytes, mapped, memory } = request;
    let create = || {
        let buffer = device.device.create_buffer(&descriptor(op, bytes, mapped));
        if device.faults.take_out_of_memory() {
            return None;
        }
        pool.allocated(bytes);
        Some(buffer)
    };
    pool.evict(bytes);
    let made = create().or_else(|| {
        flush();
        pool.clear();
        device.poll(None).ok()?;
        create()
    });
    made.ok_or_else(|| {
        let mib = mebibytes(bytes);
        let name = &device.info.name;
        let problem = format!("{op}: {name} has no memory left for a tensor of shape {shape:?} ({mib:.1} MiB)");
        Error::out_of_memory(memory, problem)
    })
}

/// A buffer of tensors: bound to shaders and copied from and to.
pub(crate) fn descriptor(label: &str, size: u64, mapped: bool) -> wgpu::BufferDescriptor<'_> {
    wgpu::BufferDescriptor {
        label: Some(label),
        size,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: mapped,
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}
