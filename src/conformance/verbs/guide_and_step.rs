//! `guide_and_step`: guidance on and off, the cap above and below where it acts, the counter on the device.

use super::super::case::{Suite, steps};
use super::super::tolerance::STEP;
use crate::backend::Backend;

/// What a case is.
#[derive(Clone, Copy)]
struct Kind {
    batch: usize,
    size: [usize; 2],
    /// Whether there are negatives.
    guided: bool,
    /// The table of steps: (delta, g, c).
    rows: &'static [[f32; 3]],
    first: u32,
    /// How many steps are taken.
    steps: usize,
    /// Scale of the prediction.
    scale: f32,
}

const GUIDED: Kind =
    Kind { batch: 2, size: [6, 10], guided: true, rows: &[[-0.2, 4.0, 0.0]], first: 0, steps: 1, scale: 1.0 };
const TURBO: &[[f32; 3]] = &[[-0.1, 0.0, 0.0], [-0.3, 0.0, 0.0]];
const CAPPED: &[[f32; 3]] = &[[-0.2, 4.0, 1.0]];
const VARIED: &[[f32; 3]] = &[[-0.1, 3.0, 1.0], [-0.4, 0.5, 0.0], [-0.2, 2.0, 0.7]];

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    for (name, kind) in [
        ("turbo", Kind { batch: 1, size: [32, 32], guided: false, rows: TURBO, first: 1, ..GUIDED }),
        ("guided", Kind { size: [16, 24], ..GUIDED }),
        // Each item must be capped by its own length.
        ("capped", Kind { batch: 3, rows: CAPPED, ..GUIDED }),
        ("cap-not-reached", Kind { rows: &[[-0.2, 0.1, 3.0]], ..GUIDED }),
        ("no-negatives-no-cap", Kind { guided: false, rows: &[[-0.2, 4.0, 0.5]], ..GUIDED }),
        ("steps-in-a-row", Kind { batch: 1, size: [5, 7], rows: VARIED, steps: 3, ..GUIDED }),
        ("last-row", Kind { batch: 1, size: [1, 1], rows: &[[9.0; 3], [-0.5, 1.0, 0.9]], first: 1, ..GUIDED }),
        ("prediction-1e4", Kind { size: [16, 16], rows: CAPPED, scale: 1e4, ..GUIDED }),
        ("full", Kind { size: [128, 128], rows: CAPPED, ..GUIDED }),
    ] {
        if !suite.wants(name) {
            continue;
        }
        suite.add("guide_and_step", name, STEP, move |s| {
            let Kind { batch, size: [height, width], guided, rows, first, steps: count, scale } = kind;
            let latents = s.latents(&[batch, 16, height, width], 1.0)?;
            let items = if guided { 2 * batch } else { batch };
            let prediction = s.latents(&[items, 16, height, width], scale)?;
            let table = s.floats(&[rows.len(), 3], &rows.concat())?;
            let step = s.numbers(&[1], &[first])?;
            steps(move |b: &B| {
                let (mut latents, mut step) = (latents.clone(), step.clone());
                for _ in 0..count {
                    b.guide_and_step(&mut latents, &prediction, &table, &mut step)?;
                }
                Ok(vec![latents, step])
            })
        });
    }
}
