//! The distance of a case's results from those of the reference.

use super::relative_error;
use crate::tensor::{DType, HostTensor};

/// The error of a case, and a problem that the error does not show.
pub(super) struct Finding {
    pub error: f64,
    pub problem: Option<String>,
}

impl Finding {
    /// A failure for a reason other than the numbers.
    pub(super) fn problem(problem: String) -> Self {
        Self { error: f64::INFINITY, problem: Some(problem) }
    }

    /// True if the results are equal.
    pub(super) fn is_equal(&self) -> bool {
        self.error == 0.0 && self.problem.is_none()
    }
}

/// The largest relative error among several results, whose shapes and element types must agree.
pub(super) fn difference(results: &[HostTensor], expected: &[HostTensor]) -> Finding {
    let mut finding = Finding { error: 0.0, problem: None };
    for (result, expected) in results.iter().zip(expected) {
        let integer = |dtype| matches!(dtype, DType::U8 | DType::U32).then_some(dtype);
        if result.shape() != expected.shape() || integer(result.dtype()) != integer(expected.dtype()) {
            return Finding::problem(format!("the result is {result:?}, not {expected:?}"));
        }
        finding.error = finding.error.max(relative_error(&result.to_f32(), &expected.to_f32()));
    }
    finding
}
