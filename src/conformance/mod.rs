//! What a backend must do to be called right, for anyone who writes or ports one.
//!
//! [`compare`] runs every verb of two backends on the same inputs and returns a [`Report`]: how far apart they are, how
//! far they may be, and why. [`cpu`](crate::backend::cpu) is the executable meaning of the verbs and the usual reference;
//! two GPUs can be compared as well. [`compare_pipelines`] does the same for the stages of a model and for whole
//! pictures, [`beyond_f16`] makes a model harder without changing its pictures, and [`compare_all`] does everything.
//!
//! A backend of your own is proved by a test of a few lines:
//!
//! ```
//! use zimage::backend::cpu::Cpu;
//! use zimage::conformance::{Options, compare};
//!
//! # use Cpu as MyBackend;
//! let options = Options { filter: "linear/odd".into(), ..Options::default() }; // leave the filter out for all verbs
//! let report = pollster::block_on(compare(&Cpu::new(), &MyBackend::new(), &options))?;
//! assert!(report.passed(), "{report}");
//! # assert_eq!(report.cases(), 2);
//! # Ok::<(), zimage::Error>(())
//! ```
//!
//! # Cases
//! Each verb has cases of the widths that Z-Image has (with fewer tokens than a picture of 1024×1024, unless
//! [`Options::full`]) and awkward ones: one token, ragged lengths, odd widths, sizes that no tile divides, activations of
//! 10⁴ and far more, values where eps decides. Weights come in F32, F16 and BF16. Inputs are random, of one seed and the
//! case's name, and are rounded beforehand to what both backends hold, so that only the verb's own arithmetic is
//! compared. Every result is computed in memory that was poisoned as far as the trait allows, once by calling the verb
//! and once by recording and replaying it, which must not make a difference. A picture with an infinite value or NaN in
//! it must not come back as pixels.
//!
//! # Tolerances
//! Values are compared as whole tensors by [`relative_error`], never element by element: rounding spreads over a tensor,
//! and a single small element says little about it. What is tolerated depends on the types that the coarser of the two
//! backends rounds to: that of its activations, found by looking at a verb's result, and [`Backend::operands`] of its
//! products. Every figure comes with its reason, in the report as well.

mod case;
mod compare;
mod overflow;
mod pipelines;
mod report;
pub mod stages;
mod tolerance;
mod verbs;

pub use compare::{Options, compare, compare_each};
pub use overflow::beyond_f16;
pub use pipelines::{compare_all, compare_pipelines};
pub use report::{Outcome, Report, Row};

use crate::backend::{Backend, Branch, RmsNorm};
use crate::error::Result;
use crate::tensor::HostTensor;

/// `‖out − reference‖ / ‖reference‖` in f64. Values that are not numbers, and lengths that differ, are infinitely wrong;
/// for a reference of zeros it is the length of `out`.
pub fn relative_error(out: &[f32], reference: &[f32]) -> f64 {
    if out.len() != reference.len() {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let difference: f64 = out.iter().zip(reference).map(|(&o, &r)| square(f64::from(o) - f64::from(r))).sum();
    let length: f64 = reference.iter().map(|&r| square(f64::from(r))).sum();
    let error = if length > 0.0 { (difference / length).sqrt() } else { difference.sqrt() };
    if error.is_nan() { f64::INFINITY } else { error }
}

/// Values between −1 and 1 that depend on `seed` alone and look random to a tensor product (a splitmix64 sequence).
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let next = |i: u64| {
        let mut z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) >> 40
    };
    (1..=count as u64).map(|i| next(i) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// The law of recordings: replaying a recording twice leaves what calling its verbs twice leaves. The verbs drop
/// tensors on the way, so a backend that reuses their memory too early is found. Returns the [`relative_error`], which
/// must be 0.
///
/// # Errors
/// Those of the backend.
pub async fn replay_error<B: Backend>(b: &B, seed: u64) -> Result<f64> {
    let (tokens, width) = (5, 48);
    let activations = b.activations();
    let upload = |salt: u64, shape: &[usize]| {
        let values = noise(seed ^ salt, shape.iter().product());
        b.upload(&HostTensor::rounded(activations, shape, &values))
    };
    let matrix = async |salt: u64| {
        let values = noise(seed ^ salt, width * width);
        b.upload_linear(&[HostTensor::from_f32(&[width, width], &values).into()], &[]).await
    };
    let (first, second, weight) = (matrix(1).await?, matrix(2).await?, upload(3, &[width])?);
    let norm = || RmsNorm { weight: &weight, scale: None, eps: 1e-5 };
    let steps = |b: &B, x: &mut B::Tensor| {
        let mut h = b.rms_norm(x, norm())?;
        for matrix in [&first, &second, &first] {
            let y = b.linear(&h, matrix)?;
            h = b.residual_norm(x, Branch { y: &y, norm: None, gate: None, eps: 1e-5 }, norm())?;
        }
        b.residual(x, Branch { y: &h, norm: Some(&weight), gate: None, eps: 1e-5 })
    };
    let mut called = upload(4, &[1, tokens, width])?;
    let mut replayed = upload(4, &[1, tokens, width])?;
    steps(b, &mut called)?;
    steps(b, &mut called)?;
    let recording = b.record(|b| steps(b, &mut replayed))?;
    b.replay(&recording)?;
    b.replay(&recording)?;
    Ok(relative_error(&b.download(&replayed).await?.to_f32(), &b.download(&called).await?.to_f32()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;

    #[test]
    fn what_is_not_a_number_is_infinitely_wrong() {
        assert_eq!(relative_error(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert_eq!(relative_error(&[3.0, 0.0], &[0.0, 4.0]), 1.25);
        assert_eq!(relative_error(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(relative_error(&[1.0], &[f32::NAN]), f64::INFINITY);
        assert_eq!(relative_error(&[1.0], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(relative_error(&[0.5], &[0.0]), 0.5);
    }

    #[test]
    fn the_cpu_replays_what_it_recorded() {
        for seed in 0..4 {
            assert_eq!(pollster::block_on(replay_error(&Cpu::new(), seed)).unwrap(), 0.0);
        }
    }
}
