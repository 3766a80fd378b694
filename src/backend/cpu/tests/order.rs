//! What verbs refuse, and the memory of recordings.

use super::super::super::{Branch, Conv2d, Heads, Mask, Modulation, QkNormRope, RmsNorm, RopePairs};
use super::*;
use crate::error::Error;

fn f32s(shape: &[usize]) -> CpuTensor {
    Cpu::new().upload(&random(7, shape, 1.0)).unwrap()
}

fn u32s(values: &[u32]) -> CpuTensor {
    Cpu::new().upload(&HostTensor::from_u32(&[values.len()], values)).unwrap()
}

#[track_caller]
fn refused<T>(result: Result<T>, verb: &str, words: &str) {
    match result.map(|_| ()) {
        Err(Error::Shape { verb: named, problem }) if named == verb && problem.contains(words) => (),
        other => panic!("{verb} does not say {words:?}: {other:?}"),
    }
}

/// Runs the verb now, and in a recording that is replayed: both must refuse.
#[track_caller]
fn refused_whenever<T>(verb: impl Fn(&Cpu) -> Result<T>, name: &str, words: &str) {
    let b = Cpu::new();
    refused(verb(&b), name, words);
    let recording = b.record(|b| verb(b).map(|_| ())).unwrap();
    refused(b.replay(&recording), name, words);
}

#[test]
fn what_is_past_a_table_is_an_error() {
    let x = || f32s(&[2, 3, 4]);
    refused_whenever(
        |b| b.gather_rows(&f32s(&[5, 4]), &u32s(&[4, 5])),
        "gather_rows",
        "id 5 is past the table's 5 rows",
    );
    refused_whenever(|b| b.gather_rows(&f32s(&[5, 4]), &u32s(&[u32::MAX])), "gather_rows", "past");
    refused_whenever(|b| b.join_sequence(&x(), &x(), &u32s(&[1, 2])), "join_sequence", "caption 2 is past the 2");
    let layer = linear(&[random(1, &[4, 4], 1.0)], &[]);
    let times = |b: &Cpu| b.timestep_embedding(&f32s(&[3, 1]), &u32s(&[3]), &layer, &layer);
    refused_whenever(times, "timestep_embedding", "step 3 is past the table's 3 rows");

    // A step that is refused leaves the latents and the counter as they were.
    let b = Cpu::new();
    let (mut latents, mut step) = (f32s(&[1, 1, 2, 2]), u32s(&[2]));
    let before = block_on(b.download(&latents)).unwrap();
    let result = b.guide_and_step(&mut latents, &f32s(&[1, 1, 2, 2]), &f32s(&[2, 3]), &mut step);
    refused(result, "guide_and_step", "step 2 is past the table's 2 rows");
    assert_eq!(block_on(b.download(&latents)).unwrap().bytes(), before.bytes());
    assert_eq!(block_on(b.download(&step)).unwrap().to_u32().unwrap(), [2]);
}

#[test]
fn numbers_of_the_wrong_type_are_an_error() {
    let (b, three) = (Cpu::new(), f32s(&[3]));
    let heads = Heads { query: 1, key_value: 1, dim: 2 };
    let layer = linear(&[random(1, &[4, 4], 1.0)], &[]);
    let mut x = f32s(&[3, 2, 6]);
    let mut one = f32s(&[1]);
    refused(b.gather_rows(&x.reshaped(&[6, 6]).unwrap(), &three), "gather_rows", "must be U32, not F32");
    refused(b.attention(&x, heads, Mask { causal: false, lengths: Some(&three) }), "attention", "must be U32");
    refused(b.timestep_embedding(&f32s(&[2, 1]), &one, &layer, &layer), "timestep_embedding", "must be U32");
    refused(b.pad_rows(&mut x, &f32s(&[6]), &three), "pad_rows", "must be U32");
    refused(b.join_sequence(&x, &x, &three), "join_sequence", "must be U32");
    let mut latents = f32s(&[1, 1, 2, 2]);
    let prediction = latents.clone();
    refused(b.guide_and_step(&mut latents, &prediction, &f32s(&[2, 3]), &mut one), "guide_and_step", "must be U32");
    refused(b.normalize_rgb8(&prediction), "normalize_rgb8", "must be U8, not F32");
    // What is changed in place keeps its type, so it must have the one that the verb writes.
    let mut half = b.upload(&stored(&random(1, &[1, 2, 4], 1.0), DType::Bf16, false).0).unwrap();
    let branch = Branch { y: &f32s(&[1, 2, 4]), norm: None, gate: None, eps: 0.0 };
    refused(b.residual(&mut half, branch), "residual", "must be F32, not BF16");
}

