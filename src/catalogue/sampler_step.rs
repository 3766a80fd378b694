//! `sampler_step`: guidance on and off, the cap active and inactive, the device-side counter, an
//! unwritten history, noise.

use super::{
    Backend, Call, Entry, Feature, Inputs, Op, OpCase, Rejection, Result, STEP, Tolerance, Zeros, changes, named,
    rejections,
};
use crate::backend::{SamplerRow, SamplerState};

/// Steps of latents `[batch, channels, height, width]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SamplerStepCase {
    pub batch: usize,
    pub channels: usize,
    /// Height and width of the latents.
    pub size: [usize; 2],
    /// The prediction has negatives.
    pub guided: bool,
    /// Rows of the table of steps.
    pub rows: &'static [SamplerRow],
    /// History coefficients of each row, one per slot. Rows that are not listed have zeros.
    pub past: &'static [[f32; 2]],
    /// The step adds noise.
    pub noise: bool,
    /// Number of repetitions of `rows` in the table.
    pub repeats: usize,
    /// The first step.
    pub first: u32,
    /// Steps per call.
    pub steps: usize,
    /// The scale of the prediction.
    pub scale: f32,
}

impl SamplerStepCase {
    /// One guided step of two pictures.
    pub(crate) const GUIDED: Self = Self {
        batch: 2,
        channels: 16,
        size: [6, 10],
        guided: true,
        rows: &[SamplerRow::euler(-0.2, 4.0, 0.0)],
        past: &[],
        noise: false,
        repeats: 1,
        first: 0,
        steps: 1,
        scale: 1.0,
    };
}

impl OpCase for SamplerStepCase {
    const OP: &'static str = "sampler_step";
    const TOLERANCE: Tolerance = STEP;

