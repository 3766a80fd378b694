//! `rms_norm`: with and without a scale, and values from where eps decides to where squares are large.

use super::super::case::{Suite, steps};
use super::super::tolerance::NORM;
use crate::backend::{Backend, Modulation, RmsNorm};
use crate::tensor::DType;

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    // Batch, tokens, width, rows of the modulation table (0: no scale), stored type, eps, scale of x.
    for (name, batch, tokens, width, table, dtype, eps, scale) in [
        ("one-token", 1, 1, 256, 0, DType::Bf16, 1e-6, 1.0),
        ("width-3840-modulated", 2, 33, 3840, 1, DType::Bf16, 1e-5, 1.0),
        ("caption-2560", 1, 32, 2560, 0, DType::Bf16, 1e-5, 1.0),
        ("modulated-by-item", 3, 5, 128, 3, DType::F16, 1e-5, 1.0),
        ("257-tokens-odd-width", 1, 257, 61, 1, DType::F32, 1e-5, 1.0),
        ("width-1", 1, 3, 1, 0, DType::F32, 1e-5, 1.0),
        ("activations-1e4", 1, 17, 3840, 0, DType::Bf16, 1e-5, 1e4),
        ("activations-1e9", 1, 17, 384, 1, DType::F32, 1e-5, 1e9),
        // The mean square is that of eps.
        ("eps-decides", 1, 17, 256, 0, DType::F32, 1e-5, 5e-3),
        ("zeros", 1, 4, 64, 0, DType::F32, 1e-6, 0.0),
        ("full", 2, 4224, 3840, 1, DType::Bf16, 1e-5, 1.0),
    ] {
        if !suite.wants(name) {
            continue;
        }
        suite.add("rms_norm", name, NORM, move |s| {
            let x = s.activation(&[batch, tokens, width], scale)?;
            let weight = s.norm_weight(dtype, width)?;
            // The row in the middle of three: neither its neighbours nor the first will do.
            let table = (table > 0).then(|| s.activation(&[table, 3, width], 0.5)).transpose()?;
            steps(move |b: &B| {
                let scale = table.as_ref().map(|table| Modulation { table, row: 1 });
                Ok(vec![b.rms_norm(&x, RmsNorm { weight: &weight, scale, eps })?])
            })
        });
    }
}
