//! `guide_and_step`: guidance on and off, the cap above and below where it acts, the counter on the
//! device.

use super::{
    Backend, Call, Entry, Feature, Inputs, Op, OpCase, Rejection, Result, STEP, Tolerance, Zeros, changes, named,
    rejections,
};

/// Steps of latents `[batch, channels, height, width]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuideAndStepCase {
    pub batch: usize,
    pub channels: usize,
    /// Height and width of the latents.
    pub size: [usize; 2],
    /// The prediction has negatives.
    pub guided: bool,
    /// Rows of the table of steps: (delta, g, c).
    pub rows: &'static [[f32; 3]],
    /// How often the table repeats `rows`.
    pub repeats: usize,
    /// The first step.
    pub first: u32,
    /// The steps of one call.
    pub steps: usize,
    /// The scale of the prediction.
    pub scale: f32,
}

impl GuideAndStepCase {
    /// One guided step of two pictures.
    pub(crate) const GUIDED: Self = Self {
        batch: 2,
        channels: 16,
        size: [6, 10],
        guided: true,
        rows: &[[-0.2, 4.0, 0.0]],
        repeats: 1,
        first: 0,
        steps: 1,
        scale: 1.0,
    };
}

impl OpCase for GuideAndStepCase {
    const OP: &'static str = "guide_and_step";
    const TOLERANCE: Tolerance = STEP;

    fn sizes(&self) -> String {
        let Self { batch, channels, size: [height, width], guided, .. } = *self;
        format!("{:?}{}", [batch, channels, height, width], if guided { ", guided" } else { "" })
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { batch, channels, size: [height, width], guided, rows, repeats, first, steps, scale } = *self;
        let latents = inputs.latents_in_place(&[batch, channels, height, width], 1.0)?;
        let items = if guided { 2 * batch } else { batch };
        let prediction = inputs.latents(&[items, channels, height, width], scale)?;
        let table = inputs.step_table(&[repeats * rows.len(), 3], &rows.concat().repeat(repeats))?;
        let step = inputs.integers(&[1], &[first])?;
        changes(move |b: &B| {
            let mut latents = latents.clone();
            let mut step = step.clone();
            for _ in 0..steps {
                b.guide_and_step(&mut latents, &prediction, &table, &mut step)?;
            }
            Ok([latents, step])
        })
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    const GUIDED: GuideAndStepCase = GuideAndStepCase::GUIDED;
    const TURBO: &[[f32; 3]] = &[[-0.1, 0.0, 0.0], [-0.3, 0.0, 0.0]];
    const CAPPED: &[[f32; 3]] = &[[-0.2, 4.0, 1.0]];
    const VARIED: &[[f32; 3]] = &[[-0.1, 3.0, 1.0], [-0.4, 0.5, 0.0], [-0.2, 2.0, 0.7]];
    const LAST: &[[f32; 3]] = &[[9.0; 3], [-0.5, 1.0, 0.9]];
    let cases = named([
        ("turbo", GuideAndStepCase { batch: 1, size: [32, 32], guided: false, rows: TURBO, first: 1, ..GUIDED }),
        ("guided", GuideAndStepCase { size: [16, 24], ..GUIDED }),
        // The length of each item caps that item.
        ("capped", GuideAndStepCase { batch: 3, rows: CAPPED, ..GUIDED }),
        ("cap-not-reached", GuideAndStepCase { rows: &[[-0.2, 0.1, 3.0]], ..GUIDED }),
        ("no-negatives-no-cap", GuideAndStepCase { guided: false, rows: &[[-0.2, 4.0, 0.5]], ..GUIDED }),
        ("steps-in-a-row", GuideAndStepCase { batch: 1, size: [5, 7], rows: VARIED, steps: 3, ..GUIDED }),
        ("last-row", GuideAndStepCase { batch: 1, size: [1, 1], rows: LAST, first: 1, ..GUIDED }),
        ("prediction-1e4", GuideAndStepCase { size: [16, 16], rows: CAPPED, scale: 1e4, ..GUIDED }),
        ("full", GuideAndStepCase { size: [128, 128], rows: CAPPED, ..GUIDED }),
    ]);
    let op = Op { name: GuideAndStepCase::OP, features: &[Feature::Accumulates, Feature::F32Result] };
    Entry { op, cases, rejections: step_rejections() }
}

fn step_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const LATENTS: Zeros = Zeros::F32(&[1, 1, 1, 3]);
    const TABLE: Zeros = Zeros::F32(&[1, 3]);
    const STEP: Zeros = Zeros::U32(&[1]);
    let call = |b: &B, [mut latents, prediction, table, mut step]: [B::Tensor; 4]| {
        b.guide_and_step(&mut latents, &prediction, &table, &mut step)
    };
    rejections(
        GuideAndStepCase::OP,
        call,
        [
            ("rank-of-latents", [Zeros::F32(&[1, 1, 3]), LATENTS, TABLE, STEP]),
            ("type-of-latents", [Zeros::U32(&[1, 1, 1, 3]), LATENTS, TABLE, STEP]),
            ("rank-of-prediction", [LATENTS, Zeros::F32(&[1, 1, 3]), TABLE, STEP]),
            ("items-of-prediction", [LATENTS, Zeros::F32(&[3, 1, 1, 3]), TABLE, STEP]),
            ("size-of-prediction", [LATENTS, Zeros::F32(&[1, 1, 3, 1]), TABLE, STEP]),
            ("type-of-prediction", [LATENTS, Zeros::U32(&[1, 1, 1, 3]), TABLE, STEP]),
            ("columns-of-table", [LATENTS, LATENTS, Zeros::F32(&[1, 2]), STEP]),
            ("type-of-table", [LATENTS, LATENTS, Zeros::U32(&[1, 3]), STEP]),
            ("size-of-step", [LATENTS, LATENTS, TABLE, Zeros::U32(&[2])]),
            ("type-of-step", [LATENTS, LATENTS, TABLE, Zeros::F32(&[1])]),
            ("prediction-in-place", [LATENTS, Zeros::Alias(&[1, 1, 1, 3]), TABLE, STEP]),
            ("table-in-place", [LATENTS, LATENTS, Zeros::Alias(&[1, 3]), STEP]),
        ],
    )
}
