//! `pad_rows`: the pad token past the end of each item.

use super::{Cpu, CpuTensor};
use crate::backend::{PadRowsArgs, PadRowsOp};
use crate::error::Result;

impl PadRowsOp for Cpu {
    fn run_pad_rows(&self, args: PadRowsArgs<'_, CpuTensor>, [_, tokens, _]: [usize; 3]) -> Result<()> {
        self.update(args.x, [args.token, args.lengths], move |[token, lengths], x| {
            pad_rows(x, tokens, &token.f32()?, &lengths.u32());
            Ok(())
        })
    }
}

/// `x[b, t] = token` for `t ≥ lengths[b]`, with `tokens` rows per item.
fn pad_rows(x: &mut [f32], tokens: usize, token: &[f32], lengths: &[u32]) {
    for (item, &length) in x.chunks_exact_mut(tokens * token.len()).zip(lengths) {
        item.chunks_exact_mut(token.len()).skip(length as usize).for_each(|row| row.copy_from_slice(token));
    }
}
