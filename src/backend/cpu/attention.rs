//! `attention`: grouped, causal or not, per-item key lengths.

use super::microkernel::Left;
use super::packed::{Panels, each_panel, packed_len, store, transpose};
use super::parallel::*;
use super::rows::or;
use super::simd::{exp, max, sum};
use super::{Cpu, CpuTensor};
use crate::backend::{AttentionArgs, AttentionOp, Heads};
use crate::error::Result;
use crate::reserve::zeros;
use crate::tensor::Fp8Scales;
use multiversion::multiversion;
use std::ops::Range;

/// Queries of one task. Their scores against all keys stay in the cache.
const QUERIES: usize = 24;
/// Keys and values that are packed at a time, unless those of one head are more.
const PACKED: usize = 1 << 20;

impl AttentionOp for Cpu {
    fn run_attention(&self, args: AttentionArgs<'_, CpuTensor>, shape: [usize; 3]) -> Result<CpuTensor> {
        let AttentionArgs { qkv, heads, mask, output } = args;
        let tokens = shape[1];
        let causal = mask.causal;
        let ragged = mask.lengths.is_some();
        self.fill_operand(
            (output, Fp8Scales::Blocks),
            &shape,
            [qkv, or(mask.lengths, qkv)],
            move |[qkv, lengths], out| {
                let lengths = ragged.then(|| lengths.u32());
                attention(&qkv.f32()?, heads, tokens, causal, lengths.as_deref(), PACKED, out)
            },
        )
    }
}

/// `softmax(q·kᵀ/√dim + mask)·v` for a fused projection `[B, T, (Hq + 2·Hkv)·dim]`; `out` `[B, T,
/// Hq·dim]`. Packs as many heads at a time as have at most `most_packed` values, at least one.
fn attention(
    qkv: &[f32],
    heads: Heads,
    tokens: usize,
    causal: bool,
    lengths: Option<&[u32]>,
    most_packed: usize,
    out: &mut [f32],
) -> Result<()> {
    let (item, out_item) = (tokens * heads.fused_width(), tokens * heads.query * heads.dim);
    let of_head = packed_len(heads.dim, tokens) + packed_len(tokens, heads.dim);
    let at_once = (most_packed / of_head).clamp(1, heads.key_value);
    let mut packed = zeros(at_once * of_head, "the keys and values of attention")?;
    for (b, out) in out.chunks_exact_mut(out_item).enumerate() {
        let qkv = &qkv[b * item..(b + 1) * item];
        let length = lengths.map_or(tokens, |lengths| (lengths[b] as usize).clamp(1, tokens));
        for first in (0..heads.key_value).step_by(at_once) {
            let groups = first..heads.key_value.min(first + at_once);
            let packed = &mut packed[..groups.len() * of_head];
            let keys_and_values = packed.par_chunks_mut(of_head).enumerate();
            keys_and_values.for_each(|(i, out)| pack(qkv, heads, tokens, groups.start + i, out));
            attend(qkv, packed, heads, groups, Keys { tokens, length, causal }, out)?;
        }
    }
    Ok(())
}

/// The keys of an item.
#[derive(Clone, Copy)]
struct Keys {
    tokens: usize,
    /// The keys that are not masked.
    length: usize,
    causal: bool,
}

/// Packs the keys `[dim, T]` and the values `[T, dim]` of a head.
fn pack(qkv: &[f32], heads: Heads, tokens: usize, group: usize, out: &mut [f32]) {
    let Heads { query, key_value, dim } = heads;
    let width = heads.fused_width();
    let (keys, values) = out.split_at_mut(packed_len(dim, tokens));
    each_panel(keys, dim, tokens, |first, panel_width, out| {
        let k = &qkv[first * width + (query + group) * dim..];
        transpose(k, panel_width.min(tokens - first), width, (0, panel_width), dim, out);
    });
    each_panel(values, tokens, dim, |first, panel_width, out| {
        let columns = panel_width.min(dim - first);
        let v = &qkv[(query + key_value + group) * dim + first..];
        for (out, v) in out.chunks_exact_mut(panel_width).zip(v.chunks(width)) {
            out[..columns].copy_from_slice(&v[..columns]);
        }
    });
}

/// Attention of the query heads of the key heads `groups`, whose keys and values are `packed`.
fn attend(qkv: &[f32], packed: &[f32], heads: Heads, groups: Range<usize>, keys: Keys, out: &mut [f32]) -> Result<()> {
    let Heads { query, key_value, dim } = heads;
    let Keys { tokens, length, causal } = keys;
    let (width, out_width) = (heads.fused_width(), query * dim);
    let of_group = query / key_value;
    out.par_chunks_mut(QUERIES * out_width).enumerate().try_for_each(|(block, out)| {
        let first = block * QUERIES;
        let rows = out.len() / out_width;
        let keys = if causal { length.min(first + rows) } else { length };
        let mut scores = zeros(rows * keys, "the scores of attention")?;
        for (packed, group) in packed.chunks_exact(packed.len() / groups.len()).zip(groups.clone()) {
            let (k, v) = packed.split_at(packed_len(dim, tokens));
            let (k, v) = (Panels::new(k, dim, tokens), Panels::new(v, tokens, dim));
            for h in group * of_group..(group + 1) * of_group {
                let q = Left::matrix(&qkv[first * width + h * dim..], rows, dim, width);
                k.product(q, keys, |rows, columns, tile| store(tile, rows, columns, None, &mut scores, keys));
                for (r, row) in scores.chunks_exact_mut(keys).enumerate() {
                    let visible = if causal { keys.min(first + r + 1) } else { keys };
                    softmax(row, visible, 1.0 / (dim as f32).sqrt());
                }
                let weights = Left::matrix(&scores, rows, keys, keys);
                let out = &mut out[h * dim..];
                v.product(weights, dim, |rows, columns, tile| store(tile, rows, columns, None, out, out_width));
            }
        }
        Ok(())
    })
}

/// `eˢˣ / Σ eˢˣ` over the first `visible` values; the rest become 0.
#[multiversion(targets = "simd")]
fn softmax(row: &mut [f32], visible: usize, scale: f32) {
    let (seen, hidden) = row.split_at_mut(visible);
    hidden.fill(0.0);
    let max = max(seen);
    seen.iter_mut().for_each(|x| *x = exp((*x - max) * scale));
    let factor = 1.0 / sum(seen, |x| x);
    seen.iter_mut().for_each(|x| *x *= factor);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::noise;

    #[test]
    fn heads_packed_one_by_one_give_the_same() {
        let heads = Heads { query: 6, key_value: 3, dim: 5 };
        let tokens = 50;
        let qkv = noise(1, 2 * tokens * heads.fused_width());
        let run = |most_packed| {
            let mut out = vec![f32::NAN; 2 * tokens * heads.query * heads.dim];
            attention(&qkv, heads, tokens, true, Some(&[50, 31]), most_packed, &mut out).unwrap();
            out
        };
        let all = run(usize::MAX);
        assert!(all.iter().all(|value| value.is_finite()));
        let of_head = packed_len(heads.dim, tokens) + packed_len(tokens, heads.dim);
        assert_eq!((run(0), run(2 * of_head)), (all.clone(), all));
    }
}
