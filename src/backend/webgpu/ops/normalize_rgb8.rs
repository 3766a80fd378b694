//! `normalize_rgb8`.

use super::{Binding, DType, Program, Result, THREADS, WebGpu, WebGpuTensor, uniform, wgsl};
use crate::backend::{NormalizeRgb8Args, NormalizeRgb8Op};

const OP: &str = "normalize_rgb8";

uniform! {
    /// `Params` of `normalize_rgb8.wgsl`.
    struct Params {
        count: u32,
    }
}

fn program() -> Program {
    Program::new::<Params>(OP, wgsl!("normalize_rgb8"))
}

impl NormalizeRgb8Op for WebGpu {
    fn run_normalize_rgb8(&self, args: NormalizeRgb8Args<'_, WebGpuTensor>, shape: [usize; 4]) -> Result<WebGpuTensor> {
        let out = self.0.output(OP, &shape, DType::F32)?;
        let bindings = [args.pixels, &out].map(Binding::from);
        let params = Params { count: out.len() as u32 };
        self.0.dispatch(&program(), &bindings, params, out.len().div_ceil(THREADS))?;
        Ok(out)
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    vec![program()]
}
