//! `unscale_latents`, `scale_latents`, `normalize_rgb8`, `to_rgb8`: the two ends of the autoencoder.

use super::super::case::{Suite, steps};
use super::super::tolerance::{LEVELS, POINTWISE};
use crate::backend::{Backend, DeviceTensor};

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    for (name, [b, c, h, w], scale) in [
        ("z-image", [1, 16, 32, 24], 3.0),
        ("batch-odd-size", [3, 5, 7, 9], 1.0),
        ("one-pixel", [1, 16, 1, 1], 1.0),
        ("latents-1e5", [1, 16, 9, 8], 1e5),
        ("full", [1, 16, 128, 128], 3.0),
    ] {
        if !suite.wants(name) {
            continue;
        }
        suite.add("unscale_latents", name, POINTWISE, move |s| {
            let x = s.latents(&[b, c, h, w], scale)?;
            steps(move |b: &B| Ok(vec![b.unscale_latents(&x, 0..x.shape()[0], 0.3611, 0.1159)?]))
        });
        // The encoder also returns the deviations, which are not read.
        suite.add("scale_latents", name, POINTWISE, move |s| {
            let x = s.activation(&[b, h, w, 2 * c], scale)?;
            steps(move |b: &B| Ok(vec![b.scale_latents(&x, c, 0.3611, 0.1159)?]))
        });
    }
    for (name, shape) in [
        ("picture", [1, 48, 64, 3]),
        ("batch-odd-size", [2, 7, 5, 3]),
        ("one-pixel", [1, 1, 1, 3]),
        ("full", [1, 1024, 1024, 3]),
    ] {
        if !suite.wants(name) {
            continue;
        }
        suite.add("normalize_rgb8", name, POINTWISE, move |s| {
            let pixels = s.pixels(&shape)?;
            steps(move |b: &B| Ok(vec![b.normalize_rgb8(&pixels)?]))
        });
        // A quarter of the values is past either end.
        suite.add("to_rgb8", name, LEVELS, move |s| {
            let values = s.draw(shape.iter().product()).into_iter().map(|v| 1.3 * v).collect();
            let x = s.picture_of(&shape, values)?;
            steps(move |b: &B| Ok(vec![b.to_rgb8(&x)?]))
        });
    }
    suite.add("to_rgb8", "values-1e9", LEVELS, |s| {
        let values = s.draw(9 * 7 * 3).into_iter().map(|v| 1e9 * v).collect();
        let x = s.picture_of(&[1, 9, 7, 3], values)?;
        steps(move |b: &B| Ok(vec![b.to_rgb8(&x)?]))
    });
    // 0 is 127.5 exactly, whose even neighbour is 128; the ends are levels themselves.
    suite.add("to_rgb8", "halves-to-even", LEVELS, |s| {
        let x = s.picture_of(&[1, 1, 2, 3], vec![0.0, -1.0, 1.0, -0.0, 2.0, -2.0])?;
        steps(move |b: &B| Ok(vec![b.to_rgb8(&x)?]))
    });
}
