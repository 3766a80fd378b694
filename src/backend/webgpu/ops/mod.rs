//! The ops, one file each: the shader's parameters, the launch, and every program of the op.

mod attention;
mod concat_rows;
mod conv2d;
mod embed_patches;
mod final_layer;
mod gather_rows;
mod group_moments;
mod group_norm;
mod join_sequence;
mod linear;
mod modulation;
mod normalize_groups;
mod normalize_rgb8;
mod pad_rows;
mod project_qkv;
mod qk_norm_rope;
mod residual;
mod residual_norm;
mod rms_norm;
mod sampler_step;
mod scale_latents;
mod swiglu;
mod timestep_embedding;
mod to_rgb8;
mod unscale_latents;

use crate::backend::DeviceTensor;
use crate::backend::webgpu::WebGpu;
use crate::backend::webgpu::driver::variant::Reduction;
use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::Program;
use crate::backend::webgpu::launch::shader::wgsl;
use crate::backend::webgpu::launch::uniform::uniform;
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor};

/// Threads of a workgroup of the elementwise ops. A thread has one value, or one word.
const THREADS: usize = 256;

/// Every program of every op.
pub(super) fn programs() -> Vec<Program> {
    let ops = [
        attention::programs(),
        conv2d::programs(),
        embed_patches::programs(),
        final_layer::programs(),
        gather_rows::programs(),
        group_norm::programs(),
        sampler_step::programs(),
        join_sequence::programs(),
        linear::programs(),
        modulation::programs(),
        normalize_rgb8::programs(),
        pad_rows::programs(),
        qk_norm_rope::programs(),
        residual_norm::programs(),
        scale_latents::programs(),
        swiglu::programs(),
        timestep_embedding::programs(),
        to_rgb8::programs(),
        unscale_latents::programs(),
    ];
    ops.concat()
}

/// Returns `tensor` if it is F32. Uploads widen every floating tensor except tables, which only
/// `gather_rows` reads.
fn f32s<'a>(op: &'static str, tensor: &'a WebGpuTensor) -> Result<&'a WebGpuTensor> {
    if tensor.dtype() == DType::F32 {
        return Ok(tensor);
    }
    Err(Error::shape(op, format!("F32 is needed, not {} {:?}", tensor.dtype(), tensor.shape())))
}

/// Uploads biases one after the other as one vector; `None` without any.
fn upload_bias(gpu: &Gpu, op: &'static str, biases: &[HostTensor]) -> Result<Option<WebGpuTensor>> {
    if biases.is_empty() {
        return Ok(None);
    }
    let values: Vec<f32> = biases.iter().flat_map(HostTensor::to_f32).collect();
    gpu.upload_tensor(op, &HostTensor::from_f32(&[values.len()], &values)).map(Some)
}
