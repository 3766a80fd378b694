//! Copies between host and device.

use super::gpu::{Gpu, bytes};
use crate::backend::DeviceTensor;
use crate::backend::cuda::driver::error::fault;
use crate::backend::cuda::memory::arena::Home;
use crate::backend::cuda::memory::staging::Fill;
use crate::backend::cuda::memory::tensor::{CudaTensor, fp8_values};
use crate::error::{Error, Result};
use crate::reserve::zeros;
use crate::tensor::{DType, HostTensor, Weight};
use bytes::Bytes;
use cudarc::driver::result;
use rayon::prelude::*;

/// The bytes of a tensor's elements that a task copies to staging memory.
const CHUNK: usize = 512 << 10;

impl Gpu {
    /// A tensor with these elements, outside of any recording and filled at once.
    pub(crate) fn upload(
        &self,
        op: &'static str,
        shape: &[usize],
        dtype: DType,
        elements: &[u8],
    ) -> Result<CudaTensor> {
        let tensor = self.filled_target(op, shape, dtype, elements.len(), Home::Device)?;
        self.upload_bytes(op, &tensor, 0, elements)?;
        Ok(tensor)
    }

    /// As [`Gpu::upload`], to any memory.
    pub(crate) fn upload_to(
        &self,
        op: &'static str,
        shape: &[usize],
        dtype: DType,
        elements: Bytes,
        home: Home,
    ) -> Result<CudaTensor> {
        let tensor = self.filled_target(op, shape, dtype, elements.len(), home)?;
        self.upload_piece(op, &tensor, 0, elements)?;
        Ok(tensor)
    }

    /// A tensor for an upload of `len` bytes, which have to be all of it.
    fn filled_target(
        &self,
        op: &'static str,
        shape: &[usize],
        dtype: DType,
        len: usize,
        home: Home,
    ) -> Result<CudaTensor> {
        if bytes(op, shape, dtype)? != len {
            return Err(Error::shape(op, format!("{len} bytes do not fill {shape:?} of {dtype}")));
        }
        self.upload_target(op, shape, dtype, home)
    }

    /// A table in the type that it is stored in. A streamed one stays in host memory, where kernels
    /// read the few rows that they gather.
    pub(crate) async fn upload_table(&self, op: &'static str, table: &Weight<'_>) -> Result<CudaTensor> {
        let tensor = self.upload_target(op, table.shape(), table.dtype(), Home::of_table(table))?;
        let upload = |first, rows: HostTensor| self.upload_bytes(op, &tensor, first * table.row_bytes(), rows.bytes());
        Weight::each_piece(std::slice::from_ref(table), upload).await?;
        Ok(tensor)
    }

    /// The frequencies of `timestep_embedding`, uploaded on first use.
    pub(crate) fn frequencies(&self, op: &'static str, count: usize) -> Result<CudaTensor> {
        self.frequencies.get(count, |values| self.upload(op, &[count], DType::F32, bytemuck::cast_slice(values)))
    }

    /// Copies bytes into a tensor, from its byte `at` on.
    pub(crate) fn upload_bytes(&self, op: &'static str, tensor: &CudaTensor, at: usize, elements: &[u8]) -> Result<()> {
        self.upload_chunks(op, tensor, at, elements.len(), CHUNK, chunks_of(elements))
    }

    /// As [`Gpu::upload_bytes`]; a tensor in pageable memory holds the piece.
    pub(crate) fn upload_piece(&self, op: &'static str, tensor: &CudaTensor, at: usize, piece: Bytes) -> Result<()> {
        self.upload_owned_chunks(op, tensor, at, piece.len(), CHUNK, move |i, to| chunks_of(&piece)(i, to))
    }

