//! `to_rgb8`.

use super::{Binding, DType, Program, Result, THREADS, WebGpu, WebGpuTensor, f32s, uniform, wgsl};
use crate::backend::{ToRgb8Args, ToRgb8Op};

const OP: &str = "to_rgb8";
/// Values of a thread: the bytes of a word.
const BYTES: usize = 4;

uniform! {
    /// `Params` of `to_rgb8.wgsl`.
    struct Params {
        count: u32,
    }
}

fn program() -> Program {
    Program::new::<Params>(OP, wgsl!("to_rgb8"))
}

impl ToRgb8Op for WebGpu {
    fn run_to_rgb8(&self, args: ToRgb8Args<'_, WebGpuTensor>, shape: [usize; 4]) -> Result<WebGpuTensor> {
        let out = self.0.output(OP, &shape, DType::U8)?;
        let bindings = [Binding::from(f32s(OP, args.x)?), Binding::from(&out), self.0.non_finite()];
        let params = Params { count: out.len() as u32 };
        self.0.dispatch(&program(), &bindings, params, out.len().div_ceil(BYTES * THREADS))?;
        Ok(out)
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    vec![program()]
}
