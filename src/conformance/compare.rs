//! Runs the cases of the catalogue on two backends, one case at a time.

use super::finding::{Finding, difference};
use super::rejections::{self, REJECTIONS};
use super::replay_error;
use super::report::{Outcome, Report, Row};
use crate::backend::{Backend, Runtime};
use crate::catalogue::{self, Call, Case, EQUAL, Entry, Inputs, Noise, Precision, Tolerance, Written};
use crate::error::{Error, Result};
use crate::tensor::{Compute, HostTensor};
use std::collections::BTreeMap;

/// The cases to run, and their inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The seed of the inputs: the same seed makes the same inputs.
    pub seed: u64,
    /// Only cases whose name (`attention/causal-gqa-257`) contains this text; empty for all.
    pub filter: String,
    /// Adds the full-size cases of a 1024×1024 picture. They are for GPUs and take minutes on a
    /// CPU.
    pub full: bool,
    /// Also records and replays every case, which must give the results of calling its ops. On by
    /// default.
    pub replay: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 0, filter: String::new(), full: false, replay: true }
    }
}

/// Compares every op of `candidate` with `reference` on the same inputs. An error of the candidate
/// is a failure in the report.
///
/// # Errors
/// Errors of the reference, because they leave nothing to compare with.
pub async fn compare<A, B>(reference: &A, candidate: &B, options: &Options) -> Result<Report>
where
    A: Backend + 'static,
    B: Backend + 'static,
{
    compare_each(reference, candidate, options, &mut |_| ()).await
}

/// The case of [`replay_error`].
const REPLAY: &str = "replay";
const REPLAY_CASE: &str = "replay/repeated";
/// The case of non-finite pictures, in the row of `to_rgb8`.
const TO_RGB8: &str = "to_rgb8";
const NON_FINITE_CASE: &str = "to_rgb8/non-finite-is-refused";

/// Like [`compare`], and passes every row to `each` as soon as its cases have run.
///
/// # Errors
/// As [`compare`].
pub async fn compare_each<A, B>(
    reference: &A,
    candidate: &B,
    options: &Options,
    each: &mut dyn FnMut(&Row),
) -> Result<Report>
where
    A: Backend + 'static,
    B: Backend + 'static,
{
    let precision = Precision::of(reference)?.coarser(Precision::of(candidate)?);
    let noise = Noise { seed: options.seed, precision, poison: false };
    let mut report = empty(reference, candidate, precision, options);
    let wanted = |name: &str| name.contains(&options.filter);
    let fp8 = reference.computes_fp8() && candidate.computes_fp8();
    let mut cases = Vec::new();
    let mut rejections = Vec::new();
    for (known, other) in everything::<A>().zip(everything::<B>()) {
        let pairs = known.cases.into_iter().zip(other.cases);
        let pairs = pairs.filter(|(case, _)| wanted(&case.name) && (options.full || !case.is_full()));
        let (runs, skipped): (Vec<_>, Vec<_>) = pairs.partition(|(case, _)| fp8 || case.compute == Compute::Native);
        cases.extend(runs);
        report.without_fp8 += skipped.len();
        let pairs = known.rejections.into_iter().zip(other.rejections);
        let pairs = pairs.filter(|(rejection, _)| wanted(&rejections::name(rejection)));
        let (runs, skipped): (Vec<_>, Vec<_>) = pairs.partition(|(case, _)| fp8 || case.compute == Compute::Native);
        rejections.extend(runs);
        report.without_fp8 += skipped.len();
    }
    let replays = options.replay && wanted(REPLAY_CASE);
    let non_finite = wanted(NON_FINITE_CASE);

    // Number of pending cases per row.
    let mut left = BTreeMap::from([
        (REPLAY, usize::from(replays)),
        (TO_RGB8, usize::from(non_finite)),
        (REJECTIONS, rejections.len()),
    ]);
    cases.iter().for_each(|(case, _)| *left.entry(case.op).or_default() += 1);
    let mut add = |row: &'static str, outcome: Outcome| {
        report.add(row, outcome);
        let left = left.entry(row).or_default();
        *left -= 1;
        if *left == 0 {
            report.row(row).into_iter().for_each(&mut *each);
        }
    };
    for (known, case) in cases {
        let expected = called(reference, &known, noise).await?;
        let result = examine(candidate, &case, noise, &expected, options.replay).await;
        add(case.op, outcome(case.name, case.tolerance, precision, result));
    }
    if non_finite {
        let result = rejects_non_finite(candidate).await;
        add(TO_RGB8, outcome(NON_FINITE_CASE.into(), EQUAL, precision, result));
    }
    for (known, rejection) in rejections {
        let expected = rejections::expected(reference, &known)?;
        let result = rejections::examine(candidate, &rejection, &expected, options.replay).await;
        add(REJECTIONS, outcome(rejections::name(&rejection), EQUAL, precision, result));
    }
    if replays {
        let result = replay_error(candidate, options.seed).await.map(|error| Finding { error, problem: None });
        add(REPLAY, outcome(REPLAY_CASE.into(), EQUAL, precision, result));
    }
    Ok(report)
}

