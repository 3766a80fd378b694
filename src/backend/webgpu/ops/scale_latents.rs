//! `scale_latents`.

use super::{Binding, DType, DeviceTensor, Program, Result, THREADS, WebGpu, WebGpuTensor, f32s, uniform, wgsl};
use crate::backend::{ScaleLatentsArgs, ScaleLatentsOp};

const OP: &str = "scale_latents";

uniform! {
    /// `Params` of `scale_latents.wgsl`.
    struct Params {
        count: u32,
        channels: u32,
        stored: u32,
        pixels: u32,
        scale: f32,
        shift: f32,
    }
}

fn program() -> Program {
    Program::new::<Params>(OP, wgsl!("scale_latents"))
}

impl ScaleLatentsOp for WebGpu {
    fn run_scale_latents(
        &self,
        args: ScaleLatentsArgs<'_, WebGpuTensor>,
        shape @ [_, channels, h, w]: [usize; 4],
    ) -> Result<WebGpuTensor> {
        let ScaleLatentsArgs { x, scale, shift, .. } = args;
        let out = self.0.output(OP, &shape, DType::F32)?;
        let params = Params {
            count: out.len() as u32,
            channels: channels as u32,
            stored: x.shape()[3] as u32,
            pixels: (h * w) as u32,
            scale,
            shift,
        };
        let bindings = [f32s(OP, x)?, &out].map(Binding::from);
        self.0.dispatch(&program(), &bindings, params, out.len().div_ceil(THREADS))?;
        Ok(out)
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    vec![program()]
}
