//! NVIDIA GPUs: CUDA kernels through cudarc, which loads the driver and the compiler library when they are wanted.
//!
//! One file in `kernels/` a verb; the files here launch them, check shapes and find the memory. Large linears go through
//! cuBLASLt where it is installed and faster. Activations and matrices are BF16, biases, norm weights and latents F32;
//! sums, norms and softmax are F32.
//!
//! Nothing of CUDA is needed to build it, and where there is no driver it is only a sentence.

mod attention;
mod conv2d;
mod cublaslt;
mod device;
mod elementwise;
mod fastest;
mod functions;
mod gpu;
mod guide_and_step;
mod hopper;
mod kernels;
mod layout;
mod library;
mod linear;
mod matrix;
mod memory;
mod norms;
mod nvrtc;
mod patches;
mod product;
mod program;
mod project_qkv;
mod recording;
mod staging;
mod tensor;
mod tensor_map;

use super::{Backend, Branch, Conv2d, Heads, Mask, Modulation, QkNormRope, RmsNorm, shapes};
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor, Weight};
use cudarc::driver::CudaEvent;
use gpu::Gpu;
use matrix::Matrix;
pub use matrix::{CudaConv2d, CudaLinear, CudaSwiGlu};
pub use memory::Placement;
pub use nvrtc::Compiled;
pub use recording::CudaRecording;
pub use tensor::CudaTensor;

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
        norms::programs(),
        patches::programs(),
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

impl Backend for Cuda {
    type Tensor = CudaTensor;
    type Linear = CudaLinear;
    type SwiGlu = CudaSwiGlu;
    type Conv2d = CudaConv2d;
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
        let products = match fastest::library(&self.0) {
            Ok(library) => library.version(),
            Err(reason) => format!("no cuBLASLt ({reason})"),
        };
        format!("{}, compute capability {major}.{minor}, NVRTC {compiler}.{point}, {products}{kernels}", device.name)
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
    fn upload(&self, tensor: &HostTensor) -> Result<CudaTensor> {
        let short = matches!(tensor.dtype(), DType::F16 | DType::Bf16);
        if short && tensor.shape().len() == 1 {
            return self.0.upload("upload", tensor.shape(), DType::F32, bytemuck::cast_slice(&tensor.to_f32()));
        }
        self.0.upload("upload", tensor.shape(), tensor.dtype(), tensor.bytes())
    }

    async fn upload_table(&self, table: &Weight<'_>) -> Result<CudaTensor> {
        shapes::dims::<2>("upload_table", "the table", table.shape())?;
        self.0.upload_table("upload_table", table).await
    }

    async fn download(&self, tensor: &CudaTensor) -> Result<HostTensor> {
        self.0.download(tensor)
    }

