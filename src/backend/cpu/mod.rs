//! Plain Rust: the reference implementation of every op, and the backend of machines without a GPU.
//!
//! Each op has one file with a function on slices and the `run_…` method that calls it. `recording`
//! allocates the memory and preserves the order. All arithmetic is F32, and threads are rayon's on
//! platforms with threads. Gemms whose right matrix is packed run on `microkernel`, those of large
//! matrices, which stay as they are stored, on the `gemm` crate. FP8 operands are F32 values,
//! rounded to those that their codes and scales have.

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
mod matrix;
mod microkernel;
mod modulation;
mod normalize_groups;
mod normalize_rgb8;
mod packed;
mod pad_rows;
mod parallel;
mod patches;
mod project_qkv;
mod qk_norm_rope;
mod recording;
mod residual;
mod residual_norm;
mod rms_norm;
mod rows;
mod sampler_step;
mod scale_latents;
mod simd;
mod swiglu;
mod tensor;
#[cfg(test)]
mod tests;
mod timestep_embedding;
mod to_rgb8;
mod unscale_latents;

use super::Runtime;
use crate::error::Result;
use crate::tensor::{Format, HostTensor};
pub use conv2d::CpuConv2d;
pub use gather_rows::CpuTable;
pub use linear::CpuLinear;
pub use recording::CpuRecording;
use std::sync::{Arc, Mutex};
pub use swiglu::CpuSwiGlu;
pub use tensor::CpuTensor;
use tensor::FreeList;

/// The most elements of dropped tensors whose memory is kept for new ones: 64 MB.
const KEPT: usize = 1 << 24;

/// The `cpu` backend.
#[derive(Debug)]
pub struct Cpu {
    recording: Mutex<Option<CpuRecording>>,
    /// Memory for the tensors of ops that are not recorded.
    free: Arc<FreeList>,
}

impl Cpu {
    /// The CPU this program runs on.
    pub fn new() -> Self {
        Self { recording: Mutex::default(), free: Arc::new(FreeList::limited(KEPT)) }
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Runtime for Cpu {
    type Tensor = CpuTensor;
    type Recording = CpuRecording;
    type Event = ();

    const IN_FLIGHT: usize = 1;

    fn name(&self) -> &'static str {
        "cpu"
    }

    fn device(&self) -> String {
        format!("{} threads, {}", parallel::threads(), std::env::consts::ARCH)
    }

    fn keeps(&self, _: Format) -> bool {
        true
    }

    fn computes_fp8(&self) -> bool {
        true
    }

    fn trim(&self) {
        self.free.clear();
    }

    fn run_upload(&self, tensor: &HostTensor) -> Result<CpuTensor> {
        Ok(CpuTensor::stored(tensor))
    }

    async fn download(&self, tensor: &CpuTensor) -> Result<HostTensor> {
        self.not_recording("download")?;
        tensor.to_host()
    }

    fn record(&self, steps: impl FnOnce(&Self) -> Result<()>) -> Result<CpuRecording> {
        self.recorded(steps)
    }

    fn replay(&self, recording: &CpuRecording) -> Result<()> {
        self.not_recording("replay")?;
        recording.run()
    }

    fn event(&self) -> Result<()> {
        Ok(())
    }

    async fn wait(&self, (): ()) -> Result<()> {
        parallel::turn().await;
        Ok(())
    }
}
