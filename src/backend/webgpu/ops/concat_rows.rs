//! `concat_rows`, by copies.

use super::{Binding, DType, DeviceTensor, Result, WebGpu, WebGpuTensor};
use crate::backend::{ConcatRowsArgs, ConcatRowsOp};

impl ConcatRowsOp for WebGpu {
    fn run_concat_rows(&self, args: ConcatRowsArgs<'_, WebGpuTensor>, shape: [usize; 4]) -> Result<WebGpuTensor> {
        let gpu = &self.0;
        let out = gpu.output("concat_rows", &shape, DType::F32)?;
        let mut offset = 0;
        for (x, rows) in args.parts {
            let row = (x.shape()[2..].iter().product::<usize>() * DType::F32.size()) as u64;
            let bytes = rows.len() as u64 * row;
            let from = Binding { memory: x.memory().clone(), offset: rows.start as u64 * row, bytes };
            gpu.copy(from, Binding { memory: out.memory().clone(), offset, bytes });
            offset += bytes;
        }
        Ok(out)
    }
}
