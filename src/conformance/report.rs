//! What came out of a comparison: a table for people, a document for programs.

use serde::{Serialize, Serializer};
use std::fmt;

/// How one backend compares with another.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The backend that was taken to be right, with its device.
    pub reference: String,
    /// The backend that was held against it, with its device.
    pub candidate: String,
    /// What the inputs were made from.
    pub seed: u64,
    /// The coarser activation type of the two, which tolerances depend on.
    pub activations: String,
    /// What the operands of products were rounded to, on the coarser of the two.
    pub operands: String,
    /// One row a verb, then one a stage of the pipeline.
    pub rows: Vec<Row>,
}

/// All cases of one verb or stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// The verb or the stage.
    pub verb: String,
    /// How many cases ran.
    pub cases: usize,
    /// Whether all of them passed.
    pub passed: bool,
    /// The case that used most of its tolerance; of several that failed, the one that is furthest off.
    pub worst: Outcome,
    /// Every case that failed.
    pub failures: Vec<Outcome>,
}

/// What came out of one case.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The case, such as `attention/causal-gqa-257`.
    pub case: String,
    /// Its relative error; for pictures the root mean square error over 255. Infinite when values are not numbers, when
    /// shapes differ and when the backend refused, which JSON has as null.
    #[serde(serialize_with = "finite")]
    pub error: f64,
    /// What the error may be.
    pub tolerance: f64,
    /// Why it may be that.
    pub reason: String,
    /// What is wrong, where the error alone does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

fn finite<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    value.is_finite().then_some(*value).serialize(serializer)
}

impl Outcome {
    /// Whether the error is within the tolerance and nothing else is wrong.
    pub fn passed(&self) -> bool {
        self.problem.is_none() && self.error <= self.tolerance
    }

    /// How much of the tolerance is used; more than 1 for a case that failed.
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
    /// Whether every case passed, and there was at least one.
    pub fn passed(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.passed)
    }

    /// How many cases ran.
    pub fn cases(&self) -> usize {
        self.rows.iter().map(|row| row.cases).sum()
    }

    /// Every case that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.rows.iter().flat_map(|row| &row.failures)
    }

    /// The row of a verb or stage.
    pub fn row(&self, verb: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.verb == verb)
    }

    /// Adds a case to its verb's row.
    pub(super) fn add(&mut self, verb: &str, outcome: Outcome) {
        let failure = (!outcome.passed()).then(|| outcome.clone());
        match self.rows.iter_mut().find(|row| row.verb == verb) {
            Some(row) => {
                row.cases += 1;
                row.passed &= failure.is_none();
                row.failures.extend(failure);
                if outcome.used() > row.worst.used() {
                    row.worst = outcome;
                }
            }
            None => self.rows.push(Row {
                verb: verb.to_owned(),
                cases: 1,
                passed: failure.is_none(),
                failures: failure.into_iter().collect(),
                worst: outcome,
            }),
        }
    }

    /// Adds the rows of a comparison of the same two backends.
    pub(super) fn append(&mut self, other: Report) {
        for row in other.rows {
            match self.rows.iter_mut().find(|own| own.verb == row.verb) {
                Some(own) => {
                    own.cases += row.cases;
                    own.passed &= row.passed;
                    own.failures.extend(row.failures);
                    if row.worst.used() > own.worst.used() {
                        own.worst = row.worst;
                    }
                }
                None => self.rows.push(row),
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { reference, candidate, seed, activations, operands, .. } = self;
        writeln!(f, "{candidate} against {reference}")?;
        writeln!(f, "{activations} activations, products of {operands}, seed {seed}\n")?;
        let width = self.rows.iter().map(|row| row.verb.len()).max().unwrap_or(0).max(4);
        writeln!(f, "{:width$}  cases  worst error  tolerance        its case", "verb")?;
        for Row { verb, cases, passed, worst, .. } in &self.rows {
            let verdict = if *passed { "pass" } else { "FAIL" };
            let (error, tolerance, case) = (worst.error, worst.tolerance, &worst.case);
            writeln!(f, "{verb:width$}  {cases:5}  {error:11.1e}  {tolerance:9.1e}  {verdict}  {case}")?;
        }
        writeln!(f)?;
        for Outcome { case, error, tolerance, reason, problem } in self.failures() {
            match problem {
                Some(problem) => writeln!(f, "FAIL {case}: {problem}")?,
                None => writeln!(f, "FAIL {case}: the error {error:.2e} is more than {tolerance:.0e} ({reason})")?,
            }
        }
        match self.failures().count() {
            0 => write!(f, "{} cases, all pass", self.cases()),
            failed => write!(f, "{failed} of {} cases FAILED", self.cases()),
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
        let (activations, operands) = ("F32".to_owned(), "F32".to_owned());
        let mut report =
            Report { reference: name(), candidate: name(), seed: 7, activations, operands, rows: Vec::new() };
        outcomes.iter().for_each(|outcome| report.add("linear", outcome.clone()));
        report
    }

    #[test]
    fn the_worst_case_is_the_one_that_uses_most_of_its_tolerance() {
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
    fn the_table_and_the_document_say_the_same() {
        let report = report(&[outcome("linear/wide", f64::INFINITY, 1e-3, None)]);
        let table = report.to_string();
        assert!(table.contains("FAIL  linear/wide") && table.contains("1 of 1 cases FAILED"), "{table}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][0]["worst"]["case"], "linear/wide");
        assert!(json["rows"][0]["worst"]["error"].is_null());
        assert_eq!(json["rows"][0]["passed"], false);
    }
}
