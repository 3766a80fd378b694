//! `join_sequence`: image and caption tokens as one sequence, one CTA per row.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR, vector};
use crate::backend::{JoinSequenceArgs, JoinSequenceOp};
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a CTA.
const THREADS: usize = 128;

fn program(vector: usize) -> Program {
    Program::new("join_sequence", kernel!("join_sequence.cu")).with("VECTOR", vector)
}

impl JoinSequenceOp for Cuda {
    fn run_join_sequence(&self, args: JoinSequenceArgs<'_, CudaTensor>, shape: [usize; 3]) -> Result<CudaTensor> {
        let op = "join_sequence";
        let gpu = &self.gpu;
        let JoinSequenceArgs { image, caption, captions } = args;
        let [items, tokens, width] = shape;
        let out = gpu.output(op, &shape, DType::Bf16)?;
        let image = gpu.activation(image)?;
        let caption = gpu.activation(caption)?;
        let [images, image_tokens, _] = image.dims();
        let [caption_items, caption_tokens, _] = caption.dims();
        let args = [
            Arg::Read(&image),
            Arg::Read(&caption),
            Arg::Read(captions),
            Arg::Write(&out),
            Arg::U32(images),
            Arg::U32(image_tokens),
            Arg::U32(caption_items),
            Arg::U32(caption_tokens),
            Arg::U32(width),
        ];
        gpu.launch(&program(vector(width)), op, Grid::linear(items * tokens, THREADS), &args)?;
        Ok(out)
    }
}

/// Programs with and without vectors.
pub(crate) fn programs() -> Vec<Program> {
    [1, VECTOR].map(program).to_vec()
}
