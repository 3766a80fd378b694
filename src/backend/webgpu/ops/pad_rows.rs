//! `pad_rows`.

use super::{Binding, Program, Result, THREADS, WebGpu, WebGpuTensor, uniform, wgsl};
use crate::backend::{PadRowsArgs, PadRowsOp};

uniform! {
    /// `Params` of `pad_rows.wgsl`.
    struct Params {
        count: u32,
        tokens: u32,
        width: u32,
    }
}

fn program() -> Program {
    Program::new::<Params>("pad_rows", wgsl!("pad_rows"))
}

impl PadRowsOp for WebGpu {
    fn run_pad_rows(&self, args: PadRowsArgs<'_, WebGpuTensor>, [_, tokens, width]: [usize; 3]) -> Result<()> {
        let PadRowsArgs { x, token, lengths } = args;
        let count = x.len();
        let params = Params { count: count as u32, tokens: tokens as u32, width: width as u32 };
        let bindings = [&*x, token, lengths].map(Binding::from);
        self.0.dispatch(&program(), &bindings, params, count.div_ceil(THREADS))
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    vec![program()]
}
