//! `gather_rows`: embeddings in every storage type, repeated ids, the first and the last row.

use super::super::case::{Suite, steps};
use super::super::tolerance::COPY;
use crate::backend::{Backend, DType};

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    for (name, dtype, scale, rows, width, prompts, tokens) in [
        ("bf16-qwen-width", DType::Bf16, 1.0, 301, 2560, 2, 32),
        ("f16", DType::F16, 1.0, 37, 256, 1, 33),
        ("f32", DType::F32, 1.0, 37, 48, 3, 5),
        ("one-token", DType::Bf16, 1.0, 2, 128, 1, 1),
        ("bf16-odd-width", DType::Bf16, 1.0, 11, 33, 1, 257),
        ("values-1e6", DType::Bf16, 1e6, 11, 64, 2, 7),
        ("full-vocabulary", DType::Bf16, 1.0, 151_936, 2560, 2, 512),
    ] {
        if !suite.wants(name) {
            continue;
        }
        suite.add("gather_rows", name, COPY, move |s| {
            let table = s.weights(dtype, &[rows, width], 0.0, scale);
            let table = s.b.upload(&table)?;
            let picked = |v: f32| ((v + 1.0) / 2.0 * rows as f32) as u32 % rows as u32;
            let mut ids: Vec<u32> = s.draw(prompts * tokens).into_iter().map(picked).collect();
            ids[0] = rows as u32 - 1;
            let ids = s.numbers(&[prompts, tokens], &ids)?;
            steps(move |b: &B| Ok(vec![b.gather_rows(&table, &ids)?]))
        });
    }
}
