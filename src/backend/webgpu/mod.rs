//! Any GPU: WGSL compute shaders through wgpu.
//!
//! `shaders/` has one file an op, and `ops/` one launcher a shader. Activations are F32, weights
//! stay as they are stored and are widened where they are read, and all arithmetic is F32. The
//! faster variants multiply F16 operands, convert matrices to F16 once they are on the device, and
//! reduce by subgroup operations: see [`Shaders`]. Quantised matrices stay quantised and are
//! dequantised before each gemm. Streamed weights are in host memory and are copied to the device
//! before each use.
//!
//! The layers depend on each other in one direction: ops → gemm → matrix → launch → memory →
//! driver.

mod driver;
mod gemm;
mod launch;
mod matrix;
mod memory;
mod ops;
#[cfg(test)]
mod tests;

use super::{Overheads, Runtime};
use crate::error::Result;
use crate::tensor::{DType, Format, HostTensor};
pub use driver::adapters::{AdapterInfo, Adapters, adapters};
pub use driver::variant::Shaders;
pub use launch::event::WebGpuEvent;
use launch::gpu::Gpu;
use launch::program::Program;
pub use launch::program::Shader;
pub use launch::recording::WebGpuRecording;
use launch::streaming::MAX_PIECE;
pub use launch::uniform::Field;
pub use matrix::{WebGpuConv2d, WebGpuLinear, WebGpuSwiGlu};
pub use memory::tensor::WebGpuTensor;

/// Bytes for tables, latents and other small tensors, for plans.
const SMALL: u64 = 4 << 20;

/// The `webgpu` backend.
#[derive(Debug)]
pub struct WebGpu(Gpu);

impl WebGpu {
    /// Opens the best adapter of this machine.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) without a suitable adapter, or if it cannot be
    /// opened.
    pub async fn open(adapters: Adapters) -> Result<Self> {
        Self::open_with(adapters, Shaders::Best, u64::MAX).await
    }

    /// As [`WebGpu::open`], with these shaders and a limit of `largest` bytes for a buffer that is
    /// bound. The limit shows on a large GPU what happens on a small one.
    ///
    /// # Errors
    /// Those of [`WebGpu::open`], and [`Error::Device`](crate::Error::Device) if the adapter cannot
    /// run the shaders.
    pub async fn open_with(adapters: Adapters, shaders: Shaders, largest: u64) -> Result<Self> {
        Ok(Self(Gpu::open(adapters, shaders, largest).await?))
    }

    /// A description of the variant of the shaders that runs.
    pub fn variant(&self) -> String {
        self.0.device.variant.name()
    }
}

/// Every shader in every variant.
///
/// # Errors
/// [`Error::Internal`](crate::Error::Internal) for a directive that the preprocessor cannot follow.
pub fn shaders() -> Result<Vec<Shader>> {
    programs().iter().map(Program::shader).collect()
}

fn programs() -> Vec<Program> {
    let matrix = [matrix::activations::programs(), matrix::dequantize::programs(), matrix::f16::programs()];
    [ops::programs(), matrix.concat()].concat()
}

impl Runtime for WebGpu {
    type Tensor = WebGpuTensor;
    type Recording = WebGpuRecording;
    type Event = WebGpuEvent;

    const IN_FLIGHT: usize = 2;

    fn name(&self) -> &'static str {
        "webgpu"
    }

    fn device(&self) -> String {
        let info = &self.0.device.info;
        let interface = [&format!("{:?}", info.backend), &info.driver, &info.driver_info];
        let interface: Vec<&str> = interface.into_iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
        format!("{}, {}, {}", info.name, interface.join(" "), self.variant())
    }

    fn operands(&self) -> DType {
        if self.0.device.variant.f16() { DType::F16 } else { DType::F32 }
    }

    /// Variants with F16 operands convert every matrix. Tables stay as they are stored.
    fn weights(&self, stored: DType) -> DType {
        if self.0.device.variant.f16() { DType::F16 } else { stored }
    }

    /// Other formats are decoded during the upload.
    fn keeps(&self, format: Format) -> bool {
        crate::backend::gpu::quantized::keeps(format)
    }

    fn largest_activation(&self) -> usize {
        usize::try_from(self.0.device.max_binding).unwrap_or(usize::MAX) / DType::F32.size()
    }

    fn peak_memory(&self) -> Option<u64> {
        Some(self.0.pool.peak())
    }

    /// WebGPU does not tell the memory that is free, so this is known under a limit.
    fn free_memory(&self) -> Option<u64> {
        self.0.pool.left()
    }

    fn limit_memory(&self, bytes: u64) -> bool {
        self.0.pool.limit(bytes);
        true
    }

    fn overheads(&self) -> Overheads {
        Overheads {
            small: SMALL,
            dequantized: self.operands().size() as u64,
            most_dequantized: MAX_PIECE,
            streamed: self.0.device.streams.then_some(1),
            most_streamed: MAX_PIECE,
            operand: if self.0.device.variant.f16() { DType::F16.size() as u64 } else { 0 },
            pools_buffers: true,
        }
    }

    fn trim(&self) {
        self.0.pool.end_stage();
    }

    /// Widens F16 and BF16, because such tensors are small and shaders read F32.
    fn run_upload(&self, tensor: &HostTensor) -> Result<WebGpuTensor> {
        if matches!(tensor.dtype(), DType::F16 | DType::Bf16) {
            return self.0.upload_tensor("upload", &HostTensor::from_f32(tensor.shape(), &tensor.to_f32()));
        }
        self.0.upload_tensor("upload", tensor)
    }

    async fn download(&self, tensor: &WebGpuTensor) -> Result<HostTensor> {
        self.0.download(tensor).await
    }

    fn record(&self, steps: impl FnOnce(&Self) -> Result<()>) -> Result<WebGpuRecording> {
        self.0.record(|| steps(self))
    }

    fn replay(&self, recording: &WebGpuRecording) -> Result<()> {
        self.0.replay(recording)
    }

    fn event(&self) -> Result<WebGpuEvent> {
        self.0.event()
    }

    async fn wait(&self, event: WebGpuEvent) -> Result<()> {
        self.0.wait(event).await
    }
}
