//! Any GPU: WGSL compute shaders through wgpu.
//!
//! One file in `shaders/` a verb; the files here launch them, check shapes and find the memory. Activations are F32,
//! weights stay as they are stored and are widened where they are read, all arithmetic is F32. The faster variants
//! multiply halves, make matrices F16 once they are on the device, and sum by subgroup operations: see [`Shaders`].

mod adapters;
mod attention;
mod cache;
mod conv2d;
mod device;
mod elementwise;
mod gpu;
mod guide_and_step;
mod halves;
mod linear;
mod matrix;
mod memory;
mod norms;
mod patches;
mod pipelines;
mod product;
mod program;
mod recording;
mod reduction;
mod tensor;
mod variant;

use super::{Backend, Branch, Conv2d, Heads, Mask, Modulation, QkNormRope, RmsNorm, shapes};
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor, Weight};
pub use adapters::{AdapterInfo, Adapters, adapters};
use gpu::{Event, Gpu};
use matrix::{Filling, Matrix, Stored};
pub use matrix::{WebGpuConv2d, WebGpuLinear, WebGpuSwiGlu};
pub use recording::WebGpuRecording;
pub use tensor::WebGpuTensor;
pub use variant::Shaders;

/// The `webgpu` backend.
#[derive(Debug)]
pub struct WebGpu(Gpu);

/// A point in the order of the verbs.
#[derive(Debug)]
pub struct WebGpuEvent(Event);

impl WebGpu {
    /// The best adapter of this machine.
    ///
    /// # Errors
    /// [`Error::Device`] when there is none that will do, or none that can be opened.
    pub async fn open(adapters: Adapters) -> Result<Self> {
        Self::open_with(adapters, Shaders::Best, u64::MAX).await
    }

    /// As [`WebGpu::open`], with these shaders, and an adapter that is taken to give a shader no buffer larger than
    /// `largest` bytes: shows on a large GPU what happens on a small one.
    ///
    /// # Errors
    /// Those of [`WebGpu::open`], and [`Error::Device`] when the adapter cannot run the shaders.
    pub async fn open_with(adapters: Adapters, shaders: Shaders, largest: u64) -> Result<Self> {
        Ok(Self(Gpu::open(adapters, shaders, largest).await?))
    }

    /// The variant of the shaders that runs, in words.
    pub fn variant(&self) -> String {
        self.0.device.variant.name()
    }

    fn bias(&self, verb: &'static str, biases: &[HostTensor]) -> Result<Option<WebGpuTensor>> {
        if biases.is_empty() {
            return Ok(None);
        }
        let values: Vec<f32> = biases.iter().flat_map(HostTensor::to_f32).collect();
        self.0.upload_tensor(verb, &HostTensor::from_f32(&[values.len()], &values)).map(Some)
    }
}

/// Every shader in every variant, as (name, entry point, WGSL): for tests that hand them to other compilers.
pub fn shaders() -> Vec<(String, &'static str, String)> {
    let programs = [
        attention::programs(),
        conv2d::programs(),
        elementwise::programs(),
        guide_and_step::programs(),
        halves::programs(),
        linear::programs(),
        norms::programs(),
        patches::programs(),
    ];
    programs.concat().into_iter().map(|program| (program.label(), program.entry, program.source())).collect()
}

