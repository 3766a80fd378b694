//! Uploads and downloads.

use super::gpu::Gpu;
use crate::backend::DeviceTensor;
use crate::backend::gpu::lock;
use crate::backend::webgpu::driver::signal::Signal;
use crate::backend::webgpu::memory::allocate::{self, Place, Request, check_size};
use crate::backend::webgpu::memory::pool::Memory;
use crate::backend::webgpu::memory::tensor::{WebGpuTensor, padded_bytes};
use crate::backend::webgpu::memory::upload::Upload;
use crate::error::{Error, MemoryKind, Result};
use crate::reserve;
use crate::tensor::{DType, HostTensor, Weight};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// Bytes of uploads after which the host waits for the device to copy them, so that loading a model
/// does not hold a second copy of it.
const MAX_UPLOADED: u64 = 256 << 20;
/// Bytes written to host memory after which the host waits for the device to copy them. They pass
/// through a staging buffer, which may be in device memory.
const MAX_STAGED: u64 = 32 << 20;
/// Bytes of the flag that follows a downloaded picture.
const FLAG_BYTES: u64 = 4;

impl Gpu {
    /// A zeroed buffer of `bytes` for the host to write. `limit`: the device's limit for this
    /// buffer's use.
    pub(crate) fn start_upload(
        &self,
        op: &str,
        shape: &[usize],
        bytes: u64,
        limit: u64,
        place: Place,
    ) -> Result<Upload> {
        self.device.faults.check()?;
        check_size(&self.device, op, format_args!("a tensor of shape {shape:?}"), bytes, limit)?;
        if place == Place::Pageable {
            return Ok(Upload::pageable(bytes));
        }
        if place != Place::Device {
            return allocate::of_host(&self.device, op, shape, bytes, place).map(Upload::of_host);
        }
        let buffer =
            self.allocate(Request { op, shape, bytes, mapped: Upload::MAPPED, memory: MemoryKind::Weights })?;
        Upload::new(op, buffer, &self.pool)
    }

    /// Writes `part` at byte `at` of an upload: see [`Upload::write`]. Pageable memory holds it.
    pub(crate) fn write(&self, upload: &mut Upload, at: usize, part: Bytes) -> Result<()> {
        let len = part.len();
        self.write_rows(upload, at, part, len, len)
    }

    /// Writes rows of `row` bytes, `stride` bytes apart, from byte `at` of an upload on.
    pub(crate) fn write_rows(
        &self,
        upload: &mut Upload,
        at: usize,
        rows: Bytes,
        row: usize,
        stride: usize,
    ) -> Result<()> {
        if let Some(pageable) = upload.memory().as_pageable() {
            pageable.push(at, rows, row, stride);
            return Ok(());
        }
        // Rows without padding are contiguous and are written at once.
        let chunk = if row == stride { rows.len().max(1) } else { row };
        for (i, rows) in rows.chunks(chunk).enumerate() {
            self.write_now(upload, at + i * stride, rows)?;
        }
        Ok(())
    }

    fn write_now(&self, upload: &mut Upload, at: usize, part: &[u8]) -> Result<()> {
        if !upload.memory().is_of_host() {
            upload.write(&self.device.queue, at, part);
            return Ok(());
        }
        for (i, part) in part.chunks(MAX_STAGED as usize).enumerate() {
            upload.write(&self.device.queue, at + i * MAX_STAGED as usize, part);
            self.wait_for_uploads(part.len() as u64, MAX_STAGED)?;
        }
        Ok(())
    }

    /// Ends an upload: from now on the memory belongs to the device.
    pub(crate) fn finish_upload(&self, upload: Upload) -> Result<Arc<Memory>> {
        let memory = upload.memory().clone();
        drop(upload);
        if !memory.is_of_host() {
            self.wait_for_uploads(memory.buffer().size(), MAX_UPLOADED)?;
        }
        Ok(memory)
    }

    /// Counts uploaded bytes, and waits for the device to copy them when there are more than
    /// `most`.
    fn wait_for_uploads(&self, bytes: u64, most: u64) -> Result<()> {
        let full = {
            let mut queue = lock(&self.queue);
            queue.uploaded += bytes;
            queue.uploaded > most
        };
        if full {
            lock(&self.queue).uploaded = 0;
            self.device.queue.submit([]);
            self.device.poll(None)?;
        }
        Ok(())
    }

