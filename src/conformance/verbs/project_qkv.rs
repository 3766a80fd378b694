//! `project_qkv`: projections that tiles cut between heads and within them, norms and rotations as in `qk_norm_rope`.

use super::super::case::{Suite, steps};
use super::super::tolerance::NORMED_PRODUCT;
use crate::backend::{Backend, Heads, QkNormRope, RopePairs};
use crate::tensor::DType;

/// What a case is: batch, tokens, width, heads, pairs, rotations, scale of `x`, and whether there is a bias.
#[derive(Clone, Copy)]
struct Kind {
    batch: usize,
    tokens: usize,
    width: usize,
    heads: [usize; 3],
    pairs: RopePairs,
    rotations: usize,
    scale: f32,
    bias: bool,
}

const PLAIN: Kind = Kind {
    batch: 1,
    tokens: 33,
    width: 64,
    heads: [3, 3, 128],
    pairs: RopePairs::Interleaved,
    rotations: 1,
    scale: 1.0,
    bias: false,
};

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    for (name, kind) in [
        ("one-token", Kind { tokens: 1, ..PLAIN }),
        ("transformer-30-heads", Kind { heads: [30, 30, 128], ..PLAIN }),
        ("qwen-32-8-heads", Kind { heads: [32, 8, 128], pairs: RopePairs::Halves, ..PLAIN }),
        // More rows than a tile has.
        ("257-tokens-by-item", Kind { batch: 2, tokens: 257, rotations: 2, ..PLAIN }),
        // And queries, keys and values in one tile, or in one pair of them, which the width does not fill.
        ("batch-of-one-rotation", Kind { batch: 3, tokens: 129, heads: [4, 2, 128], ..PLAIN }),
        ("two-heads", Kind { tokens: 200, heads: [2, 2, 128], ..PLAIN }),
        ("one-head", Kind { tokens: 193, heads: [1, 1, 128], width: 96, ..PLAIN }),
        ("two-queries-a-key", Kind { tokens: 400, heads: [2, 1, 128], width: 200, ..PLAIN }),
        ("odd-width", Kind { tokens: 200, heads: [2, 2, 128], width: 61, ..PLAIN }),
        ("bias", Kind { tokens: 200, bias: true, ..PLAIN }),
        ("halves-200", Kind { tokens: 200, pairs: RopePairs::Halves, ..PLAIN }),
        ("head-of-96", Kind { tokens: 200, heads: [2, 1, 96], ..PLAIN }),
        ("activations-1e6", Kind { tokens: 200, scale: 1e6, ..PLAIN }),
        ("eps-decides", Kind { tokens: 200, scale: 5e-3, ..PLAIN }),
        ("full", Kind { batch: 2, tokens: 4224, width: 3840, heads: [30, 30, 128], rotations: 2, ..PLAIN }),
        ("full-refiner", Kind { tokens: 4096, width: 3840, heads: [30, 30, 128], ..PLAIN }),
    ] {
        if suite.wants(name) {
            add(suite, name, kind);
        }
    }
}

fn add<B: Backend + 'static>(suite: &mut Suite<B>, name: &str, kind: Kind) {
    let Kind { batch, tokens, width, heads: [query, key_value, dim], pairs, rotations, scale, bias } = kind;
    suite.add("project_qkv", name, NORMED_PRODUCT, move |s| {
        let heads = Heads { query, key_value, dim };
        let x = s.activation(&[batch, tokens, width], scale)?;
        let w = s.linear(DType::Bf16, heads.fused_width(), width, bias)?;
        let (q_norm, k_norm) = (s.norm_weight(DType::Bf16, dim)?, s.norm_weight(DType::F32, dim)?);
        let angles = s.draw(rotations * tokens * dim / 2).into_iter().map(|v| v * 100.0);
        let table: Vec<f32> = angles.flat_map(|angle| [angle.cos(), angle.sin()]).collect();
        let rotation = s.floats(&[rotations, tokens, dim / 2, 2], &table)?;
        steps(move |b: &B| {
            let how = QkNormRope { q_norm: &q_norm, k_norm: &k_norm, eps: 1e-5, rotation: &rotation, pairs };
            Ok(vec![b.project_qkv(&x, &w, heads, how)?])
        })
    });
}
