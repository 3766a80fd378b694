//! `gather_rows`: embeddings in every storage type, repeated ids, the first and the last row.

use super::{
    Backend, COPY, Call, DType, Entry, Feature, Inputs, Op, OpCase, Rejection, Result, Stored, Tolerance, Zeros,
    expect_ready, in_pieces, named, quantized_cases, rejections_with, returns, upload_rejection, zeros,
};
use crate::tensor::{Format, StreamSource};

/// A table `[rows, width]` and ids `[prompts, tokens]`.
#[derive(Debug, Clone, Copy)]
struct GatherRowsCase {
    stored: Stored,
    scale: f32,
    rows: usize,
    width: usize,
    prompts: usize,
    tokens: usize,
    /// The bytes per piece of the table.
    pieces: Option<u64>,
    streamed: Option<StreamSource>,
}

impl OpCase for GatherRowsCase {
    const OP: &'static str = "gather_rows";
    const TOLERANCE: Tolerance = COPY;

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { stored, scale, rows, width, prompts, tokens, pieces, streamed } = *self;
        let table = inputs.stored_within(stored, rows, width, scale).streamed(streamed);
        let table = expect_ready(inputs.b.upload_table(&in_pieces(table, pieces)))?;
        let picked = |v: f32| ((v + 1.0) / 2.0 * rows as f32) as u32 % rows as u32;
        let mut ids: Vec<u32> = inputs.draw(prompts * tokens).into_iter().map(picked).collect();
        ids[0] = rows as u32 - 1;
        let ids = inputs.integers(&[prompts, tokens], &ids)?;
        returns(move |b: &B| Ok([b.gather_rows(&table, &ids)?]))
    }
}

const QWEN: GatherRowsCase = GatherRowsCase {
    stored: Stored::Plain(DType::Bf16),
    scale: 1.0,
    rows: 301,
    width: 2560,
    prompts: 2,
    tokens: 32,
    pieces: None,
    streamed: None,
};
const F16: GatherRowsCase =
    GatherRowsCase { stored: Stored::Plain(DType::F16), rows: 37, width: 256, prompts: 1, tokens: 33, ..QWEN };
const F32: GatherRowsCase =
    GatherRowsCase { stored: Stored::Plain(DType::F32), width: 48, prompts: 3, tokens: 5, ..F16 };
const ODD: GatherRowsCase = GatherRowsCase { rows: 11, width: 33, prompts: 1, tokens: 257, ..QWEN };

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    let mut cases = named([
        ("bf16-qwen-width", QWEN),
        ("bf16-streamed", GatherRowsCase { streamed: Some(StreamSource::Memory), ..QWEN }),
        ("bf16-streamed-from-files", GatherRowsCase { streamed: Some(StreamSource::Files), ..QWEN }),
        ("f16", F16),
        ("f32", F32),
        ("one-token", GatherRowsCase { rows: 2, width: 128, prompts: 1, tokens: 1, ..QWEN }),
        ("bf16-odd-width", ODD),
        ("bf16-odd-width-in-pieces", GatherRowsCase { pieces: Some(1), ..ODD }),
        ("f16-in-pieces", GatherRowsCase { pieces: Some(10_000), ..F16 }),
        ("f32-odd-width-in-pieces", GatherRowsCase { width: 47, pieces: Some(1000), ..F32 }),
        ("values-1e6", GatherRowsCase { scale: 1e6, rows: 11, width: 64, tokens: 7, ..QWEN }),
        ("full-vocabulary", GatherRowsCase { rows: 151_936, tokens: 512, pieces: Some(8 << 20), ..QWEN }),
    ]);
    let q4_k = Stored::Blocks(Format::Q4K);
    cases.extend(named([
        ("q4_k-in-pieces", GatherRowsCase { stored: q4_k, width: 512, pieces: Some(1000), ..F16 }),
        ("q4_k-streamed-from-files", GatherRowsCase { stored: q4_k, streamed: Some(StreamSource::Files), ..F16 }),
        ("full-vocabulary-q4_k", GatherRowsCase { stored: q4_k, rows: 151_936, tokens: 512, ..QWEN }),
    ]));
    cases.extend(quantized_cases(|stored, width| GatherRowsCase { stored, width, ..F16 }));
    let op = Op { name: GatherRowsCase::OP, features: &[Feature::Pieces, Feature::BeyondF16] };
    Entry { op, cases, rejections: gather_rejections().into_iter().chain(upload_rejections()).collect() }
}

fn gather_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    rejections_with(
        GatherRowsCase::OP,
        |b: &B| expect_ready(b.upload_table(&zeros(DType::F32, &[9, 4]).into())),
        |b: &B, table, [ids]: [B::Tensor; 1]| b.gather_rows(table, &ids).map(drop),
        [("type-of-ids", [Zeros::F32(&[2])])],
    )
}

fn upload_rejections<B: Backend + 'static>() -> [Rejection<B>; 3] {
    let table = |dtype, shape: &'static [usize]| {
        move |b: &B| expect_ready(b.upload_table(&zeros(dtype, shape).into())).map(drop)
    };
    [
        upload_rejection("upload_table", "empty", table(DType::Bf16, &[0, 4])),
        upload_rejection("upload_table", "rank", table(DType::Bf16, &[9])),
        upload_rejection("upload_table", "type", table(DType::U32, &[9, 4])),
    ]
}
