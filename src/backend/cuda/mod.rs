//! The `cuda` backend for NVIDIA GPUs, through cudarc, which loads the driver and NVRTC on demand.
//!
//! Each op has a kernel in `kernels/` and a launcher in `ops`. Large linears go through cuBLASLt if
//! it is installed and faster. Activations and matrices are BF16, operands of a gemm may be FP8;
//! biases, norm weights and latents are F32, and so are accumulation, norms and softmax. Matrices
//! in some quantised formats keep the bytes of the file, and are dequantised to BF16 before each
//! use, or by a gemm as it loads them.
//!
//! The layers, each of which uses only those below: `ops`, `gemm`, `matrix`, `launch`, `memory`,
//! `driver`. Building needs nothing of CUDA; without a driver, [`Cuda::open`] returns an error.

mod driver;
mod gemm;
mod launch;
mod matrix;
mod memory;
mod ops;

use super::{Overheads, Runtime};
use crate::error::Result;
use crate::tensor::{DType, Format, HostTensor};
use cudarc::driver::CudaEvent;
pub use driver::nvrtc::Compiled;
pub use driver::program::{File, Program};
use driver::{device, functions, nvrtc};
use gemm::autotune::Autotuner;
use launch::gpu::Gpu;
pub use launch::recording::CudaRecording;
use matrix::Matrix;
pub use matrix::{CudaConv2d, CudaLinear, CudaSwiGlu};
pub use memory::arena::Placement;
pub use memory::tensor::CudaTensor;

/// The least compute capability whose tensor cores multiply E4M3, and the first NVRTC whose PTX has
/// the instruction for other devices than Hopper.
const FP8_CAPABILITY: (i32, i32) = (8, 9);
const FP8_COMPILER: (i32, i32) = (12, 4);

/// The `cuda` backend.
#[derive(Debug)]
pub struct Cuda {
    gpu: Gpu,
    autotuner: Autotuner,
}

/// A point in the order of the ops.
#[derive(Debug)]
pub struct CudaPoint(CudaEvent);

impl Cuda {
    /// Opens the GPU with this index in the driver's order, from 0.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if there is no driver, no GPU or no NVRTC, or if one
    /// of them is too old; the message says which one and what to do.
    /// [`Error::Request`](crate::Error::Request) for an index past the last GPU.
    pub fn open(index: usize, placement: Placement) -> Result<Self> {
        Ok(Self { gpu: Gpu::open(index, placement)?, autotuner: Autotuner::default() })
    }

    /// The number of GPUs that the driver sees; 0 without a driver.
    pub fn count() -> usize {
        device::count().unwrap_or(0)
    }

    /// True if this machine has an NVIDIA GPU and a driver, even one that [`Cuda::open`] cannot
    /// use.
    pub fn present() -> bool {
        device::present()
    }
}

/// Every program for an architecture such as `sm_90a`, in many of its variants: for tests that
/// compile them.
pub fn programs(architecture: &str) -> Vec<Program> {
    ops::programs(architecture)
}

/// The driver functions that the backend calls: for tests on an emulated driver.
pub fn driver_functions() -> &'static [&'static str] {
    functions::DRIVER
}

/// Compiles a program for an architecture such as `sm_90a`, as the backend does; needs no GPU.
///
/// # Errors
/// [`Error::Internal`](crate::Error::Internal) if an include is missing or cyclic;
/// [`Error::Device`](crate::Error::Device) if NVRTC is missing, does not know the architecture, or
/// rejects the program.
pub fn compile(program: &Program, architecture: &str) -> Result<Compiled> {
    nvrtc::compile(program, architecture)
}

impl Runtime for Cuda {
    type Tensor = CudaTensor;
    type Recording = CudaRecording;
    type Event = CudaPoint;

    const IN_FLIGHT: usize = 2;
    const RECORDINGS_SHARE_MEMORY: bool = true;

    fn name(&self) -> &'static str {
        "cuda"
    }

    fn device(&self) -> String {
        let device = &self.gpu.device;
        let (major, minor) = device.capability;
        let (compiler, point) = device.kernels.compiler();
        let kernels = if device.sm90 { ", kernels for Hopper" } else { "" };
        let gemms = match self.autotuner.library(&self.gpu) {
            Ok(library) => library.version(),
            Err(reason) => format!("no cuBLASLt ({reason})"),
        };
        format!("{}, compute capability {major}.{minor}, NVRTC {compiler}.{point}, {gemms}{kernels}", device.name)
    }

    fn activations(&self) -> DType {
        DType::Bf16
    }

    fn operands(&self) -> DType {
        DType::Bf16
    }

    fn peak_memory(&self) -> Option<u64> {
        Some(self.gpu.peak_memory())
    }

    fn free_memory(&self) -> Option<u64> {
        self.gpu.free_memory()
    }

    fn limit_memory(&self, bytes: u64) -> bool {
        self.gpu.limit_memory(bytes);
        true
    }

    fn weights(&self, _: DType) -> DType {
        Matrix::DTYPE
    }

    fn keeps(&self, format: Format) -> bool {
        crate::backend::gpu::quantized::keeps(format)
    }

    fn computes_fp8(&self) -> bool {
        let device = &self.gpu.device;
        device.capability >= FP8_CAPABILITY && device.kernels.compiler() >= FP8_COMPILER
    }

    fn overheads(&self) -> Overheads {
        Overheads {
            // Tables and latents, and cuBLASLt's workspace, which is never freed.
            small: 2 * self.gpu.slab(),
            dequantized: Matrix::DTYPE.size() as u64,
            most_dequantized: u64::MAX,
            streamed: Some(launch::copies::LARGEST),
            most_streamed: u64::MAX,
            operand: 0,
            pools_buffers: false,
        }
    }

    fn trim(&self) {
        self.gpu.trim();
    }

    /// Vectors are widened to F32, the type of biases and norm weights; other tensors keep their
    /// type.
    fn run_upload(&self, tensor: &HostTensor) -> Result<CudaTensor> {
        let short = matches!(tensor.dtype(), DType::F16 | DType::Bf16);
        if short && tensor.shape().len() == 1 {
            return self.gpu.upload("upload", tensor.shape(), DType::F32, bytemuck::cast_slice(&tensor.to_f32()));
        }
        self.gpu.upload("upload", tensor.shape(), tensor.dtype(), tensor.bytes())
    }

    async fn download(&self, tensor: &CudaTensor) -> Result<HostTensor> {
        self.gpu.download(tensor)
    }

    fn record(&self, steps: impl FnOnce(&Self) -> Result<()>) -> Result<CudaRecording> {
        self.gpu.record(|| steps(self))
    }

    fn replay(&self, recording: &CudaRecording) -> Result<()> {
        self.gpu.replay(recording)
    }

    fn event(&self) -> Result<CudaPoint> {
        self.gpu.event().map(CudaPoint)
    }

    async fn wait(&self, event: CudaPoint) -> Result<()> {
        self.gpu.wait(event.0)
    }
}
