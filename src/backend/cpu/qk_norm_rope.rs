//! `qk_norm_rope`: norms and rotates the queries and keys of a fused projection, in place.

use super::parallel::*;
use super::rms_norm::inverse_rms;
use super::{Cpu, CpuTensor};
use crate::backend::{Heads, ProjectQkvOp, QkNormRope, QkNormRopeArgs, QkNormRopeOp, RopePairs};
use crate::error::Result;

impl ProjectQkvOp for Cpu {}

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
    let dim = heads.dim;
    let tokens = rotation.table.len() / dim;
    qkv.par_chunks_mut(heads.fused_width()).enumerate().for_each(|(t, token)| {
        let angles = &rotation.table[(t % tokens) * dim..][..dim];
        let (q, rest) = token.split_at_mut(heads.query * dim);
        let k = &mut rest[..heads.key_value * dim];
        for (part, weight) in [(q, rotation.q_norm), (k, rotation.k_norm)] {
            for head in part.chunks_exact_mut(dim) {
                let factor = inverse_rms(head, rotation.eps);
                head.iter_mut().zip(weight).for_each(|(x, w)| *x *= factor * w);
                rotate(head, angles, rotation.pairs);
            }
        }
    });
}

/// `(a, b) → (a·cos − b·sin, a·sin + b·cos)` for every pair of a head.
fn rotate(head: &mut [f32], angles: &[f32], pairs: RopePairs) {
    let half = head.len() / 2;
    for (i, angle) in angles.chunks_exact(2).enumerate() {
        let (first, second) = match pairs {
            RopePairs::Interleaved => (2 * i, 2 * i + 1),
            RopePairs::Halves => (i, i + half),
        };
        let (a, b, cos, sin) = (head[first], head[second], angle[0], angle[1]);
        head[first] = a * cos - b * sin;
        head[second] = a * sin + b * cos;
    }
}