    async fn upload_linear(&self, parts: &[Weight<'_>], biases: &[HostTensor]) -> Result<CudaLinear> {
        let verb = "upload_linear";
        let dims = shapes::stacked(verb, parts, biases)?;
        let matrix = Matrix::stacked(&self.0, verb, parts, dims).await?;
        Ok(CudaLinear { matrix, bias: self.bias(verb, biases)? })
    }

    async fn upload_swiglu(&self, gate: &Weight<'_>, up: &Weight<'_>) -> Result<CudaSwiGlu> {
        let verb = "upload_swiglu";
        let dims = shapes::pair(verb, gate, up)?;
        Ok(CudaSwiGlu { matrix: Matrix::alternating(&self.0, verb, [gate, up], dims).await? })
    }

    fn upload_conv2d(&self, kernel: &HostTensor, bias: Option<&HostTensor>) -> Result<CudaConv2d> {
        let verb = "upload_conv2d";
        let stored @ [o, i, kh, kw] = shapes::dims::<4>(verb, "the kernel", kernel.shape())?;
        if let Some(bias) = bias {
            shapes::same(verb, "the bias", bias.shape(), &[o])?;
        }
        let matrix = Matrix::kernel(&self.0, verb, kernel, stored)?;
        Ok(CudaConv2d::new(matrix, [o, kh, kw, i], self.bias(verb, bias.map_or(&[], std::slice::from_ref))?))
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

    fn gather_rows(&self, table: &CudaTensor, ids: &CudaTensor) -> Result<CudaTensor> {
        elementwise::gather_rows(&self.0, table, ids)
    }

    fn linear(&self, x: &CudaTensor, w: &CudaLinear) -> Result<CudaTensor> {
        linear::linear(&self.0, x, w)
    }

    fn swiglu(&self, x: &CudaTensor, w: &CudaSwiGlu) -> Result<CudaTensor> {
        linear::swiglu(&self.0, x, w)
    }

    fn rms_norm(&self, x: &CudaTensor, norm: RmsNorm<'_, CudaTensor>) -> Result<CudaTensor> {
        let x = self.0.activation(x)?;
        normed("rms_norm", norms::residual_norm(&self.0, "rms_norm", &x, None, Some(norm))?)
    }

    fn residual(&self, x: &mut CudaTensor, branch: Branch<'_, CudaTensor>) -> Result<()> {
        self.0.make_activation(x)?;
        norms::residual_norm(&self.0, "residual", x, Some(branch), None).map(drop)
    }

    fn residual_norm(
        &self,
        x: &mut CudaTensor,
        branch: Branch<'_, CudaTensor>,
        norm: RmsNorm<'_, CudaTensor>,
    ) -> Result<CudaTensor> {
        self.0.make_activation(x)?;
        normed("residual_norm", norms::residual_norm(&self.0, "residual_norm", x, Some(branch), Some(norm))?)
    }

    fn qk_norm_rope(&self, qkv: &mut CudaTensor, heads: Heads, how: QkNormRope<'_, CudaTensor>) -> Result<()> {
        attention::qk_norm_rope(&self.0, qkv, heads, how)
    }

    fn project_qkv(
        &self,
        x: &CudaTensor,
        w: &CudaLinear,
        heads: Heads,
        how: QkNormRope<'_, CudaTensor>,
    ) -> Result<CudaTensor> {
        project_qkv::project_qkv(&self.0, x, w, heads, how)
    }

    fn attention(&self, qkv: &CudaTensor, heads: Heads, mask: Mask<'_, CudaTensor>) -> Result<CudaTensor> {
        attention::attention(&self.0, qkv, heads, mask)
    }

    fn timestep_embedding(
        &self,
        times: &CudaTensor,
        step: &CudaTensor,
        w1: &CudaLinear,
        w2: &CudaLinear,
    ) -> Result<CudaTensor> {
        linear::timestep_embedding(&self.0, times, step, w1, w2)
    }

    fn modulation(&self, t: &CudaTensor, w: &CudaLinear, silu: bool, width: usize) -> Result<CudaTensor> {
        linear::modulation(&self.0, t, w, silu, width)
    }

    fn embed_patches(
        &self,
        latents: &CudaTensor,
        patch: usize,
        w: &CudaLinear,
        pad: &CudaTensor,
        tokens: usize,
        copies: usize,
    ) -> Result<CudaTensor> {
        patches::embed_patches(&self.0, latents, patch, w, pad, tokens, copies)
    }

    fn pad_rows(&self, x: &mut CudaTensor, token: &CudaTensor, lengths: &CudaTensor) -> Result<()> {
        elementwise::pad_rows(&self.0, x, token, lengths)
    }

    fn join_sequence(&self, image: &CudaTensor, caption: &CudaTensor, captions: &CudaTensor) -> Result<CudaTensor> {
        elementwise::join_sequence(&self.0, image, caption, captions)
    }

    fn final_layer(
        &self,
        x: &CudaTensor,
        scale: Modulation<'_, CudaTensor>,
        eps: f32,
        w: &CudaLinear,
        patch: usize,
        size: [usize; 2],
    ) -> Result<CudaTensor> {
        patches::final_layer(&self.0, x, scale, eps, w, patch, size)
    }

    fn guide_and_step(
        &self,
        latents: &mut CudaTensor,
        prediction: &CudaTensor,
        table: &CudaTensor,
        step: &mut CudaTensor,
    ) -> Result<()> {
        guide_and_step::guide_and_step(&self.0, latents, prediction, table, step)
    }

    fn conv2d(
        &self,
        x: &CudaTensor,
        w: &CudaConv2d,
        geometry: Conv2d,
        residual: Option<&CudaTensor>,
    ) -> Result<CudaTensor> {
        conv2d::conv2d(&self.0, x, w, geometry, residual)
    }

    fn group_norm(
        &self,
        x: &CudaTensor,
        weight: &CudaTensor,
        bias: &CudaTensor,
        groups: usize,
        eps: f32,
        silu: bool,
    ) -> Result<CudaTensor> {
        norms::group_norm(&self.0, x, weight, bias, groups, eps, silu)
    }

    fn unscale_latents(&self, latents: &CudaTensor, scale: f32, shift: f32) -> Result<CudaTensor> {
        elementwise::unscale_latents(&self.0, latents, scale, shift)
    }

    fn scale_latents(&self, x: &CudaTensor, channels: usize, scale: f32, shift: f32) -> Result<CudaTensor> {
        elementwise::scale_latents(&self.0, x, channels, scale, shift)
    }

    fn normalize_rgb8(&self, pixels: &CudaTensor) -> Result<CudaTensor> {
        elementwise::normalize_rgb8(&self.0, pixels)
    }

    fn to_rgb8(&self, x: &CudaTensor) -> Result<CudaTensor> {
        elementwise::to_rgb8(&self.0, x)
    }
}

/// What a norm returned; it returns a tensor whenever it was given a norm.
fn normed(verb: &'static str, out: Option<CudaTensor>) -> Result<CudaTensor> {
    out.ok_or_else(|| Error::shape(verb, "there is no norm"))
}
