//! `pad_rows` and `join_sequence`: ragged captions, shared pictures, guidance.

use super::super::case::{Suite, steps};
use super::super::tolerance::COPY;
use crate::backend::Backend;
use crate::tensor::DType;

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    let lengths: [(_, usize, usize, DType, &[u32]); 5] = [
        ("width-3840", 32, 3840, DType::Bf16, &[21, 32, 1]),
        ("one-token", 1, 64, DType::F32, &[1]),
        ("nothing-to-pad", 33, 60, DType::F16, &[33]),
        ("all-is-padding", 32, 61, DType::F32, &[0, 5]),
        ("257-tokens", 257, 48, DType::Bf16, &[256, 1, 33]),
    ];
    for (name, tokens, width, dtype, lengths) in lengths {
        suite.add("pad_rows", name, COPY, move |s| {
            let x = s.activation(&[lengths.len(), tokens, width], 1e5)?;
            let token = s.weights(dtype, &[width], 0.0, 1.0);
            let token = s.b.upload(&token)?;
            let lengths = s.numbers(&[lengths.len()], lengths)?;
            steps(move |b: &B| {
                let mut x = x.clone();
                b.pad_rows(&mut x, &token, &lengths)?;
                Ok(vec![x])
            })
        });
    }
    // Pictures, their tokens, captions, their tokens, width, and the caption of each sequence.
    for (name, [pictures, image], [prompts, caption], width, captions) in [
        ("width-3840", [1, 64], [1, 32], 3840, &[0][..]),
        ("guidance", [2, 33], [3, 32], 60, &[0, 1, 2, 2][..]),
        ("one-picture-many-captions", [1, 5], [3, 7], 61, &[2, 0, 1][..]),
        ("one-caption", [3, 1], [1, 1], 33, &[0, 0, 0][..]),
        ("captions-out-of-order", [2, 32], [4, 32], 64, &[3, 1, 0, 2, 2, 0][..]),
        ("full", [2, 4096], [2, 128], 3840, &[0, 0, 1, 1][..]),
    ] {
        if !suite.wants(name) {
            continue;
        }
        suite.add("join_sequence", name, COPY, move |s| {
            let image = s.activation(&[pictures, image, width], 1e5)?;
            let caption = s.activation(&[prompts, caption, width], 1.0)?;
            let captions = s.numbers(&[captions.len()], captions)?;
            steps(move |b: &B| Ok(vec![b.join_sequence(&image, &caption, &captions)?]))
        });
    }
}
