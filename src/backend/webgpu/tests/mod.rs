//! Tests of the layers below the ops on an adapter of this machine.

mod f16;
mod memory;
mod quantized;
mod reduction;
mod shaders;
mod streaming;

use super::driver::adapters::Adapters;
use super::driver::variant::Shaders;
use super::launch::gpu::Gpu;
use pollster::block_on;
use std::io::Write;
use std::process::Command;

/// A device; `None`, with a line that says why, where this machine has no adapter for `shaders`.
fn open(shaders: Shaders) -> Option<Gpu> {
    block_on(Gpu::open(Adapters::Any, shaders, u64::MAX)).map_err(|error| skip(&error.to_string())).ok()
}

/// Says why a test did not run.
fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: webgpu: {reason}");
}

/// Runs the current test alone in a process of its own, started by `command`.
fn run_alone(mut command: Command) {
    let thread = std::thread::current();
    let child = command.arg("--exact").arg(thread.name().unwrap()).output().unwrap();
    let stdout = String::from_utf8_lossy(&child.stdout);
    let stderr = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && stdout.contains("1 passed"), "{command:?}: {stdout}{stderr}");
}
