//! `unscale_latents`.

use super::{Binding, DType, Program, Result, THREADS, WebGpu, WebGpuTensor, uniform, wgsl};
use crate::backend::{UnscaleLatentsArgs, UnscaleLatentsOp};

const OP: &str = "unscale_latents";

uniform! {
    /// `Params` of `unscale_latents.wgsl`.
    struct Params {
        count: u32,
        channels: u32,
        pixels: u32,
        first: u32,
        scale: f32,
        shift: f32,
    }
}

fn program() -> Program {
    Program::new::<Params>(OP, wgsl!("unscale_latents"))
}

impl UnscaleLatentsOp for WebGpu {
    fn run_unscale_latents(
        &self,
        args: UnscaleLatentsArgs<'_, WebGpuTensor>,
        shape @ [_, h, w, channels]: [usize; 4],
    ) -> Result<WebGpuTensor> {
        let UnscaleLatentsArgs { latents, items, scale, shift } = args;
        let out = self.0.output(OP, &shape, DType::F32)?;
        let params = Params {
            count: out.len() as u32,
            channels: channels as u32,
            pixels: (h * w) as u32,
            first: items.start as u32,
            scale,
            shift,
        };
        let bindings = [latents, &out].map(Binding::from);
        self.0.dispatch(&program(), &bindings, params, out.len().div_ceil(THREADS))?;
        Ok(out)
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    vec![program()]
}
