//! The state of the backend: the device, its memory and its order of work.

use super::binding::Binding;
use super::recording::{Command, Recorder};
use crate::backend::gpu::frequencies::Frequencies;
use crate::backend::gpu::lock;
use crate::backend::webgpu::driver::adapters::Adapters;
use crate::backend::webgpu::driver::device::Device;
use crate::backend::webgpu::driver::pipelines::Pipelines;
use crate::backend::webgpu::driver::variant::Shaders;
use crate::backend::webgpu::memory::allocate::{self, Request, check_size, descriptor};
use crate::backend::webgpu::memory::pool::{Memory, Pool};
use crate::backend::webgpu::memory::scratch::Scratch;
use crate::backend::webgpu::memory::tensor::{WebGpuTensor, padded_bytes};
use crate::error::{MemoryKind, Result};
use crate::tensor::DType;
use std::sync::{Arc, Mutex};

/// Bytes of the smallest binding.
const MIN_BINDING: u64 = 16;

/// A device with its memory and its order of work.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub device: Device,
    pub pool: Arc<Pool>,
    pub(super) pipelines: Pipelines,
    pub(super) queue: Mutex<Queue>,
    absent_input: Arc<Memory>,
    absent_output: Arc<Memory>,
    pub(super) frequencies: Frequencies<WebGpuTensor>,
    /// The sizes of the memory through which weights pass.
    pub scratch: Scratch,
    /// A word that `to_rgb8` sets for a value that is not finite. The download of a picture reads
    /// and clears it.
    pub(super) non_finite: Arc<Memory>,
}

/// Work that was called and is not submitted.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub pending: Vec<Command>,
    pub recorder: Option<Recorder>,
    /// The last submission.
    pub last: Option<wgpu::SubmissionIndex>,
    /// The last submission before the last write of a weight in pageable memory. Once it has run,
    /// the earlier writes have been read.
    pub before_write: Option<wgpu::SubmissionIndex>,
    /// Bytes uploaded since the host last waited for them.
    pub uploaded: u64,
}

impl Gpu {
    /// Opens an adapter. No buffer larger than `largest` is bound, even if the adapter allows more.
    pub(crate) async fn open(adapters: Adapters, shaders: Shaders, largest: u64) -> Result<Self> {
        let mut device = Device::open(&adapters, shaders).await?;
        device.max_binding = device.max_binding.min(largest);
        let pool = Arc::new(Pool::default());
        let word = |label| Memory::new(device.device.create_buffer(&descriptor(label, MIN_BINDING, false)), &pool);
        let absent_input = word("absent input");
        let absent_output = word("absent output");
        let non_finite = word("non-finite flag");
        let pipelines = Pipelines::new(&device.device, &device.info);
        device.faults.check()?;
        Ok(Self {
            device,
            pool,
            pipelines,
            queue: Mutex::default(),
            absent_input,
            absent_output,
            frequencies: Frequencies::default(),
            scratch: Scratch::default(),
            non_finite,
        })
    }

    /// A tensor for `op` to write. Its elements are undefined.
    pub(crate) fn output(&self, op: &'static str, shape: &[usize], dtype: DType) -> Result<WebGpuTensor> {
        let bytes = padded_bytes(shape, dtype);
        check_size(&self.device, op, format_args!("a tensor of shape {shape:?}"), bytes, self.device.max_binding)?;
        Ok(WebGpuTensor::new(shape, dtype, self.output_memory(op, shape, bytes)?))
    }

    /// At least `bytes` bytes of memory for `op` to write, of the recording or of the backend.
    pub(crate) fn output_memory(&self, op: &'static str, shape: &[usize], bytes: u64) -> Result<Arc<Memory>> {
        self.device.faults.check()?;
        let pool = match &lock(&self.queue).recorder {
            Some(recorder) => recorder.pool.clone(),
            None => self.pool.clone(),
        };
        let buffer = match pool.take(bytes).or_else(|| pool.take_instead(bytes)) {
            Some(buffer) => buffer,
            None => self.uninit(op, shape, bytes)?,
        };
        Ok(Memory::new(buffer, &pool))
    }

    /// A new buffer for an output. Debug builds poison it, so that an element that no shader writes
    /// shows.
    fn uninit(&self, op: &str, shape: &[usize], bytes: u64) -> Result<wgpu::Buffer> {
        let poison = cfg!(debug_assertions);
        let made = self.allocate(Request { op, shape, bytes, mapped: poison, memory: MemoryKind::Activations })?;
        if poison {
            if let Ok(mut mapped) = made.get_mapped_range_mut(..) {
                let ones = vec![0xff; mapped.len()];
                mapped.copy_from_slice(&ones);
            }
            made.unmap();
        }
        Ok(made)
    }

    pub(crate) fn allocate(&self, request: Request<'_>) -> Result<wgpu::Buffer> {
        allocate::allocate(&self.device, &self.pool, request, || self.flush())
    }

    /// The binding of an absent input.
    pub(crate) fn absent_input(&self) -> Binding {
        word(&self.absent_input)
    }

    /// The binding of an unwanted output.
    pub(crate) fn absent_output(&self) -> Binding {
        word(&self.absent_output)
    }

    /// The binding of the word that marks a picture that is not finite.
    pub(crate) fn non_finite(&self) -> Binding {
        word(&self.non_finite)
    }

    /// The binding of an optional input.
    pub(crate) fn optional(&self, tensor: Option<&WebGpuTensor>) -> Binding {
        tensor.map_or_else(|| self.absent_input(), Binding::from)
    }
}

fn word(memory: &Arc<Memory>) -> Binding {
    Binding::of(memory, MIN_BINDING)
}
