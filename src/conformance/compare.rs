//! Runs the cases on two backends, one case at a time.

use super::case::{Case, Inputs};
use super::report::{Outcome, Report, Row};
use super::tolerance::{EQUAL, Precision, Tolerance};
use super::{relative_error, replay_error, verbs};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor};
use std::collections::BTreeMap;

/// What to compare, and on which inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What the inputs are made from: the same seed makes the same inputs.
    pub seed: u64,
    /// Only cases whose name (`attention/causal-gqa-257`) holds this text; empty for all.
    pub filter: String,
    /// Adds the cases of real size: those of a 1024×1024 picture, for GPUs. They take minutes on a CPU.
    pub full: bool,
    /// Also records and replays every case; the results have to equal those of calling its verbs. On by default.
    pub replay: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 0, filter: String::new(), full: false, replay: true }
    }
}

/// Compares every verb of `candidate` with that of `reference`, on the same inputs. What the candidate refuses is a
/// failure in the report.
///
/// # Errors
/// Those of the reference, which leave nothing to compare with.
pub async fn compare<A, B>(reference: &A, candidate: &B, options: &Options) -> Result<Report>
where
    A: Backend + 'static,
    B: Backend + 'static,
{
    compare_each(reference, candidate, options, &mut |_| ()).await
}

/// As [`compare`], but hands every row to `each` as soon as all of its cases have run.
///
/// # Errors
/// Those of [`compare`].
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
    let (own, other) = (Precision::of(reference)?, Precision::of(candidate)?);
    let precision = own.coarser(other);
    let inputs = |activations| Inputs { seed: options.seed, precision, activations, poison: false };
    let (expect, inputs) = (inputs(own.activations), inputs(other.activations));
    let mut report = empty(reference, candidate, precision, options);
    let cases = verbs::suite::<A>(options.full).cases.into_iter().zip(verbs::suite::<B>(options.full).cases);
    let cases: Vec<_> = cases.filter(|(case, _)| case.name.contains(&options.filter)).collect();
    let [twice, non_finite] = ["replay/twice", "to_rgb8/non-finite-is-refused"];
    let replays = options.replay && twice.contains(&options.filter);
    let refuses = non_finite.contains(&options.filter);
    // How many cases each row still waits for.
    let mut left = BTreeMap::<&str, usize>::from([("replay", 1), ("to_rgb8", usize::from(refuses))]);
    cases.iter().for_each(|(case, _)| *left.entry(case.verb).or_default() += 1);
    let mut add = |verb: &'static str, outcome: Outcome| {
        report.add(verb, outcome);
        let left = left.entry(verb).or_default();
        *left -= 1;
        if *left == 0 {
            report.row(verb).into_iter().for_each(&mut *each);
        }
    };
    for (known, case) in cases {
        let expected = called(reference, &known, expect).await?;
        let result = examine(candidate, &case, inputs, &expected, options.replay).await;
        add(case.verb, outcome(case.name, case.tolerance, precision, result));
    }
    if replays {
        let result = replay_error(candidate, options.seed).await.map(|error| Finding { error, problem: None });
        add("replay", outcome(twice.into(), EQUAL, precision, result));
    }
    if refuses {
        let result = refuses_non_finite(candidate).await;
        add("to_rgb8", outcome(non_finite.into(), EQUAL, precision, result));
    }
    Ok(report)
}

/// What was found out about a case.
pub(super) struct Finding {
    pub error: f64,
    pub problem: Option<String>,
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
        rows: Vec::new(),
    }
}

/// A case's finding, or what the candidate refused it with, against its tolerance.
pub(super) fn outcome(case: String, tolerance: Tolerance, at: Precision, result: Result<Finding>) -> Outcome {
    let refused = |error: Error| Finding { error: f64::INFINITY, problem: Some(error.to_string()) };
    let Finding { error, problem } = result.unwrap_or_else(refused);
    Outcome { case, error, tolerance: tolerance.at(at), reason: tolerance.reason.to_owned(), problem }
}

/// Runs a case on the candidate: recorded, then called, each on poisoned memory.
async fn examine<B: Backend>(
    b: &B,
    case: &Case<B>,
    inputs: Inputs,
    expected: &[HostTensor],
    replay: bool,
) -> Result<Finding> {
    let mut by_replay = None;
    if replay {
        poison(b, case, inputs).await?;
        by_replay = Some(replayed(b, case, inputs).await?);
    }
    poison(b, case, inputs).await?;
    let by_call = called(b, case, inputs).await?;
    let mut finding = difference(&by_call, expected);
    if let (Some(by_replay), None) = (by_replay, &finding.problem) {
        let change = difference(&by_replay, &by_call);
        if change.error != 0.0 && finding.error.is_finite() {
            finding.problem = Some(format!("replayed, it differs by {:.2e} from the same verbs called", change.error));
        }
    }
    Ok(finding)
}

/// The law of pictures: one with an infinite value or NaN never reaches the host, and the next one does.
async fn refuses_non_finite<B: Backend>(b: &B) -> Result<Finding> {
    let activations = b.activations();
    let picture = async |value: f32| {
        let x = b.upload(&HostTensor::rounded(activations, &[1, 1, 2, 3], &[1.0, 1.0, 1.0, 1.0, value, 1.0]))?;
        b.download(&b.to_rgb8(&x)?).await
    };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        if !matches!(picture(value).await, Err(Error::NonFinitePicture)) {
            let problem = format!("a picture with the value {value} is not refused as one that is not finite");
            return Ok(Finding { error: f64::INFINITY, problem: Some(problem) });
        }
    }
    Ok(difference(&[picture(1.0).await?], &[HostTensor::from_u8(&[1, 1, 2, 3], &[255; 6])]))
}

/// Leaves memory without a right value in it behind; see [`super::case`].
async fn poison<B: Backend>(b: &B, case: &Case<B>, inputs: Inputs) -> Result<()> {
    drop(case.prepare(b, Inputs { poison: true, ..inputs })?(b)?);
    b.wait(b.event()?).await
}

/// The results of calling a case's verbs.
async fn called<B: Backend>(b: &B, case: &Case<B>, inputs: Inputs) -> Result<Vec<HostTensor>> {
    let steps = case.prepare(b, inputs)?;
    download(b, &steps(b)?).await
}

/// The results of recording a case's verbs and replaying them once.
async fn replayed<B: Backend>(b: &B, case: &Case<B>, inputs: Inputs) -> Result<Vec<HostTensor>> {
    let steps = case.prepare(b, inputs)?;
    let mut results = Vec::new();
    let recording = b.record(|b| {
        results = steps(b)?;
        Ok(())
    })?;
    b.replay(&recording)?;
    download(b, &results).await
}

async fn download<B: Backend>(b: &B, tensors: &[B::Tensor]) -> Result<Vec<HostTensor>> {
    let mut results = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        results.push(b.download(tensor).await?);
    }
    Ok(results)
}

/// The largest relative error among several results; shapes and kinds of elements have to agree.
fn difference(results: &[HostTensor], expected: &[HostTensor]) -> Finding {
    let mut finding = Finding { error: 0.0, problem: None };
    for (result, expected) in results.iter().zip(expected) {
        let whole = |dtype| matches!(dtype, DType::U8 | DType::U32).then_some(dtype);
        if result.shape() != expected.shape() || whole(result.dtype()) != whole(expected.dtype()) {
            let problem = format!("the result is {result:?}, not {expected:?}");
            return Finding { error: f64::INFINITY, problem: Some(problem) };
        }
        finding.error = finding.error.max(relative_error(&result.to_f32(), &expected.to_f32()));
    }
    finding
}
