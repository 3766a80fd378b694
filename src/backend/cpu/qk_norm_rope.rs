//! `qk_norm_rope`: norms and rotates the queries and keys of a fused projection, in place.

use super::super::{Heads, RopePairs};
use super::parallel::*;
use super::rms_norm::inverse_rms;

/// What turns and scales the heads.
#[derive(Clone, Copy)]
pub(super) struct Rotation<'a> {
    pub q_norm: &'a [f32],
    pub k_norm: &'a [f32],
    pub eps: f32,
    /// `[R·T, dim/2, 2]`: (cos, sin) of each pair.
    pub table: &'a [f32],
    pub pairs: RopePairs,
}

/// Every head of every token: norm, then rotation. The table repeats over the batch when it holds one item's tokens.
pub(super) fn qk_norm_rope(qkv: &mut [f32], heads: Heads, rotation: Rotation<'_>) {
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
