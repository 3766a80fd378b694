//! Any GPU: WGSL compute shaders through wgpu.
//!
//! One file in `shaders/` a verb; the files here launch them, check shapes and find the memory. Activations are F32,
//! weights stay as they are stored and are widened where they are read, all arithmetic is F32. The faster variants
//! multiply halves, make matrices F16 once they are on the device, and sum by subgroup operations: see [`Shaders`].

mod driver;
mod gemm;
mod launch;
mod matrix;
mod memory;
mod ops;
#[cfg(test)]
mod tests;

use super::*;
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor, Weight};
pub use driver::adapters::{AdapterInfo, Adapters, adapters};
pub use driver::variant::Shaders;
pub use launch::event::WebGpuEvent;
use launch::gpu::Gpu;
pub use launch::recording::WebGpuRecording;
use matrix::stored::Stored;
use matrix::upload::MatrixUpload;
pub use matrix::{WebGpuConv2d, WebGpuLinear, WebGpuSwiGlu};
pub use memory::tensor::WebGpuTensor;
use ops::{attention, conv2d, elementwise, embed_patches as patches, guide_and_step, linear, residual_norm as norms};

/// The `webgpu` backend.
#[derive(Debug)]
pub struct WebGpu(Gpu);

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
        matrix::activations::programs(),
        matrix::f16::programs(),
        linear::programs(),
        norms::programs(),
        patches::programs(),
    ];
    programs.concat().into_iter().map(|program| (program.label(), program.entry, program.source())).collect()
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

    fn peak_memory(&self) -> Option<u64> {
        Some(self.0.pool.peak())
    }

    fn largest_activation(&self) -> usize {
        usize::try_from(self.0.device.max_binding).unwrap_or(usize::MAX) / DType::F32.size()
    }

    /// Variants that multiply halves have every matrix so. Tables stay as they are stored.
    fn weights(&self, stored: DType) -> DType {
        if self.0.device.variant.f16() { DType::F16 } else { stored }
    }

    fn trim(&self) {
        self.0.pool.end_stage();
    }

    /// What is stored in a shorter floating type is widened, as it is small and shaders read it as F32.
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

impl GatherRowsOp for WebGpu {
    async fn run_upload_table(&self, table: &Weight<'_>) -> Result<WebGpuTensor> {
        shapes::dims::<2>("upload_table", "the table", table.shape())?;
        self.0.upload_table("upload_table", table).await
    }

    fn run_gather_rows(&self, a: GatherRowsArgs<'_, WebGpuTensor>, _: &[usize]) -> Result<WebGpuTensor> {
        elementwise::gather_rows(&self.0, a.table, a.ids)
    }
}

impl LinearOp for WebGpu {
    type Linear = WebGpuLinear;

    async fn run_upload_linear(
        &self,
        parts: &[Weight<'_>],
        biases: &[HostTensor],
        dims: [usize; 2],
    ) -> Result<WebGpuLinear> {
        let verb = "upload_linear";
        let mut rows = MatrixUpload::new(&self.0, verb, Stored::of(parts), dims, 1)?;
        Weight::each_piece(parts, |first, part| rows.write(first, 0, &part)).await?;
        Ok(WebGpuLinear { matrix: rows.finish()?, bias: self.bias(verb, biases)? })
    }

    fn run_linear(&self, a: LinearArgs<'_, WebGpuTensor, WebGpuLinear>, _: &[usize]) -> Result<WebGpuTensor> {
        linear::linear(&self.0, a.x, a.w)
    }
}

impl SwiGluOp for WebGpu {
    type SwiGlu = WebGpuSwiGlu;

    async fn run_upload_swiglu(&self, gate: &Weight<'_>, up: &Weight<'_>, dims: [usize; 2]) -> Result<WebGpuSwiGlu> {
        let verb = "upload_swiglu";
        let mut rows = MatrixUpload::new(&self.0, verb, Stored::of([gate, up]), dims, 2)?;
        let write = |first, [gate, up]: [HostTensor; 2]| {
            rows.write(first, 0, &gate)?;
            rows.write(first, 1, &up)
        };
        Weight::each_pair([gate, up], write).await?;
        Ok(WebGpuSwiGlu { matrix: rows.finish()? })
    }

    fn run_swiglu(&self, a: SwiGluArgs<'_, WebGpuTensor, WebGpuSwiGlu>, _: &[usize]) -> Result<WebGpuTensor> {
        linear::swiglu(&self.0, a.x, a.w)
    }
}

impl Conv2dOp for WebGpu {
    type Conv2d = WebGpuConv2d;

    fn run_upload_conv2d(
        &self,
        kernel: &HostTensor,
        bias: Option<&HostTensor>,
        stored @ [o, i, kh, kw]: [usize; 4],
    ) -> Result<WebGpuConv2d> {
        let verb = "upload_conv2d";
        let matrix = MatrixUpload::kernel(&self.0, verb, kernel, stored)?;
        let bias = self.bias(verb, bias.map_or(&[], std::slice::from_ref))?;
        Ok(WebGpuConv2d { matrix, dims: [o, kh, kw, i], bias })
    }

