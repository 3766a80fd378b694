//! Arguments that every backend rejects with the same message. The backend must still compute
//! afterwards.

use super::finding::{Finding, difference};
use crate::backend::Backend;
use crate::catalogue::Rejection;
use crate::error::{Error, Result};
use crate::tensor::HostTensor;

/// The row of all rejections.
pub(super) const REJECTIONS: &str = "rejections";

/// The name of a rejection in the report: `rejections/linear-width-of-x`.
pub(super) fn name<B: Backend>(rejection: &Rejection<B>) -> String {
    format!("{REJECTIONS}/{}", rejection.name)
}

/// The message of the reference.
///
/// # Errors
/// Errors of its uploads, and [`Error::Device`] if it does not reject the arguments.
pub(super) fn expected<B: Backend>(b: &B, rejection: &Rejection<B>) -> Result<String> {
    let attempt = rejection.prepare(b)?;
    message(attempt(b)).map_err(|problem| Error::Device(format!("the reference: {}: {problem}", name(rejection))))
}

/// Checks that a backend rejects the arguments with the message `expected` when the op is called
/// and, with `record`, when it is recorded, and that the backend still computes after each attempt.
pub(super) async fn examine<B: Backend>(
    b: &B,
    rejection: &Rejection<B>,
    expected: &str,
    record: bool,
) -> Result<Finding> {
    let attempt = rejection.prepare(b)?;
    let mut attempts = vec![("a call", message(attempt(b)))];
    let mut finding = draws(b, record).await?;
    if record {
        attempts.push(("a recorded call", message(b.record(|b| attempt(b)).map(drop))));
        let after = draws(b, record).await?;
        finding = if after.is_equal() { finding } else { after };
    }
    for (how, answer) in attempts {
        match answer {
            Ok(found) if found == expected => {}
            Ok(found) => return Ok(Finding::problem(format!("{how} is rejected with {found:?}, not {expected:?}"))),
            Err(problem) => return Ok(Finding::problem(format!("{how} {problem}, not rejected with {expected:?}"))),
        }
    }
    Ok(finding)
}

/// The message of a rejection, or a description of a call that was wrongly accepted.
fn message(result: Result<()>) -> Result<String, String> {
    match result {
        Err(error @ Error::Shape { .. }) => Ok(error.to_string()),
        Err(error) => Err(format!("fails with {:?}", error.to_string())),
        Ok(()) => Err("is accepted".into()),
    }
}

/// Checks that a backend draws small pictures whose pixels every backend computes exactly: one by a
/// call and, with `record`, its inverse by a replay.
async fn draws<B: Backend>(b: &B, record: bool) -> Result<Finding> {
    let picture = |value: f32| {
        let values = [value, -value, value, value, -value, -value];
        b.upload(&HostTensor::rounded(b.activations(), &SHAPE, &values))
    };
    let x = picture(1.0)?;
    let mut pictures = vec![b.download(&b.to_rgb8(&x)?).await?];
    let mut expected = vec![HostTensor::from_u8(&SHAPE, &[255, 0, 255, 255, 0, 0])];
    if record {
        let x = picture(-1.0)?;
        let mut recorded = Vec::new();
        let recording = b.record(|b| {
            recorded.push(b.to_rgb8(&x)?);
            Ok(())
        })?;
        b.replay(&recording)?;
        pictures.push(b.download(&recorded[0]).await?);
        expected.push(HostTensor::from_u8(&SHAPE, &[0, 255, 0, 0, 255, 255]));
    }
    let mut finding = difference(&pictures, &expected);
    if !finding.is_equal() {
        finding.problem = Some("after a rejection the backend draws a wrong picture".into());
    }
    Ok(finding)
}

/// The shape of a small picture.
const SHAPE: [usize; 4] = [1, 1, 2, 3];
