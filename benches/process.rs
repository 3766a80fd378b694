//! The binary from process start to the embedded default's picture on disk, in two sizes. `cargo
//! bench --bench process` prints the median, minimum and maximum of several runs and the peak
//! resident size, and fails if a limit is exceeded.
//!
//! The limit applies to CPU time, which other programs on the machine hardly change. Wall-clock
//! time is printed as well and shows how busy the machine is.
#![allow(missing_docs)]

use std::process::{Command, ExitCode};
use std::time::Instant;

const RUNS: usize = 7;
/// The sides of a picture, and the limit of its CPU time in seconds over all cores: two cores for
/// 0.5 s and for 2.5 s.
const SIZES: [(&str, f64); 2] = [("256", 1.0), ("512", 5.0)];
const MEGABYTES: f64 = 600.0;

fn main() -> ExitCode {
    let met = SIZES.map(|(side, bar)| draws(side, bar));
    let Some(Usage { megabytes, .. }) = children() else {
        println!("processor time and largest resident size: not measured on this system");
        return ExitCode::SUCCESS;
    };
    println!("largest resident size: {megabytes:.0} MB (bar: {MEGABYTES} MB)");
    if met == [true; 2] && megabytes <= MEGABYTES { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Draws several pictures. True if the median of their CPU times is within `bar`, or is not
/// measured.
fn draws(side: &str, bar: f64) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("fox.png");
    let mut clock = Vec::new();
    let mut processor = Vec::new();
    for _ in 0..RUNS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zimage"));
        command.args(["generate", "a red fox", "--seed", "7", "--backend", "cpu", "-W", side, "-H", side, "-o"]);
        command.arg(&file);
        let start = Instant::now();
        let before = children();
        let output = command.output().expect("the binary runs");
        clock.push(start.elapsed().as_secs_f64());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        processor.extend(before.zip(children()).map(|(before, after)| after.seconds - before.seconds));
    }
    println!("{side}×{side}, process start to picture, on the clock: {}", spread(&mut clock));
    if processor.is_empty() {
        return true;
    }
    println!("{side}×{side}, processor time: {} (bar: {bar} s)", spread(&mut processor));
    processor[RUNS / 2] <= bar
}

/// The median, minimum and maximum, in seconds; sorts the times.
fn spread(seconds: &mut [f64]) -> String {
    seconds.sort_by(f64::total_cmp);
    let median = seconds[RUNS / 2];
    let last = seconds[RUNS - 1];
    format!("median {median:.2} s, {:.2} to {last:.2} s over {RUNS} runs", seconds[0])
}

/// The resource usage of all child processes that have ended.
struct Usage {
    /// CPU time in seconds, over all child processes.
    seconds: f64,
    /// The peak resident size of one process.
    megabytes: f64,
}

#[cfg(target_os = "linux")]
fn children() -> Option<Usage> {
    // SAFETY: `rusage` is plain numbers, for which zeros are valid, and getrusage fills it through
    // a valid pointer.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) == 0).then_some(usage)
    }?;
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Some(Usage {
        seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        megabytes: usage.ru_maxrss as f64 * 1024.0 / 1e6,
    })
}

#[cfg(not(target_os = "linux"))]
fn children() -> Option<Usage> {
    None
}