    fn run_conv2d(&self, a: Conv2dArgs<'_, WebGpuTensor, WebGpuConv2d>, _: [usize; 4]) -> Result<WebGpuTensor> {
        conv2d::conv2d(&self.0, a.x, a.w, a.geometry, a.residual)
    }
}

impl AttentionOp for WebGpu {
    fn run_attention(&self, a: AttentionArgs<'_, WebGpuTensor>, _: [usize; 3]) -> Result<WebGpuTensor> {
        attention::attention(&self.0, a.qkv, a.heads, a.mask)
    }
}

impl EmbedPatchesOp for WebGpu {
    fn run_embed_patches(
        &self,
        a: EmbedPatchesArgs<'_, WebGpuTensor, WebGpuLinear>,
        _: [usize; 3],
    ) -> Result<WebGpuTensor> {
        patches::embed_patches(&self.0, a.latents, a.patch, a.w, a.pad, a.tokens, a.copies)
    }
}

impl FinalLayerOp for WebGpu {
    fn run_final_layer(
        &self,
        a: FinalLayerArgs<'_, WebGpuTensor, WebGpuLinear>,
        _: [usize; 4],
    ) -> Result<WebGpuTensor> {
        patches::final_layer(&self.0, a.x, a.scale, a.eps, a.w, a.patch, a.size)
    }
}

impl GroupNormOp for WebGpu {
    fn run_group_norm(&self, a: GroupNormArgs<'_, WebGpuTensor>, _: [usize; 4]) -> Result<WebGpuTensor> {
        norms::group_norm(&self.0, a.x, a.weight, a.bias, a.groups, a.eps, a.silu)
    }
}

impl JoinSequenceOp for WebGpu {
    fn run_join_sequence(&self, a: JoinSequenceArgs<'_, WebGpuTensor>, _: [usize; 3]) -> Result<WebGpuTensor> {
        elementwise::join_sequence(&self.0, a.image, a.caption, a.captions)
    }
}

impl ModulationOp for WebGpu {
    fn run_modulation(&self, a: ModulationArgs<'_, WebGpuTensor, WebGpuLinear>, _: [usize; 3]) -> Result<WebGpuTensor> {
        linear::modulation(&self.0, a.t, a.w, a.silu, a.width)
    }
}

impl NormalizeRgb8Op for WebGpu {
    fn run_normalize_rgb8(&self, a: NormalizeRgb8Args<'_, WebGpuTensor>, _: [usize; 4]) -> Result<WebGpuTensor> {
        elementwise::normalize_rgb8(&self.0, a.pixels)
    }
}

impl PadRowsOp for WebGpu {
    fn run_pad_rows(&self, a: PadRowsArgs<'_, WebGpuTensor>, _: [usize; 3]) -> Result<()> {
        elementwise::pad_rows(&self.0, a.x, a.token, a.lengths)
    }
}

impl QkNormRopeOp for WebGpu {
    fn run_qk_norm_rope(&self, a: QkNormRopeArgs<'_, WebGpuTensor>, _: [usize; 2]) -> Result<()> {
        attention::qk_norm_rope(&self.0, a.qkv, a.heads, a.how)
    }
}

impl ResidualOp for WebGpu {
    fn run_residual(&self, a: ResidualArgs<'_, WebGpuTensor>, _: [usize; 3]) -> Result<()> {
        norms::residual_norm(&self.0, "residual", a.x, Some(a.branch), None).map(drop)
    }
}

impl ResidualNormOp for WebGpu {
    fn run_residual_norm(&self, a: ResidualNormArgs<'_, WebGpuTensor>, _: [usize; 3]) -> Result<WebGpuTensor> {
        normed("residual_norm", norms::residual_norm(&self.0, "residual_norm", a.x, Some(a.branch), Some(a.norm))?)
    }
}

impl RmsNormOp for WebGpu {
    fn run_rms_norm(&self, a: RmsNormArgs<'_, WebGpuTensor>, _: [usize; 3]) -> Result<WebGpuTensor> {
        normed("rms_norm", norms::residual_norm(&self.0, "rms_norm", a.x, None, Some(a.norm))?)
    }
}

impl ScaleLatentsOp for WebGpu {
    fn run_scale_latents(&self, a: ScaleLatentsArgs<'_, WebGpuTensor>, _: [usize; 4]) -> Result<WebGpuTensor> {
        elementwise::scale_latents(&self.0, a.x, a.channels, a.scale, a.shift)
    }
}

impl TimestepEmbeddingOp for WebGpu {
    fn run_timestep_embedding(
        &self,
        a: TimestepEmbeddingArgs<'_, WebGpuTensor, WebGpuLinear>,
        _: [usize; 2],
    ) -> Result<WebGpuTensor> {
        linear::timestep_embedding(&self.0, a.times, a.step, a.w1, a.w2)
    }
}

impl ToRgb8Op for WebGpu {
    fn run_to_rgb8(&self, a: ToRgb8Args<'_, WebGpuTensor>, _: [usize; 4]) -> Result<WebGpuTensor> {
        elementwise::to_rgb8(&self.0, a.x)
    }
}

impl UnscaleLatentsOp for WebGpu {
    fn run_unscale_latents(&self, a: UnscaleLatentsArgs<'_, WebGpuTensor>, _: [usize; 4]) -> Result<WebGpuTensor> {
        elementwise::unscale_latents(&self.0, a.latents, a.scale, a.shift)
    }
}

impl GuideAndStepOp for WebGpu {
    fn run_guide_and_step(&self, a: GuideAndStepArgs<'_, WebGpuTensor>) -> Result<()> {
        guide_and_step::guide_and_step(&self.0, a.latents, a.prediction, a.table, a.step)
    }
}

impl ProjectQkvOp for WebGpu {}

/// What a norm returned; it returns a tensor whenever it was given a norm.
fn normed(verb: &'static str, out: Option<WebGpuTensor>) -> Result<WebGpuTensor> {
    out.ok_or_else(|| Error::shape(verb, "there is no norm"))
}
