//! `gather_rows`: embeddings in every storage type, repeated ids, the first and the last row.

use super::super::case::{Suite, in_pieces, steps};
use super::super::tolerance::COPY;
use crate::backend::Backend;
use crate::future::expect_ready;
use crate::tensor::DType;

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    // Where the table comes in pieces, their bytes.
    for (name, dtype, scale, rows, width, prompts, tokens, pieces) in [
        ("bf16-qwen-width", DType::Bf16, 1.0, 301, 2560, 2, 32, None),
        ("f16", DType::F16, 1.0, 37, 256, 1, 33, None),
        ("f32", DType::F32, 1.0, 37, 48, 3, 5, None),
        ("one-token", DType::Bf16, 1.0, 2, 128, 1, 1, None),
        ("bf16-odd-width", DType::Bf16, 1.0, 11, 33, 1, 257, None),
        ("bf16-odd-width-in-pieces", DType::Bf16, 1.0, 11, 33, 1, 257, Some(1)),
        ("f16-in-pieces", DType::F16, 1.0, 37, 256, 1, 33, Some(10_000)),
        ("f32-odd-width-in-pieces", DType::F32, 1.0, 37, 47, 3, 5, Some(1000)),
        ("values-1e6", DType::Bf16, 1e6, 11, 64, 2, 7, None),
        ("full-vocabulary", DType::Bf16, 1.0, 151_936, 2560, 2, 512, Some(8 << 20)),
    ] {
        if !suite.wants(name) {
            continue;
        }
        suite.add("gather_rows", name, COPY, move |s| {
            let table = s.weights(dtype, &[rows, width], 0.0, scale);
            let table = expect_ready(s.b.upload_table(&in_pieces(table, pieces)))?;
            let picked = |v: f32| ((v + 1.0) / 2.0 * rows as f32) as u32 % rows as u32;
            let mut ids: Vec<u32> = s.draw(prompts * tokens).into_iter().map(picked).collect();
            ids[0] = rows as u32 - 1;
            let ids = s.numbers(&[prompts, tokens], &ids)?;
            steps(move |b: &B| Ok(vec![b.gather_rows(&table, &ids)?]))
        });
    }
}
