//! The `cuda` backend for NVIDIA GPUs, through cudarc, which loads the driver and NVRTC on demand.
//!
//! Each op has a kernel in `kernels/` and a launcher in `ops`. Large linears go through cuBLASLt if it
//! is installed and faster. Activations and matrices are BF16; biases, norm weights and latents are
//! F32, and so are accumulation, norms and softmax.
//!
//! The layers, each of which uses only those below: `ops`, `gemm`, `matrix`, `launch`, `memory`,
//! `driver`. Building needs nothing of CUDA; without a driver, [`Cuda::open`] returns an error.

mod driver;
mod gemm;
mod launch;
mod matrix;
mod memory;
mod ops;

use super::*;
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor, Weight};
use cudarc::driver::CudaEvent;
pub use driver::nvrtc::Compiled;
use driver::{device, functions, nvrtc};
use gemm::autotune::Autotuner;
use launch::gpu::Gpu;
pub use launch::recording::CudaRecording;
use matrix::Matrix;
pub use matrix::{CudaConv2d, CudaLinear, CudaSwiGlu};
pub use memory::arena::Placement;
pub use memory::tensor::CudaTensor;

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
    /// Opens the driver's first GPU.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no driver, no GPU or no NVRTC, or if one of them is too old; the
    /// message says which one and what to do.
    pub fn open(placement: Placement) -> Result<Self> {
        Ok(Self { gpu: Gpu::open(placement)?, autotuner: Autotuner::default() })
    }

    /// True if this machine has an NVIDIA GPU and a driver, even one that [`Cuda::open`] cannot use.
    pub fn present() -> bool {
        device::present()
    }

    fn bias(&self, op: &'static str, biases: &[HostTensor]) -> Result<Option<CudaTensor>> {
        if biases.is_empty() {
            return Ok(None);
        }
        let values: Vec<f32> = biases.iter().flat_map(HostTensor::to_f32).collect();
        self.gpu.upload(op, &[values.len()], DType::F32, bytemuck::cast_slice(&values)).map(Some)
    }
}

/// Every kernel for an architecture such as `sm_90a`, in many of its variants, as (name, CUDA C++):
/// for tests that compile them.
pub fn kernels(architecture: &str) -> Vec<(String, String)> {
    ops::programs(architecture).into_iter().map(|program| (program.label(), program.source())).collect()
}

/// The driver functions that the backend calls: for tests on an emulated driver.
pub fn driver_functions() -> &'static [&'static str] {
    functions::DRIVER
}

/// Compiles a kernel for an architecture such as `sm_90a`, as the backend does; needs no GPU.
///
/// # Errors
/// [`Error::Device`] if NVRTC is missing, does not know the architecture, or rejects the source.
pub fn compile(name: &str, source: &str, architecture: &str) -> Result<Compiled> {
    nvrtc::compile(name, source, architecture)
}

impl Runtime for Cuda {
    type Tensor = CudaTensor;
    type Recording = CudaRecording;
    type Event = CudaPoint;

    const IN_FLIGHT: usize = 2;

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

    fn weights(&self, _: DType) -> DType {
        Matrix::DTYPE
    }

    fn trim(&self) {
        self.gpu.trim();
    }

    /// Vectors are widened to F32, the type of biases and norm weights; other tensors keep their type.
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

impl GatherRowsOp for Cuda {
    async fn run_upload_table(&self, table: &Weight<'_>) -> Result<CudaTensor> {
        shapes::dims::<2>("upload_table", "the table", table.shape())?;
        self.gpu.upload_table("upload_table", table).await
    }

    fn run_gather_rows(&self, a: GatherRowsArgs<'_, CudaTensor>, _: &[usize]) -> Result<CudaTensor> {
        ops::gather_rows::gather_rows(&self.gpu, a.table, a.ids)
    }
}

impl LinearOp for Cuda {
    type Linear = CudaLinear;

