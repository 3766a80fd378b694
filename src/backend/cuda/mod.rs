//! NVIDIA GPUs: CUDA kernels through cudarc, which loads the driver and the compiler library when they are wanted.
//!
//! One file in `kernels/` a verb; the files here launch them, check shapes and find the memory. Large linears go through
//! cuBLASLt where it is installed and faster. Activations and matrices are BF16, biases, norm weights and latents F32;
//! sums, norms and softmax are F32.
//!
//! Nothing of CUDA is needed to build it, and where there is no driver it is only a sentence.

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
use gemm::autotune;
use launch::gpu::Gpu;
pub use launch::recording::CudaRecording;
use matrix::Matrix;
pub use matrix::{CudaConv2d, CudaLinear, CudaSwiGlu};
pub use memory::arena::Placement;
pub use memory::tensor::CudaTensor;
use ops::{attention, conv2d, elementwise, embed_patches, guide_and_step, linear, project_qkv, residual_norm};

/// The `cuda` backend.
#[derive(Debug)]
pub struct Cuda(Gpu);

/// A point in the order of the verbs.
#[derive(Debug)]
pub struct CudaPoint(CudaEvent);

impl Cuda {
    /// The first GPU that the driver names.
    ///
    /// # Errors
    /// [`Error::Device`] when there is no driver, no GPU, no compiler library, or a GPU that is too old, with a sentence
    /// that says which and what to do.
    pub fn open(placement: Placement) -> Result<Self> {
        Gpu::open(placement).map(Self)
    }

    /// Whether this machine has an NVIDIA GPU with a driver, whether or not [`Cuda::open`] can use it.
    pub fn present() -> bool {
        device::present()
    }

    fn bias(&self, verb: &'static str, biases: &[HostTensor]) -> Result<Option<CudaTensor>> {
        if biases.is_empty() {
            return Ok(None);
        }
        let values: Vec<f32> = biases.iter().flat_map(HostTensor::to_f32).collect();
        self.0.upload(verb, &[values.len()], DType::F32, bytemuck::cast_slice(&values)).map(Some)
    }
}

/// Every kernel that an architecture such as `sm_90a` may run, in many of its variants, as (name, CUDA C++): for tests that
/// compile them.
pub fn kernels(architecture: &str) -> Vec<(String, String)> {
    let mut programs = vec![
        attention::programs(),
        conv2d::programs(),
        elementwise::programs(),
        guide_and_step::programs(),
        linear::programs(),
        residual_norm::programs(),
        embed_patches::programs(),
    ];
    if architecture == "sm_90a" {
        programs.extend([
            attention::hopper_programs(),
            conv2d::hopper_programs(),
            linear::hopper_programs(),
            project_qkv::hopper_programs(),
        ]);
    }
    programs.concat().into_iter().map(|program| (program.label(), program.source())).collect()
}

/// The functions that the backend calls of the driver: for tests on a driver that has no others.
pub fn driver_functions() -> &'static [&'static str] {
    functions::DRIVER
}

/// Compiles a kernel for an architecture such as `sm_90a`, as the backend does for the device at hand; needs no GPU.
///
/// # Errors
/// [`Error::Device`] when the compiler library is missing, does not know the architecture, or refuses the text.
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
        let device = &self.0.device;
        let ((major, minor), (compiler, point)) = (device.capability, device.kernels.compiler());
        let kernels = if device.hopper { ", kernels for Hopper" } else { "" };
        let products = match autotune::library(&self.0) {
            Ok(library) => library.version(),
            Err(reason) => format!("no cuBLASLt ({reason})"),
        };
        format!("{}, compute capability {major}.{minor}, NVRTC {compiler}.{point}, {products}{kernels}", device.name)
    }

    fn activations(&self) -> DType {
        DType::Bf16
    }

    fn operands(&self) -> DType {
        DType::Bf16
    }

    fn peak_memory(&self) -> Option<u64> {
        Some(self.0.peak_memory())
    }

    fn free_memory(&self) -> Option<u64> {
        self.0.free_memory()
    }

    fn weights(&self, _: DType) -> DType {
        Matrix::ELEMENTS
    }

    fn trim(&self) {
        self.0.trim();
    }

    /// Vectors are widened to F32, as biases and the weights of norms are read so; everything else stays as it is.
    fn run_upload(&self, tensor: &HostTensor) -> Result<CudaTensor> {
        let short = matches!(tensor.dtype(), DType::F16 | DType::Bf16);
        if short && tensor.shape().len() == 1 {
            return self.0.upload("upload", tensor.shape(), DType::F32, bytemuck::cast_slice(&tensor.to_f32()));
        }
        self.0.upload("upload", tensor.shape(), tensor.dtype(), tensor.bytes())
    }

    async fn download(&self, tensor: &CudaTensor) -> Result<HostTensor> {
        self.0.download(tensor)
    }

    fn record(&self, steps: impl FnOnce(&Self) -> Result<()>) -> Result<CudaRecording> {
        self.0.record(|| steps(self))
    }

    fn replay(&self, recording: &CudaRecording) -> Result<()> {
        self.0.replay(recording)
    }

    fn event(&self) -> Result<CudaPoint> {
        self.0.event().map(CudaPoint)
    }

    async fn wait(&self, event: CudaPoint) -> Result<()> {
        self.0.wait(event.0)
    }
}

