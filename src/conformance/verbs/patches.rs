//! `embed_patches` and `final_layer`: pictures of every proportion, padding, copies, more tokens than patches.

use super::super::case::{Suite, steps};
use super::super::tolerance::{PRODUCT, PRODUCT_FAR, Tolerance};
use crate::backend::{Backend, Modulation};
use crate::tensor::DType;

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    // Batch, channels, height and width of the latents, patch, tokens, copies, width of a token, scale.
    for (name, batch, channels, [height, width], patch, tokens, copies, dim, scale) in [
        ("z-image-width-3840", 1, 16, [12, 10], 2, 32, 1, 3840, 1.0),
        ("one-patch", 1, 16, [2, 2], 2, 32, 1, 64, 1.0),
        ("no-padding", 2, 16, [8, 16], 2, 32, 1, 60, 1.0),
        ("guidance-copies", 2, 4, [6, 14], 2, 32, 2, 60, 1.0),
        ("tall", 1, 4, [34, 2], 2, 32, 1, 61, 1.0),
        ("patch-of-1", 1, 3, [5, 7], 1, 35, 1, 33, 1.0),
        ("patch-of-3", 1, 5, [9, 6], 3, 7, 3, 20, 1.0),
        ("latents-1e5", 1, 16, [4, 4], 2, 32, 1, 64, 1e5),
        ("full", 1, 16, [128, 128], 2, 4096, 1, 3840, 1.0),
    ] {
        if !suite.wants(name) {
            continue;
        }
        suite.add("embed_patches", name, PRODUCT, move |s| {
            let latents = s.latents(&[batch, channels, height, width], scale)?;
            let w = s.linear(DType::Bf16, dim, patch * patch * channels, true)?;
            let pad = s.weights(DType::F32, &[dim], 0.0, 1.0);
            let pad = s.b.upload(&pad)?;
            steps(move |b: &B| Ok(vec![b.embed_patches(&latents, patch, &w, &pad, tokens, copies)?]))
        });
    }
    // Batch, tokens, width of a token, channels, height and width, patch, rows of the table, mean and scale of x.
    for (name, [batch, tokens, dim], channels, size, patch, table, [mean, scale], tolerance) in [
        ("z-image-width-3840", [1, 64, 3840], 16, [10, 12], 2, 1, [0.3, 1.0], PRODUCT),
        ("one-patch", [1, 64, 64], 16, [2, 2], 2, 1, [0.0, 1.0], PRODUCT),
        ("scale-for-each-item", [3, 17, 60], 4, [8, 8], 2, 3, [0.0, 1.0], PRODUCT),
        ("odd-width", [2, 37, 61], 3, [7, 5], 1, 1, [1.0, 1.0], PRODUCT),
        ("patch-of-3", [1, 9, 20], 5, [9, 6], 3, 1, [0.0, 1.0], PRODUCT),
        ("activations-1e4", [1, 40, 256], 16, [8, 16], 2, 1, [0.0, 1e4], PRODUCT),
        ("activations-1e9", [1, 40, 256], 16, [8, 16], 2, 1, [0.0, 1e9], PRODUCT),
        ("far-from-0", [1, 16, 256], 16, [8, 8], 2, 1, [100.0, 1.0], PRODUCT_FAR),
        // The variance is that of eps.
        ("eps-decides", [1, 16, 256], 16, [8, 8], 2, 1, [0.0, 1e-3], PRODUCT),
        ("full", [2, 4224, 3840], 16, [128, 128], 2, 1, [0.3, 1.0], PRODUCT),
    ] {
        if suite.wants(name) {
            final_layer(suite, name, [batch, tokens, dim], channels, size, patch, table, [mean, scale], tolerance);
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "a row of the table above")]
fn final_layer<B: Backend + 'static>(
    suite: &mut Suite<B>,
    name: &str,
    shape: [usize; 3],
    channels: usize,
    size: [usize; 2],
    patch: usize,
    table: usize,
    [mean, scale]: [f32; 2],
    tolerance: Tolerance,
) {
    suite.add("final_layer", name, tolerance, move |s| {
        let dim = shape[2];
        let values = s.draw(shape.iter().product()).into_iter().map(|v| mean + v * scale).collect();
        let x = s.activation_of(&shape, values)?;
        let table = s.activation(&[table, 2, dim], 0.5)?;
        let w = s.linear(DType::Bf16, patch * patch * channels, dim, true)?;
        steps(move |b: &B| {
            let scale = Modulation { table: &table, row: 1 };
            Ok(vec![b.final_layer(&x, scale, 1e-6, &w, patch, size)?])
        })
    });
}
