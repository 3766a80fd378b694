//! Backend tests, for anyone who writes or ports a backend.
//!
//! [`compare`] runs every op of two backends on the same inputs and returns a [`Report`]: the
//! distance of the results, its bound, and the reason for the bound. [`cpu`](crate::backend::cpu)
//! is the reference implementation of the ops and the usual reference; two GPUs can be compared as
//! well. [`compare_pipelines`] does the same for the stages of a model and for whole pictures,
//! [`beyond_f16`] makes a model harder without changing its pictures, and [`compare_all`] does
//! everything.
//!
//! A test of a few lines proves a backend:
//!
//! ```
//! use zimage::backend::cpu::Cpu;
//! use zimage::conformance::{Options, compare};
//!
//! # use Cpu as MyBackend;
//! // Leave the filter out for all ops.
//! let options = Options { filter: "linear/odd".into(), ..Options::default() };
//! let report = pollster::block_on(compare(&Cpu::new(), &MyBackend::new(), &options))?;
//! assert!(report.passed(), "{report}");
//! # assert_eq!(report.cases(), 2);
//! # Ok::<(), zimage::Error>(())
//! ```
//!
//! # Cases
//! The cases of each op come from [`mod@crate::catalogue`]. They have the widths of Z-Image, with
//! fewer tokens than a picture of 1024×1024 unless [`Options::full`] is set, and awkward sizes: one
//! token, ragged lengths, odd widths, sizes that no tile divides, activations of 10⁴ and far more,
//! values of the size of eps. Weights come in F32, F16 and BF16. Inputs are random, seeded by the
//! seed and the case's name, and rounded beforehand to a precision that both backends represent
//! exactly, so that only the op's own arithmetic is compared. Every result is computed in poisoned
//! memory, once by calling the op and once by recording and replaying it, and both must agree. A
//! picture with an infinite value or NaN must not come back as pixels.
//!
//! # Rejections
//! Every op and every upload is called with arguments that it must reject: wrong ranks, sizes and
//! types, empty tensors, and inputs that share memory with a tensor that is changed in place. The
//! candidate must return [`Error::Shape`](crate::Error::Shape) with the message of the reference,
//! when the op is called and when it is recorded, and must still draw a picture afterwards. These
//! cases form the row `rejections`, with names such as `rejections/linear-width-of-x`.
//!
//! # Tolerances
//! Values are compared as whole tensors by [`relative_error`], never element by element: rounding
//! spreads over a tensor, and a single small element says little about it. The tolerance depends on
//! the types to which the coarser of the two backends rounds:
//! [`Runtime::activations`](crate::backend::Runtime::activations) and
//! [`Runtime::operands`](crate::backend::Runtime::operands). Every figure has a reason, which the
//! report shows.
//!
//! # FP8
//! Cases whose names begin with `fp8` or `full-fp8` have FP8 operands, which both backends round to
//! E4M3. They run if both backends have such gemms
//! ([`Runtime::computes_fp8`](crate::backend::Runtime::computes_fp8)); the report counts those that
//! did not run.

mod compare;
mod finding;
mod overflow;
mod pipelines;
mod rejections;
mod report;
pub mod stages;

pub use crate::numbers::{noise, relative_error};
pub use compare::{Options, compare, compare_each};
pub use overflow::beyond_f16;
pub use pipelines::{compare_all, compare_pipelines};
pub use report::{Outcome, Report, Row};

use crate::backend::{Backend, Branch, RmsNorm};
use crate::error::Result;
use crate::tensor::{Compute, HostTensor};

/// Replays of [`replay_error`].
const REPLAYS: usize = 3;

/// The difference between replaying a recording three times and calling its ops three times, as a
/// [`relative_error`], which must be 0. The ops drop tensors on the way, so a backend that reuses
/// their memory too early gives another result. A backend may treat the first replays differently:
/// `cuda` captures its graph at the second one.
///
/// # Errors
/// Errors of the backend.
pub async fn replay_error<B: Backend>(b: &B, seed: u64) -> Result<f64> {
    let tokens = 5;
    let width = 48;
    let activations = b.activations();
    let upload = |salt: u64, shape: &[usize]| {
        let values = noise(seed ^ salt, shape.iter().product());
        b.upload(&HostTensor::rounded(activations, shape, &values))
    };
    let matrix = async |salt: u64| {
        let values = noise(seed ^ salt, width * width);
        b.upload_linear(&[HostTensor::from_f32(&[width, width], &values).into()], &[]).await
    };
    let first = matrix(1).await?;
    let second = matrix(2).await?;
    let weight = upload(3, &[width])?;
    let norm = || RmsNorm { weight: &weight, scale: None, eps: 1e-5, output: Compute::Native };
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
    (0..REPLAYS).try_for_each(|_| steps(b, &mut called))?;
    let recording = b.record(|b| steps(b, &mut replayed))?;
    (0..REPLAYS).try_for_each(|_| b.replay(&recording))?;
    Ok(relative_error(&b.download(&replayed).await?.to_f32(), &b.download(&called).await?.to_f32()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;

    #[test]
    fn cpu_replays_match_direct_calls() {
        for seed in 0..4 {
            assert_eq!(pollster::block_on(replay_error(&Cpu::new(), seed)).unwrap(), 0.0);
        }
    }
}