impl GatherRowsOp for Cuda {
    async fn run_upload_table(&self, table: &Weight<'_>) -> Result<CudaTensor> {
        shapes::dims::<2>("upload_table", "the table", table.shape())?;
        self.0.upload_table("upload_table", table).await
    }

    fn run_gather_rows(&self, a: GatherRowsArgs<'_, CudaTensor>, _: &[usize]) -> Result<CudaTensor> {
        elementwise::gather_rows(&self.0, a.table, a.ids)
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
        let verb = "upload_linear";
        let matrix = Matrix::stacked(&self.0, verb, parts, dims).await?;
        Ok(CudaLinear { matrix, bias: self.bias(verb, biases)? })
    }

    fn run_linear(&self, a: LinearArgs<'_, CudaTensor, CudaLinear>, _: &[usize]) -> Result<CudaTensor> {
        linear::linear(&self.0, a.x, a.w)
    }
}

impl SwiGluOp for Cuda {
    type SwiGlu = CudaSwiGlu;

    async fn run_upload_swiglu(&self, gate: &Weight<'_>, up: &Weight<'_>, dims: [usize; 2]) -> Result<CudaSwiGlu> {
        let verb = "upload_swiglu";
        Ok(CudaSwiGlu { matrix: Matrix::alternating(&self.0, verb, [gate, up], dims).await? })
    }

    fn run_swiglu(&self, a: SwiGluArgs<'_, CudaTensor, CudaSwiGlu>, _: &[usize]) -> Result<CudaTensor> {
        linear::swiglu(&self.0, a.x, a.w)
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
        let verb = "upload_conv2d";
        let matrix = Matrix::kernel(&self.0, verb, kernel, stored)?;
        Ok(CudaConv2d::new(matrix, [o, kh, kw, i], self.bias(verb, bias.map_or(&[], std::slice::from_ref))?))
    }

    fn run_conv2d(&self, a: Conv2dArgs<'_, CudaTensor, CudaConv2d>, _: [usize; 4]) -> Result<CudaTensor> {
        conv2d::conv2d(&self.0, a.x, a.w, a.geometry, a.residual)
    }
}

impl AttentionOp for Cuda {
    fn run_attention(&self, a: AttentionArgs<'_, CudaTensor>, _: [usize; 3]) -> Result<CudaTensor> {
        attention::attention(&self.0, a.qkv, a.heads, a.mask)
    }
}

impl EmbedPatchesOp for Cuda {
    fn run_embed_patches(&self, a: EmbedPatchesArgs<'_, CudaTensor, CudaLinear>, _: [usize; 3]) -> Result<CudaTensor> {
        embed_patches::embed_patches(&self.0, a.latents, a.patch, a.w, a.pad, a.tokens, a.copies)
    }
}

impl FinalLayerOp for Cuda {
    fn run_final_layer(&self, a: FinalLayerArgs<'_, CudaTensor, CudaLinear>, _: [usize; 4]) -> Result<CudaTensor> {
        embed_patches::final_layer(&self.0, a.x, a.scale, a.eps, a.w, a.patch, a.size)
    }
}

impl GroupNormOp for Cuda {
    fn run_group_norm(&self, a: GroupNormArgs<'_, CudaTensor>, _: [usize; 4]) -> Result<CudaTensor> {
        residual_norm::group_norm(&self.0, a.x, a.weight, a.bias, a.groups, a.eps, a.silu)
    }
}