/// The uploads, then the ops of the catalogue.
fn everything<B: Backend + 'static>() -> impl Iterator<Item = Entry<B>> {
    std::iter::once(catalogue::upload()).chain(catalogue::entries())
}

/// A report without rows.
pub(super) fn empty<A: Backend, B: Backend>(
    reference: &A,
    candidate: &B,
    precision: Precision,
    options: &Options,
) -> Report {
    Report {
        reference: format!("{} ({})", reference.name(), reference.device()),
        candidate: format!("{} ({})", candidate.name(), candidate.device()),
        seed: options.seed,
        activations: precision.activations.to_string(),
        operands: precision.operands.to_string(),
        without_fp8: 0,
        rows: Vec::new(),
    }
}

/// The outcome of a case against its tolerance. An error of the candidate is a problem.
pub(super) fn outcome(case: String, tolerance: Tolerance, at: Precision, result: Result<Finding>) -> Outcome {
    let Finding { error, problem } = result.unwrap_or_else(|error| Finding::problem(error.to_string()));
    Outcome { case, error, tolerance: tolerance.at(at), reason: tolerance.reason.to_owned(), problem }
}

/// Runs a case on the candidate, recorded and then called, each time in poisoned memory. The
/// recorded run comes first: no right result has been computed yet that could hide a replay that
/// writes nothing.
async fn examine<B: Backend>(
    b: &B,
    case: &Case<B>,
    noise: Noise,
    expected: &[HostTensor],
    replay: bool,
) -> Result<Finding> {
    let mut by_replay = None;
    if replay {
        poison(b, case, noise).await?;
        by_replay = Some(replayed(b, case, noise).await?);
    }
    poison(b, case, noise).await?;
    let by_call = called(b, case, noise).await?;
    let mut finding = difference(&by_call, expected);
    if let (Some(by_replay), None) = (by_replay, &finding.problem) {
        let change = difference(&by_replay, &by_call);
        if change.error != 0.0 && finding.error.is_finite() {
            let error = change.error;
            finding.problem = Some(format!("a replay differs by {error:.2e} from calls of the same ops"));
        }
    }
    Ok(finding)
}

/// Checks that a non-finite picture never reaches the host, and that the next picture does.
async fn rejects_non_finite<B: Backend>(b: &B) -> Result<Finding> {
    let activations = b.activations();
    let picture = async |value: f32| {
        let x = b.upload(&HostTensor::rounded(activations, &[1, 1, 2, 3], &[1.0, 1.0, 1.0, 1.0, value, 1.0]))?;
        b.download(&b.to_rgb8(&x)?).await
    };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        if !matches!(picture(value).await, Err(Error::NonFinitePicture)) {
            let problem = format!("a picture with the value {value} is not refused as one that is not finite");
            return Ok(Finding::problem(problem));
        }
    }
    Ok(difference(&[picture(1.0).await?], &[HostTensor::from_u8(&[1, 1, 2, 3], &[255; 6])]))
}

/// Uploads the inputs of a case.
fn prepared<B: Backend>(b: &B, case: &Case<B>, noise: Noise) -> Result<Call<B>> {
    case.prepare(&mut Inputs::of_noise(b, &case.name, noise))
}

/// Overwrites reusable memory with wrong values; the inputs module of [`crate::catalogue`] explains
/// it.
async fn poison<B: Backend>(b: &B, case: &Case<B>, noise: Noise) -> Result<()> {
    drop(prepared(b, case, Noise { poison: true, ..noise })?(b)?);
    b.wait(b.event()?).await
}

/// The results of calling a case's ops.
async fn called<B: Backend>(b: &B, case: &Case<B>, noise: Noise) -> Result<Vec<HostTensor>> {
    let written = prepared(b, case, noise)?(b)?;
    download(b, written).await
}

/// The results of recording a case's ops and replaying them once.
async fn replayed<B: Backend>(b: &B, case: &Case<B>, noise: Noise) -> Result<Vec<HostTensor>> {
    let call = prepared(b, case, noise)?;
    let mut written = Written { changed: Vec::new(), new: Vec::new() };
    let recording = b.record(|b| {
        written = call(b)?;
        Ok(())
    })?;
    b.replay(&recording)?;
    download(b, written).await
}

/// The tensors that a call changed, then those that it made.
async fn download<B: Runtime>(b: &B, written: Written<B::Tensor>) -> Result<Vec<HostTensor>> {
    let mut results = Vec::new();
    for tensor in written.changed.iter().chain(&written.new) {
        results.push(b.download(tensor).await?);
    }
    Ok(results)
}
