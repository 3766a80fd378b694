//! The clock: how often something runs, and what its times are.

use crate::error::Result;
use crate::pipeline::progress::since;
use serde::Serialize;
use web_time::Instant;

/// Runs that only warm up, unless they are slow.
const WARM_UPS: usize = 2;
/// A warm-up that takes longer than this is the last one, in milliseconds.
const SLOW: f64 = 3e3;
/// A warm-up that takes longer than this counts as a run, in milliseconds.
const TOO_SLOW: f64 = 30e3;
/// No further runs begin after this, in milliseconds.
const ENOUGH: f64 = 45e3;

/// Times of several runs, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The shortest.
    pub min: f64,
    /// The longest.
    pub max: f64,
    /// How many there were.
    pub runs: usize,
}

impl Spread {
    /// Of at least one time.
    pub(super) fn of(times: &[f64]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = [(sorted.len() - 1) / 2, sorted.len() / 2].map(|i| sorted[i]);
        let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
        Self { median: (middle[0] + middle[1]) / 2.0, min, max, runs: sorted.len() }
    }

    /// Of one of so many equal parts.
    pub(super) fn divided(self, parts: usize) -> Self {
        let part = |ms: f64| ms / parts as f64;
        Self { median: part(self.median), min: part(self.min), max: part(self.max), runs: self.runs }
    }
}

/// Runs `run` up to `runs` times after warming up, fewer times where that would take too long, but once at least; returns
/// what each measured run returned.
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
        if ms > TOO_SLOW {
            measured.push((ms, value));
        }
        if ms > SLOW {
            break;
        }
    }
    while measured.is_empty() || (measured.len() < runs && since(began) < ENOUGH) {
        measured.push(timed().await?);
    }
    Ok(measured)
}

/// Milliseconds that `run` takes.
pub(super) async fn since_start(run: impl AsyncFnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    run().await?;
    Ok(since(start))
}

/// The times of [`measured`].
pub(super) async fn timed(runs: usize, run: impl AsyncFnMut() -> Result<()>) -> Result<Spread> {
    let times: Vec<f64> = measured(runs, run).await?.into_iter().map(|(ms, ())| ms).collect();
    Ok(Spread::of(&times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_middle_and_both_ends() {
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
