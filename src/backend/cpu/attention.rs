//! `attention`: grouped, causal or not, per-item key lengths.

use super::microkernel::Left;
use super::packed::{Panels, each_panel, packed_len, store, transpose};
use super::parallel::*;
use super::rows::or;
use super::simd::{exp, max, sum};
use super::{Cpu, CpuTensor};
use crate::backend::{AttentionArgs, AttentionOp, DeviceTensor, Heads};
use crate::error::Result;
use crate::reserve::zeros;
use crate::tensor::{Compute, Fp8Scales, round_probabilities};
use multiversion::multiversion;
use std::f32::consts::{LN_2, LOG2_E};
use std::ops::Range;

/// Queries of one task. Their scores against all keys stay in the cache.
const QUERIES: usize = 24;
/// Keys and values that are packed at a time, unless those of one head are more.
const PACKED: usize = 1 << 20;

impl AttentionOp for Cpu {
    fn run_attention(&self, args: AttentionArgs<'_, CpuTensor>, shape: [usize; 3]) -> Result<CpuTensor> {
        let AttentionArgs { qkv, heads, mask, output } = args;
        let of = Attention { heads, tokens: shape[1], causal: mask.causal, probabilities: qkv.compute() };
        let ragged = mask.lengths.is_some();
        self.fill_operand(
            (output, Fp8Scales::Blocks),
            &shape,
            [qkv, or(mask.lengths, qkv)],
            move |[qkv, lengths], out| {
                let lengths = ragged.then(|| lengths.u32());
                attention(&qkv.f32()?, of, lengths.as_deref(), PACKED, out)
            },
        )
    }
}

/// The sizes of an attention and its kind.
#[derive(Debug, Clone, Copy)]
struct Attention {
    heads: Heads,
    tokens: usize,
    causal: bool,
    /// The type that probabilities are rounded to.
    probabilities: Compute,
}

/// `softmax(q·kᵀ/√dim + mask)·v` for a fused projection `[B, T, (Hq + 2·Hkv)·dim]`; `out` `[B, T,
/// Hq·dim]`. Packs as many heads at a time as have at most `most_packed` values, at least one.
fn attention(qkv: &[f32], of: Attention, lengths: Option<&[u32]>, most_packed: usize, out: &mut [f32]) -> Result<()> {
    let Attention { heads, tokens, .. } = of;
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
            attend(qkv, packed, of, groups, length, out)?;
        }
    }
    Ok(())
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

/// Attention of the query heads of the key heads `groups`, whose keys and values are `packed`, to
/// `length` keys.
fn attend(
    qkv: &[f32],
    packed: &[f32],
    of: Attention,
    groups: Range<usize>,
    length: usize,
    out: &mut [f32],
) -> Result<()> {
    let Attention { heads, tokens, causal, probabilities } = of;
    let Heads { query, key_value, dim } = heads;
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
                    let scale = 1.0 / (dim as f32).sqrt();
                    match probabilities {
                        Compute::Native => softmax(row, visible, scale),
                        Compute::Fp8 => fp8_softmax(row, visible, scale),
                    }
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

/// As [`softmax`], with exponentials that are rounded to E4M3 before they are divided by their sum.
/// The largest lies in (1/2, 1]: their unit is a power of two.
#[multiversion(targets = "simd")]
fn fp8_softmax(row: &mut [f32], visible: usize, scale: f32) {
    let (seen, hidden) = row.split_at_mut(visible);
    hidden.fill(0.0);
    let unit = (max(seen) * scale * LOG2_E).ceil() * LN_2;
    seen.iter_mut().for_each(|x| *x = exp(*x * scale - unit));
    let factor = 1.0 / sum(seen, |x| x);
    round_probabilities(seen);
    seen.iter_mut().for_each(|x| *x *= factor);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::noise;

    #[test]
    fn probabilities_in_fp8_are_relative_to_a_power_of_two() {
        let mut row = [1.0, 0.0, -1.0, 9.0];
        // eˣ is 2.72, 1 and 0.37, in units of 4: 0.68, 0.25 and 0.092.
        fp8_softmax(&mut row, 3, 1.0);
        let sum = [1.0f32, 0.0, -1.0].map(f32::exp).iter().sum::<f32>();
        for (found, rounded) in row.iter().zip([0.6875, 0.25, 0.09375, 0.0]) {
            assert!((found - rounded * 4.0 / sum).abs() < 1e-6, "{row:?}");
        }
    }

    #[test]
    fn heads_packed_one_by_one_give_the_same() {
        let heads = Heads { query: 6, key_value: 3, dim: 5 };
        let tokens = 50;
        let qkv = noise(1, 2 * tokens * heads.fused_width());
        let run = |most_packed| {
            let mut out = vec![f32::NAN; 2 * tokens * heads.query * heads.dim];
            let of = Attention { heads, tokens, causal: true, probabilities: Compute::Native };
            attention(&qkv, of, Some(&[50, 31]), most_packed, &mut out).unwrap();
            out
        };
        let all = run(usize::MAX);
        assert!(all.iter().all(|value| value.is_finite()));
        let of_head = packed_len(heads.dim, tokens) + packed_len(tokens, heads.dim);
        assert_eq!((run(0), run(2 * of_head)), (all.clone(), all));
    }
}
