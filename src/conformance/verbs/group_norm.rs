//! `group_norm`: the autoencoder's widths, a group a channel, values far from 0.

use super::super::case::{Suite, steps};
use super::super::tolerance::{NORM, NORM_FAR};
use crate::backend::Backend;
use crate::tensor::DType;

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    // Batch, height, width, channels, groups, whether SiLU follows, mean and scale of x.
    for (name, [batch, height, width, channels], groups, silu, [mean, scale], tolerance) in [
        ("512-silu", [1, 9, 7, 512], 32, true, [0.1, 1.0], NORM),
        ("512-before-attention", [1, 8, 8, 512], 32, false, [0.1, 1.0], NORM),
        ("128-silu", [1, 33, 65, 128], 32, true, [0.0, 1.0], NORM),
        ("batch", [3, 5, 7, 64], 32, true, [0.5, 1.0], NORM),
        ("one-pixel", [1, 1, 1, 96], 16, false, [0.0, 1.0], NORM),
        ("group-a-channel", [1, 9, 11, 12], 12, true, [0.0, 1.0], NORM),
        ("one-group", [2, 9, 11, 12], 1, false, [0.0, 1.0], NORM),
        ("odd-groups", [1, 13, 17, 18], 6, true, [0.0, 1.0], NORM),
        ("activations-1e4", [1, 16, 16, 64], 32, true, [0.0, 1e4], NORM),
        ("activations-1e9", [1, 16, 16, 64], 32, false, [0.0, 1e9], NORM),
        // The variance is that of eps.
        ("eps-decides", [1, 16, 16, 64], 32, false, [0.0, 1e-3], NORM),
        ("far-from-0", [1, 32, 32, 64], 32, false, [100.0, 1.0], NORM_FAR),
        ("full", [1, 1024, 1024, 128], 32, true, [0.1, 1.0], NORM),
    ] {
        if !suite.wants(name) {
            continue;
        }
        suite.add("group_norm", name, tolerance, move |s| {
            let shape = [batch, height, width, channels];
            let values = s.draw(shape.iter().product()).into_iter().map(|v| mean + v * scale).collect();
            let x = s.activation_of(&shape, values)?;
            let weight = s.norm_weight(DType::Bf16, channels)?;
            let bias = s.weights(DType::F32, &[channels], 0.0, 0.5);
            let bias = s.b.upload(&bias)?;
            steps(move |b: &B| Ok(vec![b.group_norm(&x, &weight, &bias, groups, 1e-6, silu)?]))
        });
    }
}
