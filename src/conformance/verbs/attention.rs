//! `attention`: the heads of all three networks, masks of both kinds, peaks, large values.

use super::super::case::{Suite, steps};
use super::super::tolerance::{ATTENTION, PEAKED_ATTENTION, Tolerance};
use crate::backend::{Backend, Heads, Mask};

/// What a case is: batch, tokens, heads, scales of queries and keys, scale of values, mask.
#[derive(Clone, Copy)]
struct Kind {
    batch: usize,
    tokens: usize,
    heads: [usize; 3],
    /// Queries and keys; normed heads are of about 1.
    scale: f32,
    values: f32,
    causal: bool,
    lengths: &'static [u32],
}

const PLAIN: Kind =
    Kind { batch: 1, tokens: 33, heads: [4, 4, 64], scale: 1.7, values: 1.0, causal: false, lengths: &[] };
const QWEN: Kind = Kind { heads: [32, 8, 128], causal: true, ..PLAIN };

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    for (name, kind) in [
        ("one-token", Kind { tokens: 1, ..PLAIN }),
        ("33-tokens", PLAIN),
        ("transformer-30-heads", Kind { tokens: 96, heads: [30, 30, 128], ..PLAIN }),
        ("transformer-ragged", Kind { batch: 3, tokens: 128, heads: [3, 3, 128], lengths: &[128, 97, 64], ..PLAIN }),
        ("qwen-causal-ragged", Kind { batch: 2, tokens: 64, lengths: &[64, 21], ..QWEN }),
        ("causal-gqa-257", Kind { tokens: 257, heads: [8, 2, 128], ..QWEN }),
        ("causal-one-key", Kind { batch: 2, tokens: 40, heads: [2, 1, 64], lengths: &[1, 40], ..QWEN }),
        ("257-tokens", Kind { tokens: 257, ..PLAIN }),
        ("lengths-no-tile-divides", Kind { batch: 2, tokens: 130, lengths: &[129, 1], ..PLAIN }),
        ("vae-one-head-of-512", Kind { tokens: 144, heads: [1, 1, 512], ..PLAIN }),
        ("head-of-96", Kind { tokens: 35, heads: [1, 1, 96], ..PLAIN }),
        ("odd-head", Kind { tokens: 37, heads: [3, 3, 18], ..PLAIN }),
        // Tiles of keys that some items have and others have not, and queries that fill no two tiles.
        ("400-ragged", Kind { batch: 3, tokens: 400, heads: [2, 2, 128], lengths: &[400, 130, 1], ..PLAIN }),
        ("400-causal-ragged", Kind { batch: 3, tokens: 400, heads: [4, 2, 128], lengths: &[1, 400, 260], ..QWEN }),
        ("values-1e6", Kind { values: 1e6, heads: [2, 1, 128], ..PLAIN }),
        // Equal scores: the mean of the values.
        ("flat", Kind { tokens: 50, scale: 0.0, ..PLAIN }),
        ("full-transformer", Kind { batch: 1, tokens: 4224, heads: [30, 30, 128], ..PLAIN }),
        ("full-ragged", Kind { batch: 2, tokens: 4224, heads: [6, 6, 128], lengths: &[4224, 4128], ..PLAIN }),
        ("full-qwen", Kind { tokens: 512, ..QWEN }),
        ("full-vae", Kind { tokens: 16_384, heads: [1, 1, 512], ..PLAIN }),
    ] {
        if suite.wants(name) {
            add(suite, name, kind, ATTENTION);
        }
    }
    // Scores of some hundreds: an exponential that is not taken relative to the largest overflows.
    // Through many tiles of keys the largest rises, by more than any kernel lets it lag behind.
    for (name, tokens) in [("peaked", 65), ("peaked-449", 449)] {
        add(suite, name, Kind { tokens, scale: 13.0, heads: [2, 2, 128], ..PLAIN }, PEAKED_ATTENTION);
    }
    for (name, tokens) in [("peaked-causal", 65), ("peaked-causal-449", 449)] {
        add(suite, name, Kind { tokens, scale: 13.0, heads: [4, 1, 128], ..QWEN }, PEAKED_ATTENTION);
    }
}

fn add<B: Backend + 'static>(suite: &mut Suite<B>, name: &str, kind: Kind, tolerance: Tolerance) {
    let Kind { batch, tokens, heads: [query, key_value, dim], scale, values, causal, lengths } = kind;
    suite.add("attention", name, tolerance, move |s| {
        let heads = Heads { query, key_value, dim };
        let mut qkv = s.draw(batch * tokens * heads.fused_width());
        for token in qkv.chunks_exact_mut(heads.fused_width()) {
            let (qk, v) = token.split_at_mut((query + key_value) * dim);
            qk.iter_mut().for_each(|x| *x *= scale);
            v.iter_mut().for_each(|x| *x *= values);
        }
        let qkv = s.activation_of(&[batch, tokens, heads.fused_width()], qkv)?;
        let lengths = (!lengths.is_empty()).then(|| s.numbers(&[batch], lengths)).transpose()?;
        steps(move |b: &B| Ok(vec![b.attention(&qkv, heads, Mask { causal, lengths: lengths.as_ref() })?]))
    });
}