    fn sizes(&self) -> String {
        let Self { batch, channels, size: [height, width], guided, .. } = *self;
        format!("{:?}{}", [batch, channels, height, width], if guided { ", guided" } else { "" })
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { batch, channels, size: [height, width], guided, rows, past, noise, repeats, first, steps, scale } =
            *self;
        let shape = [batch, channels, height, width];
        let latents = inputs.latents_in_place(&shape, 1.0)?;
        let items = if guided { 2 * batch } else { batch };
        let prediction = inputs.latents(&[items, channels, height, width], scale)?;
        let count = repeats * rows.len();
        let with_past = |(i, row): (usize, &SamplerRow)| {
            let zeros = [0.0; 2];
            let past = if past.is_empty() { &[][..] } else { past.get(i).unwrap_or(&zeros) };
            [&row.values()[..], past].concat()
        };
        let values: Vec<f32> = rows.iter().enumerate().flat_map(with_past).collect();
        let table = inputs.step_table(&[count, values.len() / rows.len()], &values.repeat(repeats))?;
        let history = match past.is_empty() {
            true => None,
            // No step has written the history.
            false => {
                let slots = [&[2], &shape[..]].concat();
                Some(inputs.floats(&slots, &vec![f32::NAN; slots.iter().product()])?)
            }
        };
        let noise = if noise { Some(inputs.latents(&[&[count], &shape[..]].concat(), 1.0)?) } else { None };
        let step = inputs.integers(&[1], &[first])?;
        changes(move |b: &B| {
            let mut latents = latents.clone();
            let mut history = history.clone();
            let mut step = step.clone();
            for _ in 0..steps {
                let sampler = SamplerState { table: &table, history: history.as_mut(), noise: noise.as_ref() };
                b.sampler_step(&mut latents, &prediction, sampler, &mut step)?;
            }
            Ok([latents, step])
        })
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    const GUIDED: SamplerStepCase = SamplerStepCase::GUIDED;
    const fn euler(delta: f32, guidance: f32, cap: f32) -> SamplerRow {
        SamplerRow::euler(delta, guidance, cap)
    }
    const TURBO: &[SamplerRow] = &[euler(-0.1, 0.0, 0.0), euler(-0.3, 0.0, 0.0)];
    const CAPPED: &[SamplerRow] = &[euler(-0.2, 4.0, 1.0)];
    const VARIED: &[SamplerRow] = &[euler(-0.1, 3.0, 1.0), euler(-0.4, 0.5, 0.0), euler(-0.2, 2.0, 0.7)];
    const LAST: &[SamplerRow] = &[euler(9.0, 9.0, 9.0), euler(-0.5, 1.0, 0.9)];
    // As DPM++ 2M, which stores predictions of the clean latents.
    const MULTISTEP: SamplerRow =
        SamplerRow { latents: 0.8, stored_latents: 1.0, stored_prediction: -0.6, ..euler(-0.3, 2.0, 0.8) };
    const FIVE: &[SamplerRow] = &[MULTISTEP; 5];
    const PAST: &[[f32; 2]] = &[[0.0, 0.0], [-0.7, 0.0], [0.4, -0.3], [0.0, 0.6], [0.9, 0.2]];
    const ANCESTRAL: &[SamplerRow] = &[SamplerRow { noise: 0.5, ..euler(-0.3, 2.0, 0.0) }, euler(-0.2, 2.0, 0.0)];
    const BOTH: &[SamplerRow] = &[SamplerRow { noise: -0.4, ..MULTISTEP }; 3];
    let cases = named([
        ("turbo", SamplerStepCase { batch: 1, size: [32, 32], guided: false, rows: TURBO, first: 1, ..GUIDED }),
        ("guided", SamplerStepCase { size: [16, 24], ..GUIDED }),
        // The norm of each item caps that item.
        ("capped", SamplerStepCase { batch: 3, rows: CAPPED, ..GUIDED }),
        ("cap-not-reached", SamplerStepCase { rows: const { &[euler(-0.2, 0.1, 3.0)] }, ..GUIDED }),
        ("no-negatives-no-cap", SamplerStepCase { guided: false, rows: const { &[euler(-0.2, 4.0, 0.5)] }, ..GUIDED }),
        ("steps-in-a-row", SamplerStepCase { batch: 1, size: [5, 7], rows: VARIED, steps: 3, ..GUIDED }),
        ("last-row", SamplerStepCase { batch: 1, size: [1, 1], rows: LAST, first: 1, ..GUIDED }),
        ("prediction-1e4", SamplerStepCase { size: [16, 16], rows: CAPPED, scale: 1e4, ..GUIDED }),
        ("multistep", SamplerStepCase { size: [5, 7], rows: FIVE, past: PAST, steps: 5, ..GUIDED }),
        ("multistep-plain", SamplerStepCase { guided: false, rows: FIVE, past: PAST, steps: 4, ..GUIDED }),
        ("ancestral", SamplerStepCase { rows: ANCESTRAL, noise: true, steps: 2, ..GUIDED }),
        ("multistep-noise", SamplerStepCase { batch: 3, rows: BOTH, past: PAST, noise: true, steps: 3, ..GUIDED }),
        ("full", SamplerStepCase { size: [128, 128], rows: CAPPED, ..GUIDED }),
    ]);
    let op = Op { name: SamplerStepCase::OP, features: &[Feature::Accumulates, Feature::F32Result] };
    Entry { op, cases, rejections: step_rejections() }
}

fn step_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const LATENTS: Zeros = Zeros::F32(&[1, 1, 1, 3]);
    const TABLE: Zeros = Zeros::F32(&[1, 8]);
    const RING: Zeros = Zeros::F32(&[1, 1, 1, 1, 3]);
    const NOISE: Zeros = Zeros::F32(&[1, 1, 1, 1, 3]);
    const STEP: Zeros = Zeros::U32(&[1]);
    let call = |b: &B, [mut latents, prediction, table, mut history, noise, mut step]: [B::Tensor; 6]| {
        let sampler = SamplerState { table: &table, history: Some(&mut history), noise: Some(&noise) };
        b.sampler_step(&mut latents, &prediction, sampler, &mut step)
    };
    rejections(
        SamplerStepCase::OP,
        call,
        [
            ("rank-of-latents", [Zeros::F32(&[1, 1, 3]), LATENTS, TABLE, RING, NOISE, STEP]),
            ("type-of-latents", [Zeros::U32(&[1, 1, 1, 3]), LATENTS, TABLE, RING, NOISE, STEP]),
            ("rank-of-prediction", [LATENTS, Zeros::F32(&[1, 1, 3]), TABLE, RING, NOISE, STEP]),
            ("items-of-prediction", [LATENTS, Zeros::F32(&[3, 1, 1, 3]), TABLE, RING, NOISE, STEP]),
            ("size-of-prediction", [LATENTS, Zeros::F32(&[1, 1, 3, 1]), TABLE, RING, NOISE, STEP]),
            ("type-of-prediction", [LATENTS, Zeros::U32(&[1, 1, 1, 3]), TABLE, RING, NOISE, STEP]),
            ("columns-of-table", [LATENTS, LATENTS, Zeros::F32(&[1, 7]), RING, NOISE, STEP]),
            ("type-of-table", [LATENTS, LATENTS, Zeros::U32(&[1, 8]), RING, NOISE, STEP]),
            ("size-of-history", [LATENTS, LATENTS, TABLE, Zeros::F32(&[1, 1, 1, 3, 1]), NOISE, STEP]),
            ("type-of-history", [LATENTS, LATENTS, TABLE, Zeros::U32(&[1, 1, 1, 1, 3]), NOISE, STEP]),
            ("steps-of-noise", [LATENTS, LATENTS, TABLE, RING, Zeros::F32(&[2, 1, 1, 1, 3]), STEP]),
            ("type-of-noise", [LATENTS, LATENTS, TABLE, RING, Zeros::U32(&[1, 1, 1, 1, 3]), STEP]),
            ("size-of-step", [LATENTS, LATENTS, TABLE, RING, NOISE, Zeros::U32(&[2])]),
            ("type-of-step", [LATENTS, LATENTS, TABLE, RING, NOISE, Zeros::F32(&[1])]),
            ("prediction-in-place", [LATENTS, Zeros::Alias(&[1, 1, 1, 3]), TABLE, RING, NOISE, STEP]),
            ("history-in-place", [LATENTS, LATENTS, TABLE, Zeros::Alias(&[1, 1, 1, 1, 3]), NOISE, STEP]),
            ("noise-in-place", [LATENTS, LATENTS, TABLE, RING, Zeros::Alias(&[1, 1, 1, 1, 3]), STEP]),
        ],
    )
}