    async fn run_upload_linear(
        &self,
        parts: &[Weight<'_>],
        biases: &[HostTensor],
        dims: [usize; 2],
    ) -> Result<CudaLinear> {
        let op = "upload_linear";
        let matrix = Matrix::stacked(&self.gpu, op, parts, dims).await?;
        Ok(CudaLinear { matrix, bias: self.bias(op, biases)? })
    }

    fn run_linear(&self, a: LinearArgs<'_, CudaTensor, CudaLinear>, _: &[usize]) -> Result<CudaTensor> {
        ops::linear::linear(&self.gpu, &self.autotuner, a.x, a.w)
    }
}

impl SwiGluOp for Cuda {
    type SwiGlu = CudaSwiGlu;

    async fn run_upload_swiglu(&self, gate: &Weight<'_>, up: &Weight<'_>, dims: [usize; 2]) -> Result<CudaSwiGlu> {
        let op = "upload_swiglu";
        Ok(CudaSwiGlu { matrix: Matrix::alternating(&self.gpu, op, [gate, up], dims).await? })
    }

    fn run_swiglu(&self, a: SwiGluArgs<'_, CudaTensor, CudaSwiGlu>, _: &[usize]) -> Result<CudaTensor> {
        ops::swiglu::swiglu(&self.gpu, a.x, a.w)
    }
}

impl Conv2dOp for Cuda {
    type Conv2d = CudaConv2d;

    fn run_upload_conv2d(
        &self,
        kernel: &HostTensor,
        bias: Option<&HostTensor>,
        stored @ [o, i, kh, kw]: [usize; 4],
    ) -> Result<CudaConv2d> {
        let op = "upload_conv2d";
        let matrix = Matrix::kernel(&self.gpu, op, kernel, stored)?;
        Ok(CudaConv2d::new(matrix, [o, kh, kw, i], self.bias(op, bias.map_or(&[], std::slice::from_ref))?))
    }

