//! New buffers, and the errors for those that cannot be made.
//!
//! Streamed weights are in host memory, or have no buffer. A buffer that the host only reads is
//! there on every platform: in cached memory on Vulkan, which device memory never is, in the
//! system's pool on Direct3D 12, and in shared memory on Metal. One that the host writes would be
//! in device memory where Vulkan has such memory in the host's reach (resizable BAR). So these
//! buffers are for reading, and the queue writes them.

use super::pool::Pool;
use crate::backend::webgpu::driver::device::Device;
use crate::error::{Error, MemoryKind, Result};
use std::fmt;
use wgpu::BufferUsages;

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

/// The memory of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The device's.
    Device,
    /// The host's. The device copies the weight before each use.
    Host,
    /// The host's. Shaders read the weight there.
    HostBound,
    /// None of the backend's: the queue writes the pieces of the weight, as they were read, to the
    /// device before each use.
    Pageable,
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
        if pool.exceeded(bytes).is_some() {
            return None;
        }
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
        let problem = match pool.exceeded(bytes) {
            None => format!("{op}: {name} has no memory left for a tensor of shape {shape:?} ({mib:.1} MiB)"),
            Some(limit) => format!(
                "{op}: the limit of {:.1} MiB on {name} has no room left for a tensor of shape {shape:?} ({mib:.1} MiB)",
                mebibytes(limit)
            ),
        };
        Error::out_of_memory(memory, problem)
    })
}

/// A new zeroed buffer in host memory, for a weight of this shape, on a device that streams.
pub(crate) fn of_host(device: &Device, op: &str, shape: &[usize], bytes: u64, place: Place) -> Result<wgpu::Buffer> {
    let bound = if place == Place::HostBound { BufferUsages::STORAGE } else { BufferUsages::empty() };
    let buffer = device.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(op),
        size: bytes,
        usage: BufferUsages::MAP_READ | BufferUsages::COPY_SRC | BufferUsages::COPY_DST | bound,
        mapped_at_creation: false,
    });
    if device.faults.take_out_of_memory() {
        let mib = mebibytes(bytes);
        let name = &device.info.name;
        let problem =
            format!("{op}: the host has no memory left for {name} for a tensor of shape {shape:?} ({mib:.1} MiB)");
        return Err(Error::out_of_memory(MemoryKind::Host, problem));
    }
    Ok(buffer)
}

/// A buffer of tensors: bound to shaders and copied from and to.
pub(crate) fn descriptor(label: &str, size: u64, mapped: bool) -> wgpu::BufferDescriptor<'_> {
    wgpu::BufferDescriptor {
        label: Some(label),
        size,
        usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
        mapped_at_creation: mapped,
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}
