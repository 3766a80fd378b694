//! Reads past a table, and the memory of recordings.

use super::super::super::{Branch, Modulation, RmsNorm, SamplerState};
use super::*;
use crate::error::Error;

fn f32s(shape: &[usize]) -> CpuTensor {
    Cpu::new().upload(&random(7, shape, 1.0)).unwrap()
}

fn u32s(values: &[u32]) -> CpuTensor {
    Cpu::new().upload(&HostTensor::from_u32(&[values.len()], values)).unwrap()
}

#[track_caller]
fn refused<T>(result: Result<T>, op: &str, words: &str) {
    match result.map(|_| ()) {
        Err(Error::Shape { op: named, problem }) if named == op && problem.contains(words) => (),
        other => panic!("{op} does not say {words:?}: {other:?}"),
    }
}

/// Runs the op now and in a replayed recording: both must fail.
#[track_caller]
fn refused_whenever<T>(op: impl Fn(&Cpu) -> Result<T>, name: &str, words: &str) {
    let b = Cpu::new();
    refused(op(&b), name, words);
    let recording = b.record(|b| op(b).map(|_| ())).unwrap();
    refused(b.replay(&recording), name, words);
}

#[test]
fn reading_past_a_table_is_an_error() {
    let x = || f32s(&[2, 3, 4]);
    let table = |b: &Cpu| block_on(b.upload_table(&HostTensor::from_f32(&[5, 4], &[0.0; 20]).into())).unwrap();
    refused_whenever(|b| b.gather_rows(&table(b), &u32s(&[4, 5])), "gather_rows", "id 5 is past the table's 5 rows");
    refused_whenever(|b| b.gather_rows(&table(b), &u32s(&[u32::MAX])), "gather_rows", "past");
    refused_whenever(
        |b| b.join_sequence(&x(), &x(), &u32s(&[1, 2])),
        "join_sequence",
        "caption 2 is past the last of 2",
    );
    let layer = linear(&[random(1, &[4, 4], 1.0)], &[]);
    let times = |b: &Cpu| b.timestep_embedding(&f32s(&[3, 1]), &u32s(&[3]), &layer, &layer);
    refused_whenever(times, "timestep_embedding", "step 3 is past the table's 3 rows");

    // A rejected step leaves latents and counter unchanged.
    let b = Cpu::new();
    let (mut latents, mut step) = (f32s(&[1, 1, 2, 2]), u32s(&[2]));
    let before = block_on(b.download(&latents)).unwrap();
    let sampler = SamplerState { table: &f32s(&[2, 7]), history: None, noise: None };
    let result = b.sampler_step(&mut latents, &f32s(&[1, 1, 2, 2]), sampler, &mut step);
    refused(result, "sampler_step", "step 2 is past the table's 2 rows");
    assert_eq!(block_on(b.download(&latents)).unwrap().bytes(), before.bytes());
    assert_eq!(block_on(b.download(&step)).unwrap().to_u32().unwrap(), [2]);
}

#[test]
fn inputs_may_share_memory() {
    let b = Cpu::new();
    let other = f32s(&[1, 2, 4]);
    let branch = Branch { y: &other, norm: None, gate: Some(Modulation { table: &other, row: 0 }), eps: 1e-5 };
    let scale = Some(Modulation { table: &other, row: 1 });
    b.residual_norm(
        &mut f32s(&[1, 2, 4]),
        branch,
        RmsNorm { weight: &f32s(&[4]), scale, eps: 1e-5, output: Compute::Native },
    )
    .unwrap();
}

#[test]
fn recordings_reject_unrecordable_calls() {
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
    // A failed recording is over.
    refused(
        b.record(|b| {
            b.rms_norm(&x, RmsNorm { weight: &x, scale: None, eps: 0.0, output: Compute::Native }).map(|_| ())
        }),
        "rms_norm",
        "",
    );
    block_on(b.download(&x)).unwrap();
}

#[test]
fn recordings_reuse_memory_of_dropped_tensors() {
    let b = Cpu::new();
    let x = f32s(&[1, 3, 4]);
    let weight = f32s(&[4]);
    let normed = |b: &Cpu, x: &CpuTensor| {
        b.rms_norm(x, RmsNorm { weight: &weight, scale: None, eps: 1e-5, output: Compute::Native })
    };
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
        // Another size does not get the memory that is free now.
        let wide = b.rms_norm(
            &f32s(&[1, 5, 4]),
            RmsNorm { weight: &weight, scale: None, eps: 1e-5, output: Compute::Native },
        )?;
        assert!(!std::ptr::eq(&*wide.memory().read(), &*witness.read()));
        let last = normed(b, &third)?;
        assert!(std::ptr::eq(&*last.memory().read(), &*witness.read()), "free memory was not used");
        kept = Some(last);
        Ok(())
    })
    .unwrap();
    // A tensor that outlives its recording keeps its memory.
    let kept = kept.unwrap();
    b.record(|b| {
        assert!(!normed(b, &x)?.shares(&kept));
        Ok(())
    })
    .unwrap();
}