#[test]
fn a_tensor_changed_in_place_cannot_be_read_by_the_same_verb() {
    // A lock taken for writing by the thread that reads it would hang here.
    let b = Cpu::new();
    let mut x = f32s(&[1, 2, 4]);
    let alias = x.clone();
    let flat = x.reshaped(&[1, 2, 4]).unwrap();
    let other = f32s(&[1, 2, 4]);
    let weight = f32s(&[4]);
    let branch = |y, gate| Branch { y, norm: None, gate, eps: 1e-5 };
    let norm = |scale| RmsNorm { weight: &weight, scale, eps: 1e-5 };
    let words = "in place is also read";
    refused(b.residual(&mut x, branch(&alias, None)), "residual", words);
    refused(b.residual(&mut x, branch(&other, Some(Modulation { table: &flat, row: 0 }))), "residual", words);
    refused(b.residual_norm(&mut x, branch(&alias, None), norm(None)), "residual_norm", words);
    let scale = Some(Modulation { table: &alias, row: 1 });
    refused(b.residual_norm(&mut x, branch(&other, None), norm(scale)), "residual_norm", words);

    let mut qkv = f32s(&[1, 1, 6]);
    let (weight, rotation) = (f32s(&[2]), f32s(&[1, 1, 1, 2]));
    let heads = Heads { query: 1, key_value: 1, dim: 2 };
    let how = QkNormRope { q_norm: &weight, k_norm: &weight, eps: 0.0, rotation: &rotation, pairs: RopePairs::Halves };
    b.qk_norm_rope(&mut qkv, heads, how).unwrap();

    let mut row = f32s(&[1, 1, 4]);
    let token = row.reshaped(&[4]).unwrap();
    refused(b.pad_rows(&mut row, &token, &u32s(&[0])), "pad_rows", words);

    let mut latents = f32s(&[1, 1, 1, 3]);
    let (alias, table) = (latents.clone(), latents.reshaped(&[1, 3]).unwrap());
    let prediction = f32s(&[1, 1, 1, 3]);
    let mut step = u32s(&[0]);
    refused(b.guide_and_step(&mut latents, &alias, &table, &mut step), "guide_and_step", words);
    refused(b.guide_and_step(&mut latents, &prediction, &table, &mut step), "guide_and_step", words);
    let mut latents = f32s(&[1, 1, 1, 1]);
    let counter = step.reshaped(&[1, 1, 1, 1]).unwrap();
    refused(b.guide_and_step(&mut latents, &counter, &f32s(&[1, 3]), &mut step), "guide_and_step", words);

    // Reading one tensor twice is fine.
    b.residual_norm(
        &mut x,
        branch(&other, Some(Modulation { table: &other, row: 0 })),
        RmsNorm { weight: &f32s(&[4]), scale: Some(Modulation { table: &other, row: 1 }), eps: 1e-5 },
    )
    .unwrap();
}

