//! `attention`: grouped, causal or not, per-item key lengths.

use super::matrix::{View, ViewMut, product};
use super::parallel::*;
use super::rows::or;
use super::simd::{exp, max, sum};
use super::{Cpu, CpuTensor};
use crate::backend::{AttentionArgs, AttentionOp, Heads};
use crate::error::Result;
use crate::reserve::zeros;
use multiversion::multiversion;

/// Queries of one task. Their scores against all keys stay in the cache.
const QUERIES: usize = 32;

impl AttentionOp for Cpu {
    fn run_attention(&self, args: AttentionArgs<'_, CpuTensor>, shape: [usize; 3]) -> Result<CpuTensor> {
        let AttentionArgs { qkv, heads, mask } = args;
        let tokens = shape[1];
        let causal = mask.causal;
        let ragged = mask.lengths.is_some();
        self.fill(&shape, [qkv, or(mask.lengths, qkv)], move |[qkv, lengths], out| {
            let lengths = ragged.then(|| lengths.u32());
            attention(&qkv.f32()?, heads, tokens, causal, lengths.as_deref(), out)
        })
    }
}

/// `softmax(q·kᵀ/√dim + mask)·v` for a fused projection `[B, T, (Hq + 2·Hkv)·dim]`; `out` `[B, T,
/// Hq·dim]`.
fn attention(
    qkv: &[f32],
    heads: Heads,
    tokens: usize,
    causal: bool,
    lengths: Option<&[u32]>,
    out: &mut [f32],
) -> Result<()> {
    let Heads { query, key_value, dim } = heads;
    let (width, out_width) = (heads.fused_width(), query * dim);
    let item = |out: &mut [f32], b: usize| -> Result<()> {
        let qkv = &qkv[b * tokens * width..(b + 1) * tokens * width];
        let length = lengths.map_or(tokens, |lengths| (lengths[b] as usize).clamp(1, tokens));
        out.par_chunks_mut(QUERIES * out_width).enumerate().try_for_each(|(block, out)| {
            let first = block * QUERIES;
            let rows = out.len() / out_width;
            let keys = if causal { length.min(first + rows) } else { length };
            let mut scores = zeros(rows * keys, "the scores of attention")?;
            for h in 0..query {
                let group = h / (query / key_value);
                let q = View::new(&qkv[first * width + h * dim..], rows, dim, width);
                let k = View::new(&qkv[(query + group) * dim..], keys, dim, width);
                let v = View::new(&qkv[(query + key_value + group) * dim..], keys, dim, width);
                product(ViewMut { data: &mut scores, rows, cols: keys, row_stride: keys }, q, k.t(), false);
                for (r, row) in scores.chunks_exact_mut(keys).enumerate() {
                    let visible = if causal { keys.min(first + r + 1) } else { keys };
                    softmax(row, visible, 1.0 / (dim as f32).sqrt());
                }
                let heads = ViewMut { data: &mut out[h * dim..], rows, cols: dim, row_stride: out_width };
                product(heads, View::new(&scores, rows, keys, keys), v, false);
            }
            Ok(())
        })
    };
    out.chunks_exact_mut(tokens * out_width).enumerate().try_for_each(|(b, out)| item(out, b))
}

/// `eˢˣ / Σ eˢˣ` over the first `visible` values; the rest become 0.
#[multiversion(targets = "simd")]
fn softmax(row: &mut [f32], visible: usize, scale: f32) {
    let (seen, hidden) = row.split_at_mut(visible);
    hidden.fill(0.0);
    let max = max(seen);
    seen.iter_mut().for_each(|x| *x = exp((*x - max) * scale));
    let sum = sum(seen, |x| x);
    seen.iter_mut().for_each(|x| *x /= sum);
}
