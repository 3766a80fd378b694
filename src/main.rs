//! The `zimage` program: text-to-image with Z-Image from the command line.

mod cli;

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    cli::run(Instant::now())
}
