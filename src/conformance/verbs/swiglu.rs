//! `swiglu`: both feed-forward widths, and gates so large that an exponential overflows.

use super::super::case::{Suite, in_pieces, steps};
use super::super::tolerance::GATED_PRODUCT;
use crate::backend::Backend;
use crate::future::expect_ready;
use crate::tensor::DType;

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    for (name, tokens, k, f, dtype, scale) in [
        ("one-token", 1, 256, 384, DType::Bf16, 1.0),
        ("33-tokens", 33, 256, 682, DType::Bf16, 1.0),
        ("257-tokens", 257, 64, 130, DType::F16, 2.0),
        ("slice-width-3840", 65, 3840, 160, DType::Bf16, 1.0),
        ("odd-widths", 19, 61, 37, DType::Bf16, 3.0),
        ("odd-widths-f32", 3, 7, 1, DType::F32, 1.0),
        // The product of the two is 1e8: past F16 by far, as in Z-Image's deep blocks.
        ("bf16-activations-1e4", 64, 384, 256, DType::Bf16, 1e4),
        ("f32-activations-1e5", 33, 128, 96, DType::F32, 1e5),
        // Tiles that stand in pairs, some without a neighbour.
        ("400-tokens", 400, 200, 264, DType::Bf16, 1.0),
        ("600-tokens", 600, 200, 520, DType::Bf16, 1.0),
        ("full", 4224, 3840, 10_240, DType::Bf16, 1.0),
    ] {
        if !suite.wants(name) {
            continue;
        }
        suite.add("swiglu", name, GATED_PRODUCT, move |s| {
            let x = s.activation(&[1, tokens, k], scale)?;
            let (gate, up) = (s.matrix(dtype, f, k), s.matrix(dtype, f, k));
            let w = expect_ready(s.b.upload_swiglu(&gate.into(), &up.into()))?;
            steps(move |b: &B| Ok(vec![b.swiglu(&x, &w)?]))
        });
    }
    // Matrices in pieces, of the same height and not, and of types that are no use to shaders side by side.
    for (name, k, types) in [
        ("in-pieces-bf16", 61, [DType::Bf16, DType::Bf16]),
        ("in-pieces-f32", 64, [DType::F32, DType::F32]),
        ("in-pieces-mixed", 96, [DType::F32, DType::F16]),
    ] {
        suite.add("swiglu", name, GATED_PRODUCT, move |s| {
            let x = s.activation(&[1, 19, k], 1.0)?;
            let [gate, up] = types.map(|dtype| in_pieces(s.matrix(dtype, 37, k), Some(3000)));
            let w = expect_ready(s.b.upload_swiglu(&gate, &up))?;
            steps(move |b: &B| Ok(vec![b.swiglu(&x, &w)?]))
        });
    }
}
