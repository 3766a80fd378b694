//! The result of a comparison, as a table and as a JSON document.

use serde::{Serialize, Serializer};
use std::fmt;

/// The comparison of one backend with another.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The reference backend, with its device.
    pub reference: String,
    /// The candidate backend, with its device.
    pub candidate: String,
    /// The seed of the inputs.
    pub seed: u64,
    /// The coarser activation type of the two, used for tolerances.
    pub activations: String,
    /// The coarser gemm operand type of the two.
    pub operands: String,
    /// The number of cases with FP8 operands that did not run, because a backend has none.
    pub without_fp8: usize,
    /// One row per op, one for rejected arguments, one for replays, then one per stage of the
    /// pipeline.
    pub rows: Vec<Row>,
}

/// All cases of one op or stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// The op or the stage.
    pub op: String,
    /// The number of cases that ran.
    pub cases: usize,
    /// True if all of them passed.
    pub passed: bool,
    /// The case closest to its tolerance or, if cases failed, the failed case with the largest
    /// error.
    pub worst: Outcome,
    /// Every case that failed.
    pub failures: Vec<Outcome>,
}

/// The outcome of one case.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The case, such as `attention/causal-gqa-257`.
    pub case: String,
    /// Its relative error; for pictures the root mean square error over 255. Infinite, null in
    /// JSON, if values are not numbers, if shapes differ, and if the backend returned an error.
    #[serde(serialize_with = "finite")]
    pub error: f64,
    /// The bound on the error.
    pub tolerance: f64,
    /// The reason for the bound.
    pub reason: String,
    /// A problem that the error does not show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

fn finite<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    value.is_finite().then_some(*value).serialize(serializer)
}

impl Outcome {
    /// True if the error is within the tolerance and nothing else is wrong.
    pub fn passed(&self) -> bool {
        self.problem.is_none() && self.error <= self.tolerance
    }

    /// The used share of the tolerance, above 1 for a failed case.
    fn used(&self) -> f64 {
        match (self.passed(), self.error > 0.0) {
            (true, false) => 0.0,
            (true, true) => self.error / self.tolerance,
            (false, _) if self.tolerance > 0.0 => (self.error / self.tolerance).max(f64::MIN_POSITIVE) + 1.0,
            (false, _) => f64::INFINITY,
        }
    }
}

impl Report {
    /// True if at least one case ran and all passed.
    pub fn passed(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.passed)
    }

    /// The number of cases that ran.
    pub fn cases(&self) -> usize {
        self.rows.iter().map(|row| row.cases).sum()
    }

    /// Every case that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.rows.iter().flat_map(|row| &row.failures)
    }

    /// The row of an op or stage.
    pub fn row(&self, op: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.op == op)
    }

    /// Adds a case to the row of its op or stage.
    pub(super) fn add(&mut self, op: &str, outcome: Outcome) {
        let failures = if outcome.passed() { Vec::new() } else { vec![outcome.clone()] };
        self.merge(Row { op: op.to_owned(), cases: 1, passed: failures.is_empty(), worst: outcome, failures });
    }

    /// Adds the rows of a comparison of the same two backends.
    pub(super) fn append(&mut self, other: Report) {
        other.rows.into_iter().for_each(|row| self.merge(row));
    }

    fn merge(&mut self, other: Row) {
        let Some(row) = self.rows.iter_mut().find(|row| row.op == other.op) else {
            self.rows.push(other);
            return;
        };
        row.cases += other.cases;
        row.passed &= other.passed;
        row.failures.extend(other.failures);
        if other.worst.used() > row.worst.used() {
            row.worst = other.worst;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { reference, candidate, seed, activations, operands, .. } = self;
        writeln!(f, "{candidate} against {reference}")?;
        writeln!(f, "{activations} activations, {operands} operands, seed {seed}\n")?;
        let width = self.rows.iter().map(|row| row.op.len()).max().unwrap_or(0).max(4);
        writeln!(f, "{:width$}  cases  worst error  tolerance        its case", "op")?;
        for Row { op, cases, passed, worst, .. } in &self.rows {
            let verdict = if *passed { "pass" } else { "FAIL" };
            let Outcome { error, tolerance, case, .. } = worst;
            writeln!(f, "{op:width$}  {cases:5}  {error:11.1e}  {tolerance:9.1e}  {verdict}  {case}")?;
        }
        writeln!(f)?;
        for Outcome { case, error, tolerance, reason, problem } in self.failures() {
            match problem {
                Some(problem) => writeln!(f, "FAIL {case}: {problem}")?,
                None => writeln!(f, "FAIL {case}: the error {error:.2e} is more than {tolerance:.0e} ({reason})")?,
            }
        }
        match self.failures().count() {
            0 => write!(f, "{} cases, all pass", self.cases())?,
            failed => write!(f, "{failed} of {} cases FAILED", self.cases())?,
        }
        match self.without_fp8 {
            0 => Ok(()),
            skipped => write!(f, "; {skipped} skipped, because a backend has no FP8 operands"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(case: &str, error: f64, tolerance: f64, problem: Option<&str>) -> Outcome {
        Outcome { case: case.into(), error, tolerance, reason: "why".into(), problem: problem.map(str::to_owned) }
    }

    fn report(outcomes: &[Outcome]) -> Report {
        let name = || "cpu".to_owned();
        let f32 = || "F32".to_owned();
        let mut report = Report {
            reference: name(),
            candidate: name(),
            seed: 7,
            activations: f32(),
            operands: f32(),
            without_fp8: 0,
            rows: Vec::new(),
        };
        outcomes.iter().for_each(|outcome| report.add("linear", outcome.clone()));
        report
    }

    #[test]
    fn the_worst_case_uses_most_of_its_tolerance() {
        let near = outcome("linear/near", 9e-4, 1e-3, None);
        let loose = outcome("linear/loose", 2e-3, 1.0, None);
        let good = report(&[outcome("linear/exact", 0.0, 0.0, None), near.clone(), loose]);
        assert!(good.passed());
        assert_eq!((good.rows[0].cases, &good.rows[0].worst), (3, &near));
        let refused = outcome("linear/refused", f64::INFINITY, 1e-3, Some("it refused"));
        let stale = outcome("linear/stale", 0.0, 1e-3, Some("it is stale"));
        let bad = report(&[near, refused.clone(), stale]);
        assert!(!bad.passed() && bad.failures().count() == 2 && bad.rows[0].worst == refused);
        assert!(!report(&[]).passed(), "nothing ran");
        assert!(!report(&[outcome("linear/nan", f64::INFINITY, f64::MAX, None)]).passed());
    }

    #[test]
    fn the_table_and_the_document_agree() {
        let report = report(&[outcome("linear/wide", f64::INFINITY, 1e-3, None)]);
        let table = report.to_string();
        assert!(table.contains("FAIL  linear/wide") && table.contains("1 of 1 cases FAILED"), "{table}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][0]["worst"]["case"], "linear/wide");
        assert!(json["rows"][0]["worst"]["error"].is_null());
        assert_eq!(json["rows"][0]["passed"], false);
    }
}