    /// A buffer for a matrix that the device writes at once.
    pub(crate) fn matrix_memory(&self, op: &str, shape: &[usize], bytes: u64) -> Result<Arc<Memory>> {
        let buffer = self.allocate(Request { op, shape, bytes, mapped: false, memory: MemoryKind::Weights })?;
        Ok(Memory::new(buffer, &self.pool))
    }

    /// Uploads a tensor as it is.
    pub(crate) fn upload_tensor(&self, op: &str, tensor: &HostTensor) -> Result<WebGpuTensor> {
        let mut upload = self.start_tensor(op, tensor.shape(), tensor.dtype(), Place::Device)?;
        upload.write(&self.device.queue, 0, tensor.bytes());
        Ok(WebGpuTensor::new(tensor.shape(), tensor.dtype(), self.finish_upload(upload)?))
    }

    /// The frequencies of `timestep_embedding`, uploaded on first use.
    pub(crate) fn frequencies(&self, op: &str, count: usize) -> Result<WebGpuTensor> {
        self.frequencies.get(count, |values| self.upload_tensor(op, &HostTensor::from_f32(&[count], values)))
    }

    /// Uploads a table as it is stored, row after row, in tensors of so many rows, an even number
    /// if there are several. Streamed ones are read in host memory.
    pub(crate) async fn upload_table(&self, op: &str, table: &Weight<'_>, rows: usize) -> Result<Vec<WebGpuTensor>> {
        let place = self.place(std::slice::from_ref(table), Place::HostBound);
        let (dtype, row) = (table.dtype(), table.row_bytes());
        let shape = |first: usize| [rows.min(table.rows() - first), table.shape()[1]];
        let starts = (0..table.rows()).step_by(rows);
        let mut uploads: Vec<Upload> =
            starts.clone().map(|first| self.start_tensor(op, &shape(first), dtype, place)).collect::<Result<_>>()?;
        let write = |first: usize, piece: HostTensor| {
            let end = first + piece.shape()[0];
            for (upload, start) in uploads.iter_mut().zip(starts.clone()) {
                let inside = first.max(start)..end.min(start + rows);
                if !inside.is_empty() {
                    let bytes = (inside.start - first) * row..(inside.end - first) * row;
                    self.write(upload, (inside.start - start) * row, piece.bytes().slice(bytes))?;
                }
            }
            Ok(())
        };
        Weight::each_piece(std::slice::from_ref(table), write).await?;
        let finished = |(upload, first)| Ok(WebGpuTensor::new(&shape(first), dtype, self.finish_upload(upload)?));
        uploads.into_iter().zip(starts).map(finished).collect()
    }

    fn start_tensor(&self, op: &str, shape: &[usize], dtype: DType, place: Place) -> Result<Upload> {
        self.start_upload(op, shape, padded_bytes(shape, dtype), self.device.limits.max_buffer_size, place)
    }

    /// Copies a tensor to the host after all work called before.
    pub(crate) async fn download(&self, tensor: &WebGpuTensor) -> Result<HostTensor> {
        self.device.faults.check()?;
        self.flush();
        let device = &self.device.device;
        let bytes = tensor.bytes();
        // The flag of values that are not finite follows a picture.
        let picture = tensor.dtype() == DType::U8;
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("download"),
            size: bytes + if picture { FLAG_BYTES } else { 0 },
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(tensor.memory().buffer(), 0, &staging, 0, Some(bytes));
        if picture {
            let flag = self.non_finite.buffer();
            encoder.copy_buffer_to_buffer(flag, 0, &staging, bytes, Some(FLAG_BYTES));
            encoder.clear_buffer(flag, 0, Some(FLAG_BYTES));
        }
        let submission = self.device.queue.submit([encoder.finish()]);
        let mapped = Signal::new();
        staging.map_async(wgpu::MapMode::Read, .., mapped.sender());
        self.poll_for(&mapped, Some(&submission))?;
        let result = mapped.await;
        self.device.faults.check()?;
        let refused = |error: &dyn fmt::Display| Error::Device(format!("the GPU's memory cannot be read: {error}"));
        result.map_err(|error| refused(&error))?;
        let view = staging.get_mapped_range(..).map_err(|error| refused(&error))?;
        if picture && view[bytes as usize..].iter().any(|&byte| byte != 0) {
            return Err(Error::NonFinitePicture);
        }
        let len = tensor.len() * tensor.dtype().size();
        let stored = reserve::copied(&view[..len], "what comes back from the GPU")?;
        HostTensor::new(tensor.dtype(), tensor.shape(), stored.into())
            .ok_or_else(|| Error::internal("download: a tensor's memory does not hold its shape"))
    }
}