impl JoinSequenceOp for Cuda {
    fn run_join_sequence(&self, a: JoinSequenceArgs<'_, CudaTensor>, _: [usize; 3]) -> Result<CudaTensor> {
        elementwise::join_sequence(&self.0, a.image, a.caption, a.captions)
    }
}

impl ModulationOp for Cuda {
    fn run_modulation(&self, a: ModulationArgs<'_, CudaTensor, CudaLinear>, _: [usize; 3]) -> Result<CudaTensor> {
        linear::modulation(&self.0, a.t, a.w, a.silu, a.width)
    }
}

impl NormalizeRgb8Op for Cuda {
    fn run_normalize_rgb8(&self, a: NormalizeRgb8Args<'_, CudaTensor>, _: [usize; 4]) -> Result<CudaTensor> {
        elementwise::normalize_rgb8(&self.0, a.pixels)
    }
}

impl PadRowsOp for Cuda {
    fn run_pad_rows(&self, a: PadRowsArgs<'_, CudaTensor>, _: [usize; 3]) -> Result<()> {
        elementwise::pad_rows(&self.0, a.x, a.token, a.lengths)
    }
}

impl QkNormRopeOp for Cuda {
    fn run_qk_norm_rope(&self, a: QkNormRopeArgs<'_, CudaTensor>, _: [usize; 2]) -> Result<()> {
        attention::qk_norm_rope(&self.0, a.qkv, a.heads, a.how)
    }
}

impl ResidualOp for Cuda {
    fn run_residual(&self, a: ResidualArgs<'_, CudaTensor>, _: [usize; 3]) -> Result<()> {
        residual_norm::residual_norm(&self.0, "residual", a.x, Some(a.branch), None).map(drop)
    }
}

impl ResidualNormOp for Cuda {
    fn run_residual_norm(&self, a: ResidualNormArgs<'_, CudaTensor>, _: [usize; 3]) -> Result<CudaTensor> {
        normed(
            "residual_norm",
            residual_norm::residual_norm(&self.0, "residual_norm", a.x, Some(a.branch), Some(a.norm))?,
        )
    }
}

impl RmsNormOp for Cuda {
    fn run_rms_norm(&self, a: RmsNormArgs<'_, CudaTensor>, _: [usize; 3]) -> Result<CudaTensor> {
        let x = self.0.activation(a.x)?;
        normed("rms_norm", residual_norm::residual_norm(&self.0, "rms_norm", &x, None, Some(a.norm))?)
    }
}

impl ScaleLatentsOp for Cuda {
    fn run_scale_latents(&self, a: ScaleLatentsArgs<'_, CudaTensor>, _: [usize; 4]) -> Result<CudaTensor> {
        elementwise::scale_latents(&self.0, a.x, a.channels, a.scale, a.shift)
    }
}

impl TimestepEmbeddingOp for Cuda {
    fn run_timestep_embedding(
        &self,
        a: TimestepEmbeddingArgs<'_, CudaTensor, CudaLinear>,
        _: [usize; 2],
    ) -> Result<CudaTensor> {
        linear::timestep_embedding(&self.0, a.times, a.step, a.w1, a.w2)
    }
}

impl ToRgb8Op for Cuda {
    fn run_to_rgb8(&self, a: ToRgb8Args<'_, CudaTensor>, _: [usize; 4]) -> Result<CudaTensor> {
        elementwise::to_rgb8(&self.0, a.x)
    }
}

impl UnscaleLatentsOp for Cuda {
    fn run_unscale_latents(&self, a: UnscaleLatentsArgs<'_, CudaTensor>, _: [usize; 4]) -> Result<CudaTensor> {
        elementwise::unscale_latents(&self.0, a.latents, a.scale, a.shift)
    }
}

impl GuideAndStepOp for Cuda {
    fn run_guide_and_step(&self, a: GuideAndStepArgs<'_, CudaTensor>) -> Result<()> {
        guide_and_step::guide_and_step(&self.0, a.latents, a.prediction, a.table, a.step)
    }
}

impl ProjectQkvOp for Cuda {
    fn run_project_qkv(&self, a: ProjectQkvArgs<'_, CudaTensor, CudaLinear>, _: [usize; 3]) -> Result<CudaTensor> {
        project_qkv::project_qkv(&self.0, a.x, a.w, a.heads, a.how)
    }
}

/// What a norm returned; it returns a tensor whenever it was given a norm.
fn normed(verb: &'static str, out: Option<CudaTensor>) -> Result<CudaTensor> {
    out.ok_or_else(|| Error::shape(verb, "there is no norm"))
}
