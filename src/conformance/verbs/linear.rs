//! `linear`: the widths of Z-Image, sizes that no tile divides, stacked parts, biases, large activations.

use super::super::case::{Suite, in_pieces, steps};
use super::super::tolerance::PRODUCT;
use crate::backend::Backend;
use crate::future::expect_ready;
use crate::tensor::DType;

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    // Tokens, K, N, stored type, bias, scale of x.
    for (name, tokens, k, n, dtype, bias, scale) in [
        ("one-token", 1, 256, 768, DType::Bf16, false, 1.0),
        ("33-tokens", 33, 256, 257, DType::Bf16, true, 1.0),
        ("257-tokens", 257, 128, 130, DType::F16, true, 1.0),
        ("qkv-slice-width-3840", 65, 3840, 384, DType::Bf16, false, 1.0),
        ("down-slice-width-10240", 33, 10_240, 96, DType::Bf16, false, 1.0),
        ("caption-2560", 32, 2560, 240, DType::F32, true, 1.0),
        ("one-output", 7, 96, 1, DType::F32, true, 1.0),
        ("odd-widths", 19, 61, 37, DType::Bf16, true, 1.0),
        ("odd-widths-f16", 19, 63, 35, DType::F16, false, 1.0),
        ("narrower-than-a-tile", 5, 3, 5, DType::F32, true, 1.0),
        ("bf16-activations-1e4", 64, 384, 256, DType::Bf16, true, 1e4),
        ("f16-activations-1e5", 33, 256, 128, DType::F16, true, 1e5),
        ("f32-activations-1e9", 17, 256, 128, DType::F32, true, 1e9),
        ("small-activations", 33, 256, 128, DType::Bf16, false, 1e-6),
        // Tiles that stand in pairs, some without a neighbour.
        ("400-tokens", 400, 200, 264, DType::Bf16, true, 1.0),
        ("600-tokens", 600, 200, 520, DType::Bf16, false, 1.0),
        ("full-qkv", 4224, 3840, 11_520, DType::Bf16, false, 1.0),
        ("full-down", 4224, 10_240, 3840, DType::Bf16, false, 1e4),
    ] {
        if !suite.wants(name) {
            continue;
        }
        suite.add("linear", name, PRODUCT, move |s| {
            let x = s.activation(&[1, tokens, k], scale)?;
            let w = s.linear(dtype, n, k, bias)?;
            steps(move |b: &B| Ok(vec![b.linear(&x, &w)?]))
        });
    }
    // Parts as q, k and v are stored: of unequal height, alike or each of its own type, whole and in pieces.
    let mixed = [DType::Bf16, DType::F16, DType::F32];
    // In some the last piece has the largest values, eight times those before: who makes halves of what came first by its own
    // measure has no room for them.
    for (name, width, types, pieces, last) in [
        ("stacked-gqa", 160, mixed, None, 1.0),
        ("stacked-gqa-in-pieces", 160, mixed, Some(5000), 1.0),
        ("stacked-bf16-in-pieces", 61, [DType::Bf16; 3], Some(1000), 8.0),
        ("stacked-f16-in-pieces", 63, [DType::F16; 3], Some(1), 8.0),
        ("stacked-f32-in-pieces", 160, [DType::F32; 3], Some(5000), 8.0),
    ] {
        suite.add("linear", name, PRODUCT, move |s| {
            let x = s.activation(&[2, 9, width], 1.0)?;
            let parts = [(128, types[0]), (32, types[1]), (33, types[2])];
            let matrices = parts.map(|(n, dtype)| {
                let spread = if n == 33 { last } else { 1.0 };
                in_pieces(s.weights(dtype, &[n, width], 0.0, spread * (3.0 / width as f32).sqrt()), pieces)
            });
            let biases = parts.map(|(n, dtype)| s.weights(dtype, &[n], 0.0, 1.0));
            let with = expect_ready(s.b.upload_linear(&matrices, &biases))?;
            let without = expect_ready(s.b.upload_linear(&matrices, &[]))?;
            steps(move |b: &B| Ok(vec![b.linear(&x, &with)?, b.linear(&x, &without)?]))
        });
    }
    suite.add("linear", "rank-2-input", PRODUCT, |s| {
        let x = s.activation(&[3, 64], 100.0)?;
        let w = s.linear(DType::Bf16, 64, 64, true)?;
        steps(move |b: &B| Ok(vec![b.linear(&x, &w)?]))
    });
}
