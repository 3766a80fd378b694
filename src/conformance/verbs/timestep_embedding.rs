//! `timestep_embedding` and `modulation`: every part of the way from a time to the modulation table.

use super::super::case::{Suite, steps};
use super::super::tolerance::{PRODUCT, TIMESTEP};
use crate::backend::Backend;
use crate::tensor::DType;

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    // Sinusoids, hidden, out; times, of which `step` is read; tolerance: the sinusoids' own where the angle is large.
    let turbo: &[f32] = &[0.0, 45.5, 100.0, 166.7, 250.0, 357.1, 500.0, 700.0];
    for (name, [width, hidden, out], dtype, items, times, step, tolerance) in [
        ("z-image", [256, 1024, 256], DType::F32, 1, turbo, 5, TIMESTEP),
        ("noise", [256, 1024, 256], DType::Bf16, 1, turbo, 0, PRODUCT),
        ("time-30", [256, 256, 64], DType::F32, 1, &[30.0], 0, PRODUCT),
        ("last-step", [256, 1024, 256], DType::Bf16, 1, turbo, 7, TIMESTEP),
        ("time-1000", [256, 512, 64], DType::F16, 1, &[1000.0], 0, TIMESTEP),
        ("time-for-each-item", [256, 64, 60], DType::F32, 3, &[1.0, 2.0, 3.0, 20.5, 333.3, 999.0], 1, TIMESTEP),
        ("odd-widths", [6, 13, 7], DType::F32, 1, &[0.5, 3.0], 1, PRODUCT),
    ] {
        suite.add("timestep_embedding", name, tolerance, move |s| {
            let (w1, w2) = (s.linear(dtype, hidden, width, true)?, s.linear(dtype, out, hidden, true)?);
            let table = s.floats(&[times.len() / items, items], times)?;
            let step = s.numbers(&[1], &[step])?;
            steps(move |b: &B| Ok(vec![b.timestep_embedding(&table, &step, &w1, &w2)?]))
        });
    }
    for (name, items, adaln, width, rows, dtype, silu, scale) in [
        ("three-blocks-of-3840", 1, 256, 3840, 3, DType::Bf16, false, 1.0),
        ("final-3840-silu", 1, 256, 3840, 1, DType::Bf16, true, 1.0),
        ("time-for-each-item", 3, 60, 60, 8, DType::F32, false, 1.0),
        ("silu-odd-widths", 2, 61, 7, 3, DType::F16, true, 4.0),
        ("silu-activations-1e4", 1, 64, 32, 4, DType::Bf16, true, 1e4),
        ("full", 1, 256, 3840, 128, DType::Bf16, false, 1.0),
    ] {
        if !suite.wants(name) {
            continue;
        }
        suite.add("modulation", name, PRODUCT, move |s| {
            let t = s.activation(&[items, adaln], scale)?;
            let w = s.linear(dtype, rows * width, adaln, true)?;
            steps(move |b: &B| Ok(vec![b.modulation(&t, &w, silu, width)?]))
        });
    }
}
