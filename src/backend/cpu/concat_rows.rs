//! `concat_rows`: rows of several pictures as one picture.

use super::{Cpu, CpuTensor};
use crate::backend::{ConcatRowsArgs, ConcatRowsOp, DeviceTensor};
use crate::error::Result;
use std::ops::Range;

impl ConcatRowsOp for Cpu {
    fn run_concat_rows(&self, args: ConcatRowsArgs<'_, CpuTensor>, shape: [usize; 4]) -> Result<CpuTensor> {
        let out = self.output(&shape)?;
        let mut at = 0;
        for (x, rows) in args.parts {
            let row: usize = x.shape()[2..].iter().product();
            let taken: Range<usize> = rows.start * row..rows.end * row;
            let first = at;
            at += taken.len();
            self.update(&out, [*x], move |[x], out| {
                out[first..][..taken.len()].copy_from_slice(&x.f32()?[taken.clone()]);
                Ok(())
            })?;
        }
        Ok(out)
    }
}
