//! What a user waits for: the binary, from process start to the picture of the embedded default on disk, 256×256 at 8
//! steps. `cargo bench --bench process` prints the median, fastest and slowest of several runs and the largest resident
//! size, and fails when a bar is missed.
#![allow(missing_docs)]

use std::process::{Command, ExitCode};
use std::time::Instant;

const RUNS: usize = 7;
/// The bars, on two cores.
const SECONDS: f64 = 5.0;
const MEGABYTES: f64 = 600.0;

fn main() -> ExitCode {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("fox.png");
    let mut seconds = Vec::new();
    for _ in 0..RUNS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zimage"));
        command.args(["generate", "a red fox", "--seed", "7", "--backend", "cpu", "-o"]).arg(&file);
        let start = Instant::now();
        let output = command.output().expect("the binary runs");
        seconds.push(start.elapsed().as_secs_f64());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[RUNS / 2];
    println!(
        "process start to picture: median {median:.2} s, {:.2} to {:.2} s over {RUNS} runs (bar: {SECONDS} s)",
        seconds[0],
        seconds[RUNS - 1]
    );
    let mut met = median <= SECONDS;
    match largest_child() {
        Some(megabytes) => {
            println!("largest resident size: {megabytes:.0} MB (bar: {MEGABYTES} MB)");
            met &= megabytes <= MEGABYTES;
        }
        None => println!("largest resident size: not measured on this system"),
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The largest resident size of the processes started so far, in MB.
#[cfg(target_os = "linux")]
fn largest_child() -> Option<f64> {
    // SAFETY: `rusage` is plain numbers, for which zeros are valid, and getrusage fills it through a valid pointer.
    let kilobytes = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) == 0).then_some(usage.ru_maxrss)
    };
    kilobytes.map(|kilobytes| kilobytes as f64 * 1024.0 / 1e6)
}

#[cfg(not(target_os = "linux"))]
fn largest_child() -> Option<f64> {
    None
}
