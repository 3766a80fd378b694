//! `qk_norm_rope`: both kinds of pairs, grouped heads, rotations of one item or of each.

use super::super::case::{Suite, steps};
use super::super::tolerance::NORM;
use crate::backend::{Backend, Heads, QkNormRope, RopePairs};
use crate::tensor::DType;

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    use RopePairs::{Halves, Interleaved};
    // Batch, tokens, heads, pairs, rotations, scale of the projection.
    for (name, batch, tokens, [query, key_value, dim], pairs, rotations, scale) in [
        ("transformer-30-heads", 1, 33, [30, 30, 128], Interleaved, 1, 1.0),
        ("qwen-32-8-heads", 1, 33, [32, 8, 128], Halves, 1, 1.0),
        ("one-token", 1, 1, [4, 1, 64], Halves, 1, 1.0),
        ("257-tokens-by-item", 2, 257, [3, 3, 20], Interleaved, 2, 1.0),
        ("batch-of-one-rotation", 3, 5, [4, 2, 64], Interleaved, 1, 1.0),
        ("narrow-heads", 2, 7, [2, 1, 2], Halves, 2, 1.0),
        ("head-of-96", 1, 19, [3, 1, 96], Halves, 1, 1.0),
        ("activations-1e4", 1, 17, [4, 4, 128], Interleaved, 1, 1e4),
        ("activations-1e6", 1, 17, [4, 2, 128], Halves, 1, 1e6),
        ("eps-decides", 1, 17, [4, 2, 64], Interleaved, 1, 5e-3),
        ("full", 2, 4224, [30, 30, 128], Interleaved, 2, 1.0),
    ] {
        if !suite.wants(name) {
            continue;
        }
        suite.add("qk_norm_rope", name, NORM, move |s| {
            let heads = Heads { query, key_value, dim };
            let qkv = s.activation(&[batch, tokens, heads.fused_width()], scale)?;
            let (q_norm, k_norm) = (s.norm_weight(DType::Bf16, dim)?, s.norm_weight(DType::F32, dim)?);
            let angles = s.draw(rotations * tokens * dim / 2).into_iter().map(|v| v * 100.0);
            let table: Vec<f32> = angles.flat_map(|angle| [angle.cos(), angle.sin()]).collect();
            let rotation = s.floats(&[rotations, tokens, dim / 2, 2], &table)?;
            steps(move |b: &B| {
                let mut qkv = qkv.clone();
                let how = QkNormRope { q_norm: &q_norm, k_norm: &k_norm, eps: 1e-5, rotation: &rotation, pairs };
                b.qk_norm_rope(&mut qkv, heads, how)?;
                Ok(vec![qkv])
            })
        });
    }
}
