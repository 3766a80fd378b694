//! `qk_norm_rope`: norms and rotates the queries and keys of a fused projection, in place.

use super::parallel::*;
use super::rms_norm::inverse_rms;
use super::{Cpu, CpuTensor};
use crate::backend::{Heads, QkNormRope, QkNormRopeArgs, QkNormRopeOp, RopePairs};
use crate::error::Result;
use multiversion::multiversion;

impl QkNormRopeOp for Cpu {
    fn run_qk_norm_rope(&self, args: QkNormRopeArgs<'_, CpuTensor>, _: [usize; 2]) -> Result<()> {
        let QkNormRopeArgs { qkv, heads, how } = args;
        let QkNormRope { q_norm, k_norm, eps, rotation, pairs } = how;
        self.update(qkv, [q_norm, k_norm, rotation], move |[q_norm, k_norm, rotation], qkv| {
            let (q_norm, k_norm, table) = (q_norm.f32()?, k_norm.f32()?, rotation.f32()?);
            let rotation = Rotation { q_norm: &q_norm, k_norm: &k_norm, eps, table: &table, pairs };
            qk_norm_rope(qkv, heads, rotation);
            Ok(())
        })
    }
}

/// The norm and the rotation, as elements.
#[derive(Clone, Copy)]
struct Rotation<'a> {
    q_norm: &'a [f32],
    k_norm: &'a [f32],
    eps: f32,
    /// `[R·T, dim/2, 2]`: (cos, sin) of each pair.
    table: &'a [f32],
    pairs: RopePairs,
}

/// Norms and rotates every head of every token. A table of one item serves the whole batch.
fn qk_norm_rope(qkv: &mut [f32], heads: Heads, rotation: Rotation<'_>) {
    let tokens = rotation.table.len() / heads.dim;
    let qkv = qkv.par_chunks_mut(heads.fused_width()).enumerate();
    qkv.for_each(|(t, token)| norm_and_rotate(token, heads, rotation, t % tokens));
}

/// Norms and rotates every head of a token. `t` is its row of the table.
#[multiversion(targets = "simd")]
fn norm_and_rotate(token: &mut [f32], heads: Heads, rotation: Rotation<'_>, t: usize) {
    let dim = heads.dim;
    let angles = &rotation.table[t * dim..][..dim];
    let (q, rest) = token.split_at_mut(heads.query * dim);
    let k = &mut rest[..heads.key_value * dim];
    for (part, weight) in [(q, rotation.q_norm), (k, rotation.k_norm)] {
        for head in part.chunks_exact_mut(dim) {
            let factor = inverse_rms(head, rotation.eps);
            head.iter_mut().zip(weight).for_each(|(x, w)| *x *= factor * w);
            rotate(head, angles, rotation.pairs);
        }
    }
}

/// `(a, b) → (a·cos − b·sin, a·sin + b·cos)` for every pair of a head.
#[inline(always)]
fn rotate(head: &mut [f32], angles: &[f32], pairs: RopePairs) {
    let angles = angles.as_chunks::<2>().0;
    let rotated = |a: &mut f32, b: &mut f32, [cos, sin]: [f32; 2]| {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    };
    match pairs {
        RopePairs::Interleaved => {
            let pairs = head.as_chunks_mut::<2>().0.iter_mut().zip(angles);
            pairs.for_each(|([a, b], angle)| rotated(a, b, *angle));
        }
        RopePairs::Halves => {
            let (first, second) = head.split_at_mut(head.len() / 2);
            first.iter_mut().zip(second).zip(angles).for_each(|((a, b), angle)| rotated(a, b, *angle));
        }
    }
}
