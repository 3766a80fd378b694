//! `join_sequence`.

use super::{Binding, DType, DeviceTensor, Program, Result, THREADS, WebGpu, WebGpuTensor, f32s, uniform, wgsl};
use crate::backend::{JoinSequenceArgs, JoinSequenceOp};

const OP: &str = "join_sequence";

uniform! {
    /// `Params` of `join_sequence.wgsl`.
    struct Params {
        count: u32,
        images: u32,
        image_item: u32,
        captions: u32,
        caption_item: u32,
    }
}

fn program() -> Program {
    Program::new::<Params>(OP, wgsl!("join_sequence"))
}

impl JoinSequenceOp for WebGpu {
    fn run_join_sequence(&self, args: JoinSequenceArgs<'_, WebGpuTensor>, shape: [usize; 3]) -> Result<WebGpuTensor> {
        let JoinSequenceArgs { image, caption, captions } = args;
        let out = self.0.output(OP, &shape, DType::F32)?;
        let items = |tensor: &WebGpuTensor| tensor.shape()[0];
        let item = |tensor: &WebGpuTensor| tensor.len() / items(tensor);
        let params = Params {
            count: out.len() as u32,
            images: items(image) as u32,
            image_item: item(image) as u32,
            captions: items(caption) as u32,
            caption_item: item(caption) as u32,
        };
        let bindings = [f32s(OP, image)?, f32s(OP, caption)?, captions, &out].map(Binding::from);
        self.0.dispatch(&program(), &bindings, params, out.len().div_ceil(THREADS))?;
        Ok(out)
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    vec![program()]
}
