//! `project_qkv`: the two ops of its default, then the rounding of queries, keys and values to FP8.

use super::linear::CpuLinear;
use super::parallel::*;
use super::{Cpu, CpuTensor};
use crate::backend::ops::project_in_two_ops;
use crate::backend::{Fp8Form, Heads, ProjectQkvArgs, ProjectQkvOp};
use crate::error::Result;
use crate::tensor::{Compute, FP8_VALUE_TOKENS, fp8_head_bound, round_values, round_within};

impl ProjectQkvOp for Cpu {
    fn run_project_qkv(&self, args: ProjectQkvArgs<'_, CpuTensor, CpuLinear>, shape: [usize; 3]) -> Result<CpuTensor> {
        let (heads, output) = (args.heads, args.output);
        let norms = [args.how.q_norm, args.how.k_norm];
        let qkv = project_in_two_ops(self, args, shape)?;
        if output == Compute::Native {
            return Ok(qkv);
        }
        self.update(&qkv, norms, move |[q_norm, k_norm], qkv| {
            round_queries_and_keys(qkv, heads, [q_norm.f32()?, k_norm.f32()?].map(|norm| fp8_head_bound(&norm)));
            round_all_values(qkv, heads, shape[1]);
            Ok(())
        })?;
        let [queries, keys] = heads.columns();
        Ok(qkv.in_fp8(Fp8Form::Projection { queries, keys }))
    }
}

/// Rounds the queries and the keys of every token to the values of their codes. `bounds`: the
/// largest magnitude that each may have.
fn round_queries_and_keys(qkv: &mut [f32], heads: Heads, bounds: [f32; 2]) {
    let [query_columns, key_columns] = heads.columns();
    qkv.par_chunks_mut(heads.fused_width()).for_each(|token| {
        let (queries, rest) = token.split_at_mut(query_columns);
        round_within(queries, bounds[0]);
        round_within(&mut rest[..key_columns], bounds[1]);
    });
}

/// Rounds the values of items of so many tokens to those of their codes.
fn round_all_values(qkv: &mut [f32], heads: Heads, tokens: usize) {
    let width = heads.fused_width();
    let first = heads.query + heads.key_value;
    for item in qkv.chunks_mut(tokens * width) {
        item.par_chunks_mut(FP8_VALUE_TOKENS * width).for_each(|block| {
            for head in first..first + heads.key_value {
                round_values(block, width, head * heads.dim..(head + 1) * heads.dim);
            }
        });
    }
}