#[test]
fn nothing_is_computed_on_nothing() {
    let b = Cpu::new();
    let empty = f32s(&[0, 3, 4]);
    let (weight, layer) = (f32s(&[4]), linear(&[random(1, &[4, 4], 1.0)], &[]));
    let words = "nothing in it";
    refused(b.gather_rows(&f32s(&[5, 0]), &u32s(&[0])), "gather_rows", words);
    refused(b.gather_rows(&f32s(&[5, 4]), &u32s(&[])), "gather_rows", words);
    let matrix = |shape: &[usize]| random(1, shape, 1.0).into();
    refused(at_once(b.upload_linear(&[matrix(&[4, 0])], &[])), "upload_linear", words);
    refused(at_once(b.upload_swiglu(&matrix(&[0, 4]), &matrix(&[0, 4]))), "upload_swiglu", words);
    refused(b.upload_conv2d(&random(1, &[4, 0, 3, 3], 1.0), None), "upload_conv2d", words);
    refused(b.linear(&empty, &layer), "linear", words);
    refused(b.rms_norm(&empty, RmsNorm { weight: &weight, scale: None, eps: 0.0 }), "rms_norm", words);
    let heads = Heads { query: 2, key_value: 1, dim: 1 };
    refused(b.attention(&f32s(&[1, 0, 4]), heads, Mask { causal: true, lengths: None }), "attention", words);
    let no_heads = Heads { query: 0, key_value: 2, dim: 1 };
    refused(b.attention(&f32s(&[1, 1, 4]), no_heads, Mask { causal: true, lengths: None }), "attention", "0 query");
    refused(b.embed_patches(&f32s(&[0, 1, 2, 2]), 2, &layer, &weight, 1, 1), "embed_patches", words);
    refused(b.embed_patches(&f32s(&[1, 1, 2, 2]), 2, &layer, &weight, 1, 0), "embed_patches", "0 copies");
    let scale = Modulation { table: &f32s(&[1, 1, 4]), row: 0 };
    refused(b.final_layer(&f32s(&[1, 1, 4]), scale, 0.0, &layer, 2, [0, 2]), "final_layer", "0×2");
    refused(b.join_sequence(&empty, &empty, &u32s(&[0])), "join_sequence", words);
    refused(b.join_sequence(&f32s(&[1, 1, 4]), &f32s(&[1, 1, 4]), &u32s(&[])), "join_sequence", words);
    let kernel = b.upload_conv2d(&random(1, &[1, 1, 1, 1], 1.0), None).unwrap();
    let geometry = Conv2d { stride: 1, ..Conv2d::default() };
    refused(b.conv2d(&f32s(&[1, 0, 1, 1]), &kernel, geometry, None), "conv2d", words);
    refused(b.group_norm(&f32s(&[1, 0, 1, 4]), &weight, &weight, 2, 0.0, true), "group_norm", words);
    refused(b.scale_latents(&f32s(&[1, 1, 1, 4]), 0, 1.0, 0.0), "scale_latents", "0 channels");
    refused(b.to_rgb8(&empty), "to_rgb8", words);
}

#[test]
fn recordings_refuse_what_they_cannot_keep() {
    let b = Cpu::new();
    let x = f32s(&[1, 1, 4]);
    let earlier = b.record(|_| Ok(())).unwrap();
    b.record(|b| {
        refused(b.record(|_| Ok(())), "record", "while a recording is made");
        refused(b.replay(&earlier), "replay", "while a recording is made");
        refused(block_on(b.download(&x)), "download", "while a recording is made");
        Ok(())
    })
    .unwrap();
    // A recording that failed is over.
    refused(b.record(|b| b.rms_norm(&x, RmsNorm { weight: &x, scale: None, eps: 0.0 }).map(|_| ())), "rms_norm", "");
    block_on(b.download(&x)).unwrap();
}

#[test]
fn a_recording_reuses_memory_that_nobody_can_read_again() {
    let b = Cpu::new();
    let x = f32s(&[1, 3, 4]);
    let weight = f32s(&[4]);
    let normed = |b: &Cpu, x: &CpuTensor| b.rms_norm(x, RmsNorm { weight: &weight, scale: None, eps: 1e-5 });
    let mut kept = None;
    b.record(|b| {
        let first = normed(b, &x)?;
        let view = first.reshaped(&[3, 1, 4])?;
        let again = first.clone();
        drop(first);
        let second = normed(b, &again)?;
        assert!(!second.shares(&view), "memory was reused that a clone and a view still read");
        drop(again);
        let third = normed(b, &second)?;
        assert!(!third.shares(&view), "memory was reused that a view still reads");
        let witness = view.memory();
        drop(view);
        // Of another size: not the memory that is free now.
        let wide = b.rms_norm(&f32s(&[1, 5, 4]), RmsNorm { weight: &weight, scale: None, eps: 1e-5 })?;
        assert!(!std::ptr::eq(&*wide.memory().read(), &*witness.read()));
        let last = normed(b, &third)?;
        assert!(std::ptr::eq(&*last.memory().read(), &*witness.read()), "free memory was not used");
        kept = Some(last);
        Ok(())
    })
    .unwrap();
    // What outlives its recording belongs to nobody else.
    let kept = kept.unwrap();
    b.record(|b| {
        assert!(!normed(b, &x)?.shares(&kept));
        Ok(())
    })
    .unwrap();
}
