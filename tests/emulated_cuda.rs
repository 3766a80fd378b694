//! The emulated CUDA against its own cases: kernels with known answers, and a wrong one for everything that it catches.

#[path = "support/emulated_cuda.rs"]
mod emulated_cuda;

use std::path::Path;
use std::process::Command;

#[test]
fn the_emulation_is_right_and_catches_what_is_wrong() {
    let Some(folder) = emulated_cuda::built() else { return };
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulated_cuda/selftest.cu");
    let out = Command::new(folder.join("selftest")).arg(kernels).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    assert!(said.lines().filter(|line| line.starts_with("ok: ")).count() > 30, "{said}");
}