impl Backend for WebGpu {
    type Tensor = WebGpuTensor;
    type Linear = WebGpuLinear;
    type SwiGlu = WebGpuSwiGlu;
    type Conv2d = WebGpuConv2d;
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
        if self.0.device.variant.halves() { DType::F16 } else { DType::F32 }
    }

    fn largest_activation(&self) -> usize {
        usize::try_from(self.0.device.max_binding).unwrap_or(usize::MAX) / DType::F32.size()
    }

    /// Variants that multiply halves have every matrix so. Tables stay as they are stored.
    fn weights(&self, stored: DType) -> DType {
        if self.0.device.variant.halves() { DType::F16 } else { stored }
    }

    fn trim(&self) {
        self.0.trim();
    }

    fn peak_memory(&self) -> Option<u64> {
        Some(self.0.peak_memory())
    }

    /// What is stored in a shorter floating type is widened, as it is small and shaders read it as F32.
    fn upload(&self, tensor: &HostTensor) -> Result<WebGpuTensor> {
        if matches!(tensor.dtype(), DType::F16 | DType::Bf16) {
            return self.0.upload_tensor("upload", &HostTensor::from_f32(tensor.shape(), &tensor.to_f32()));
        }
        self.0.upload_tensor("upload", tensor)
    }

    async fn upload_table(&self, table: &Weight<'_>) -> Result<WebGpuTensor> {
        shapes::dims::<2>("upload_table", "the table", table.shape())?;
        self.0.upload_table("upload_table", table).await
    }

    async fn download(&self, tensor: &WebGpuTensor) -> Result<HostTensor> {
        self.0.download(tensor).await
    }

    async fn upload_linear(&self, parts: &[Weight<'_>], biases: &[HostTensor]) -> Result<WebGpuLinear> {
        let verb = "upload_linear";
        let dims = shapes::stacked(verb, parts, biases)?;
        let mut filling = Filling::new(&self.0, verb, Stored::of(parts), dims, 1)?;
        Weight::each_piece(parts, |first, rows| filling.write(first, 0, &rows)).await?;
        Ok(WebGpuLinear { matrix: filling.finish()?, bias: self.bias(verb, biases)? })
    }

    async fn upload_swiglu(&self, gate: &Weight<'_>, up: &Weight<'_>) -> Result<WebGpuSwiGlu> {
        let verb = "upload_swiglu";
        let dims = shapes::pair(verb, gate, up)?;
        let mut filling = Filling::new(&self.0, verb, Stored::of([gate, up]), dims, 2)?;
        let write = |first, [gate, up]: [HostTensor; 2]| {
            filling.write(first, 0, &gate)?;
            filling.write(first, 1, &up)
        };
        Weight::each_pair([gate, up], write).await?;
        Ok(WebGpuSwiGlu { matrix: filling.finish()? })
    }

    fn upload_conv2d(&self, kernel: &HostTensor, bias: Option<&HostTensor>) -> Result<WebGpuConv2d> {
        let verb = "upload_conv2d";
        let stored @ [o, i, kh, kw] = shapes::dims::<4>(verb, "the kernel", kernel.shape())?;
        if let Some(bias) = bias {
            shapes::same(verb, "the bias", bias.shape(), &[o])?;
        }
        let matrix = Matrix::kernel(&self.0, verb, kernel, stored)?;
        let bias = self.bias(verb, bias.map_or(&[], std::slice::from_ref))?;
        Ok(WebGpuConv2d { matrix, dims: [o, kh, kw, i], bias })
    }

    fn record(&self, steps: impl FnOnce(&Self) -> Result<()>) -> Result<WebGpuRecording> {
        self.0.record(|| steps(self))
    }

    fn replay(&self, recording: &WebGpuRecording) -> Result<()> {
        self.0.replay(recording)
    }

    fn event(&self) -> Result<WebGpuEvent> {
        self.0.event().map(WebGpuEvent)
    }

    async fn wait(&self, event: WebGpuEvent) -> Result<()> {
        self.0.wait(event.0).await
    }

    fn gather_rows(&self, table: &WebGpuTensor, ids: &WebGpuTensor) -> Result<WebGpuTensor> {
        elementwise::gather_rows(&self.0, table, ids)
    }

    fn linear(&self, x: &WebGpuTensor, w: &WebGpuLinear) -> Result<WebGpuTensor> {
        linear::linear(&self.0, x, w)
    }

    fn swiglu(&self, x: &WebGpuTensor, w: &WebGpuSwiGlu) -> Result<WebGpuTensor> {
        linear::swiglu(&self.0, x, w)
    }

    fn rms_norm(&self, x: &WebGpuTensor, norm: RmsNorm<'_, WebGpuTensor>) -> Result<WebGpuTensor> {
        normed("rms_norm", norms::residual_norm(&self.0, "rms_norm", x, None, Some(norm))?)
    }

    fn residual(&self, x: &mut WebGpuTensor, branch: Branch<'_, WebGpuTensor>) -> Result<()> {
        norms::residual_norm(&self.0, "residual", x, Some(branch), None).map(drop)
    }

    fn residual_norm(
        &self,
        x: &mut WebGpuTensor,
        branch: Branch<'_, WebGpuTensor>,
        norm: RmsNorm<'_, WebGpuTensor>,
    ) -> Result<WebGpuTensor> {
        normed("residual_norm", norms::residual_norm(&self.0, "residual_norm", x, Some(branch), Some(norm))?)
    }

    fn qk_norm_rope(&self, qkv: &mut WebGpuTensor, heads: Heads, how: QkNormRope<'_, WebGpuTensor>) -> Result<()> {
        attention::qk_norm_rope(&self.0, qkv, heads, how)
    }

    fn attention(&self, qkv: &WebGpuTensor, heads: Heads, mask: Mask<'_, WebGpuTensor>) -> Result<WebGpuTensor> {
        attention::attention(&self.0, qkv, heads, mask)
    }

    fn timestep_embedding(
        &self,
        times: &WebGpuTensor,
        step: &WebGpuTensor,
        w1: &WebGpuLinear,
        w2: &WebGpuLinear,
    ) -> Result<WebGpuTensor> {
        linear::timestep_embedding(&self.0, times, step, w1, w2)
    }

    fn modulation(&self, t: &WebGpuTensor, w: &WebGpuLinear, silu: bool, width: usize) -> Result<WebGpuTensor> {
        linear::modulation(&self.0, t, w, silu, width)
    }

    fn embed_patches(
        &self,
        latents: &WebGpuTensor,
        patch: usize,
        w: &WebGpuLinear,
        pad: &WebGpuTensor,
        tokens: usize,
        copies: usize,
    ) -> Result<WebGpuTensor> {
        patches::embed_patches(&self.0, latents, patch, w, pad, tokens, copies)
    }

    fn pad_rows(&self, x: &mut WebGpuTensor, token: &WebGpuTensor, lengths: &WebGpuTensor) -> Result<()> {
        elementwise::pad_rows(&self.0, x, token, lengths)
    }

    fn join_sequence(
        &self,
        image: &WebGpuTensor,
        caption: &WebGpuTensor,
        captions: &WebGpuTensor,
    ) -> Result<WebGpuTensor> {
        elementwise::join_sequence(&self.0, image, caption, captions)
    }

    fn final_layer(
        &self,
        x: &WebGpuTensor,
        scale: Modulation<'_, WebGpuTensor>,
        eps: f32,
        w: &WebGpuLinear,
        patch: usize,
        size: [usize; 2],
    ) -> Result<WebGpuTensor> {
        patches::final_layer(&self.0, x, scale, eps, w, patch, size)
    }

    fn guide_and_step(
        &self,
        latents: &mut WebGpuTensor,
        prediction: &WebGpuTensor,
        table: &WebGpuTensor,
        step: &mut WebGpuTensor,
    ) -> Result<()> {
        guide_and_step::guide_and_step(&self.0, latents, prediction, table, step)
    }

    fn conv2d(
        &self,
        x: &WebGpuTensor,
        w: &WebGpuConv2d,
        geometry: Conv2d,
        residual: Option<&WebGpuTensor>,
    ) -> Result<WebGpuTensor> {
        conv2d::conv2d(&self.0, x, w, geometry, residual)
    }

    fn group_norm(
        &self,
        x: &WebGpuTensor,
        weight: &WebGpuTensor,
        bias: &WebGpuTensor,
        groups: usize,
        eps: f32,
        silu: bool,
    ) -> Result<WebGpuTensor> {
        norms::group_norm(&self.0, x, weight, bias, groups, eps, silu)
    }

    fn unscale_latents(&self, latents: &WebGpuTensor, scale: f32, shift: f32) -> Result<WebGpuTensor> {
        elementwise::unscale_latents(&self.0, latents, scale, shift)
    }

    fn scale_latents(&self, x: &WebGpuTensor, channels: usize, scale: f32, shift: f32) -> Result<WebGpuTensor> {
        elementwise::scale_latents(&self.0, x, channels, scale, shift)
    }

    fn normalize_rgb8(&self, pixels: &WebGpuTensor) -> Result<WebGpuTensor> {
        elementwise::normalize_rgb8(&self.0, pixels)
    }

    fn to_rgb8(&self, x: &WebGpuTensor) -> Result<WebGpuTensor> {
        elementwise::to_rgb8(&self.0, x)
    }
}

/// What a norm returned; it returns a tensor whenever it was given a norm.
fn normed(verb: &'static str, out: Option<WebGpuTensor>) -> Result<WebGpuTensor> {
    out.ok_or_else(|| Error::shape(verb, "there is no norm"))
}
