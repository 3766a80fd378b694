//! The clock: the number of runs, and the spread of their times.

use crate::error::Result;
use crate::pipeline::progress::since;
use serde::Serialize;
use web_time::Instant;

/// Runs before the measured ones, unless they are slow.
const WARM_UPS: usize = 2;
/// A warm-up slower than this many milliseconds is the last one.
const LAST_WARM_UP_MS: f64 = 3e3;
/// A warm-up slower than this many milliseconds counts as a run.
const COUNTED_WARM_UP_MS: f64 = 30e3;
/// No run starts after this many milliseconds.
const MAX_MS: f64 = 45e3;

/// Times of several runs, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Spread {
    /// The median: the middle time, or the mean of the two in the middle.
    pub median: f64,
    /// The shortest time.
    pub min: f64,
    /// The longest time.
    pub max: f64,
    /// The number of runs.
    pub runs: usize,
}

impl Spread {
    /// The spread of at least one time.
    pub(super) fn of(times: &[f64]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = [(sorted.len() - 1) / 2, sorted.len() / 2].map(|i| sorted[i]);
        let median = (middle[0] + middle[1]) / 2.0;
        Self { median, min: sorted[0], max: sorted[sorted.len() - 1], runs: sorted.len() }
    }

    /// The spread of one of `parts` equal parts.
    pub(super) fn divided(self, parts: usize) -> Self {
        let part = |ms: f64| ms / parts as f64;
        Self { median: part(self.median), min: part(self.min), max: part(self.max), runs: self.runs }
    }
}

/// Runs `run` at least once and up to `runs` times after warm-ups, less often if that would take
/// too long. Returns the milliseconds and the result of each measured run.
pub(super) async fn measured<T>(runs: usize, mut run: impl AsyncFnMut() -> Result<T>) -> Result<Vec<(f64, T)>> {
    let mut timed = async || {
        let start = Instant::now();
        let value = run().await?;
        Ok((since(start), value))
    };
    let mut measured = Vec::new();
    let began = Instant::now();
    for _ in 0..WARM_UPS {
        let (ms, value) = timed().await?;
        if ms > COUNTED_WARM_UP_MS {
            measured.push((ms, value));
        }
        if ms > LAST_WARM_UP_MS {
            break;
        }
    }
    while measured.is_empty() || (measured.len() < runs && since(began) < MAX_MS) {
        measured.push(timed().await?);
    }
    Ok(measured)
}

/// The milliseconds of `run`.
pub(super) async fn since_start(run: impl AsyncFnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    run().await?;
    Ok(since(start))
}

/// The spread of [`measured`].
pub(super) async fn timed(runs: usize, run: impl AsyncFnMut() -> Result<()>) -> Result<Spread> {
    let times: Vec<f64> = measured(runs, run).await?.into_iter().map(|(ms, ())| ms).collect();
    Ok(Spread::of(&times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_median_and_ends() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0, runs: 3 });
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 9.0]).median, 3.0);
        assert_eq!(Spread::of(&[5.0]), Spread { median: 5.0, min: 5.0, max: 5.0, runs: 1 });
        assert_eq!(Spread::of(&[4.0, 8.0]).divided(2), Spread { median: 3.0, min: 2.0, max: 4.0, runs: 2 });
    }

    #[test]
    fn warm_ups_are_not_measured() {
        let mut calls = 0;
        let run = async || {
            calls += 1;
            Ok(calls)
        };
        let measured = pollster::block_on(measured(3, run)).unwrap();
        assert_eq!(measured.iter().map(|(_, call)| *call).collect::<Vec<_>>(), [3, 4, 5]);
    }
}