    fn run_conv2d(&self, a: Conv2dArgs<'_, CudaTensor, CudaConv2d>, _: [usize; 4]) -> Result<CudaTensor> {
        ops::conv2d::conv2d(&self.gpu, a.x, a.w, a.geometry, a.residual)
    }
}

impl AttentionOp for Cuda {
    fn run_attention(&self, a: AttentionArgs<'_, CudaTensor>, _: [usize; 3]) -> Result<CudaTensor> {
        ops::attention::attention(&self.gpu, a.qkv, a.heads, a.mask)
    }
}

impl EmbedPatchesOp for Cuda {
    fn run_embed_patches(&self, a: EmbedPatchesArgs<'_, CudaTensor, CudaLinear>, _: [usize; 3]) -> Result<CudaTensor> {
        ops::embed_patches::embed_patches(&self.gpu, a.latents, a.patch, a.w, a.pad, a.tokens, a.copies)
    }
}

impl FinalLayerOp for Cuda {
    fn run_final_layer(&self, a: FinalLayerArgs<'_, CudaTensor, CudaLinear>, _: [usize; 4]) -> Result<CudaTensor> {
        ops::final_layer::final_layer(&self.gpu, a.x, a.scale, a.eps, a.w, a.patch, a.size)
    }
}

impl GroupNormOp for Cuda {
    fn run_group_norm(&self, a: GroupNormArgs<'_, CudaTensor>, _: [usize; 4]) -> Result<CudaTensor> {
        ops::group_norm::group_norm(&self.gpu, a.x, a.weight, a.bias, a.groups, a.eps, a.silu)
    }
}

impl JoinSequenceOp for Cuda {
    fn run_join_sequence(&self, a: JoinSequenceArgs<'_, CudaTensor>, _: [usize; 3]) -> Result<CudaTensor> {
        ops::join_sequence::join_sequence(&self.gpu, a.image, a.caption, a.captions)
    }
}

impl ModulationOp for Cuda {
    fn run_modulation(&self, a: ModulationArgs<'_, CudaTensor, CudaLinear>, _: [usize; 3]) -> Result<CudaTensor> {
        ops::modulation::modulation(&self.gpu, a.t, a.w, a.silu, a.width)
    }
}

impl NormalizeRgb8Op for Cuda {
    fn run_normalize_rgb8(&self, a: NormalizeRgb8Args<'_, CudaTensor>, _: [usize; 4]) -> Result<CudaTensor> {
        ops::normalize_rgb8::normalize_rgb8(&self.gpu, a.pixels)
    }
}

impl PadRowsOp for Cuda {
    fn run_pad_rows(&self, a: PadRowsArgs<'_, CudaTensor>, _: [usize; 3]) -> Result<()> {
        ops::pad_rows::pad_rows(&self.gpu, a.x, a.token, a.lengths)
    }
}

impl QkNormRopeOp for Cuda {
    fn run_qk_norm_rope(&self, a: QkNormRopeArgs<'_, CudaTensor>, _: [usize; 2]) -> Result<()> {
        ops::qk_norm_rope::qk_norm_rope(&self.gpu, a.qkv, a.heads, a.how)
    }
}

impl ResidualOp for Cuda {
    fn run_residual(&self, a: ResidualArgs<'_, CudaTensor>, _: [usize; 3]) -> Result<()> {
        ops::residual::residual(&self.gpu, a.x, a.branch)
    }
}

impl ResidualNormOp for Cuda {
    fn run_residual_norm(&self, a: ResidualNormArgs<'_, CudaTensor>, _: [usize; 3]) -> Result<CudaTensor> {
        normed("residual_norm", ops::residual_norm::residual_norm(&self.gpu, a.x, a.branch, a.norm)?)
    }
}

impl RmsNormOp for Cuda {
    fn run_rms_norm(&self, a: RmsNormArgs<'_, CudaTensor>, _: [usize; 3]) -> Result<CudaTensor> {
        normed("rms_norm", ops::rms_norm::rms_norm(&self.gpu, a.x, a.norm)?)
    }
}

impl ScaleLatentsOp for Cuda {
    fn run_scale_latents(&self, a: ScaleLatentsArgs<'_, CudaTensor>, _: [usize; 4]) -> Result<CudaTensor> {
        ops::scale_latents::scale_latents(&self.gpu, a.x, a.channels, a.scale, a.shift)
    }
}

impl TimestepEmbeddingOp for Cuda {
    fn run_timestep_embedding(
        &self,
        a: TimestepEmbeddingArgs<'_, CudaTensor, CudaLinear>,
        _: [usize; 2],
    ) -> Result<CudaTensor> {
        ops::timestep_embedding::timestep_embedding(&self.gpu, a.times, a.step, a.w1, a.w2)
    }
}

impl ToRgb8Op for Cuda {
    fn run_to_rgb8(&self, a: ToRgb8Args<'_, CudaTensor>, _: [usize; 4]) -> Result<CudaTensor> {
        ops::to_rgb8::to_rgb8(&self.gpu, a.x)
    }
}

impl UnscaleLatentsOp for Cuda {
    fn run_unscale_latents(&self, a: UnscaleLatentsArgs<'_, CudaTensor>, _: [usize; 4]) -> Result<CudaTensor> {
        ops::unscale_latents::unscale_latents(&self.gpu, a.latents, a.scale, a.shift)
    }
}

impl GuideAndStepOp for Cuda {
    fn run_guide_and_step(&self, a: GuideAndStepArgs<'_, CudaTensor>) -> Result<()> {
        ops::guide_and_step::guide_and_step(&self.gpu, a.latents, a.prediction, a.table, a.step)
    }
}

impl ProjectQkvOp for Cuda {
    fn run_project_qkv(&self, a: ProjectQkvArgs<'_, CudaTensor, CudaLinear>, _: [usize; 3]) -> Result<CudaTensor> {
        ops::project_qkv::project_qkv(&self.gpu, &self.autotuner, a.x, a.w, a.heads, a.how)
    }
}

/// The output of a launch that was given a norm.
fn normed(op: &'static str, out: Option<CudaTensor>) -> Result<CudaTensor> {
    out.ok_or_else(|| Error::shape(op, "there is no norm"))
}