    /// As [`Gpu::upload_chunks`]; a tensor in pageable memory holds `fill`, and calls it at each
    /// copy.
    pub(crate) fn upload_owned_chunks(
        &self,
        op: &'static str,
        tensor: &CudaTensor,
        at: usize,
        bytes: usize,
        chunk: usize,
        fill: impl Fill + Send + 'static,
    ) -> Result<()> {
        match tensor.allocation().as_pageable() {
            Some(pageable) => {
                pageable.push(at, bytes, chunk, fill);
                Ok(())
            }
            None => self.upload_chunks(op, tensor, at, bytes, chunk, fill),
        }
    }

    /// Fills `bytes` bytes of a tensor from its byte `at` on, in chunks of `chunk` bytes in any
    /// order.
    pub(crate) fn upload_chunks(
        &self,
        op: &'static str,
        tensor: &CudaTensor,
        at: usize,
        bytes: usize,
        chunk: usize,
        fill: impl Fill,
    ) -> Result<()> {
        let allocation = tensor.allocation();
        debug_assert!(at + bytes <= allocation.bytes());
        if allocation.home() == Home::Host {
            let start = (allocation.address()? as usize + at) as *mut u8;
            // SAFETY: the driver's memory is as large and has bytes of some value, and nothing else
            // uses it during the upload.
            let memory = unsafe { std::slice::from_raw_parts_mut(start, bytes) };
            memory.par_chunks_mut(chunk).enumerate().for_each(|(i, to)| fill(i, to));
            return Ok(());
        }
        self.staging.send(op, &self.device.stream, allocation.address()? + at as u64, bytes, chunk, &fill)
    }

    /// Copies a tensor to the host after all earlier work.
    pub(crate) fn download(&self, tensor: &CudaTensor) -> Result<HostTensor> {
        let op = "download";
        self.not_recording(op)?;
        self.bind(op)?;
        let elements = self.read(op, tensor.allocation().address()?, tensor.bytes())?;
        if let Some(scales) = tensor.scales() {
            let bytes = self.read(op, scales.allocation().address()?, scales.bytes())?;
            let scales: Vec<f32> = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            let rows = tensor.len() / tensor.shape().last().copied().unwrap_or(1);
            let values = match tensor.projection() {
                Some(projection) => projection.values(&elements, &scales),
                None => fp8_values(&elements, &scales, rows),
            };
            return Ok(HostTensor::from_f32(tensor.shape(), &values));
        }
        if tensor.dtype() == DType::U8 {
            self.check_finite()?;
        }
        HostTensor::new(tensor.dtype(), tensor.shape(), elements.into())
            .ok_or_else(|| Error::shape(op, "a tensor's memory does not hold its shape"))
    }

    /// Copies `bytes` bytes from the device address `address` after all earlier work.
    fn read(&self, op: &'static str, address: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut elements = zeros(bytes, "what comes back from the GPU")?;
        let stream = &self.device.stream;
        // SAFETY: the caller's device memory holds as many bytes.
        let copied = unsafe { result::memcpy_dtoh_async(&mut elements, address, stream.cu_stream()) };
        // Also if the call failed: the driver may report an earlier error.
        if let Err(error) = stream.synchronize().and(copied) {
            // Memory that may still be written is leaked.
            std::mem::forget(elements);
            return Err(fault(op, error));
        }
        Ok(elements)
    }

    /// An error if a picture had non-finite values since the last call.
    fn check_finite(&self) -> Result<()> {
        let op = "to_rgb8";
        let word = self.non_finite.allocation().address()?;
        let found = self.read(op, word, self.non_finite.bytes())?;
        if found.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        // SAFETY: the word's memory is as large, and no work that is in flight uses it.
        unsafe { result::memset_d8_async(word, 0, found.len(), self.device.stream.cu_stream()) }
            .map_err(|error| fault(op, error))?;
        Err(Error::NonFinitePicture)
    }
}

/// Copies chunks of [`CHUNK`] bytes.
fn chunks_of(elements: &[u8]) -> impl Fill {
    |i, to| to.copy_from_slice(&elements[i * CHUNK..i * CHUNK + to.len()])
}
