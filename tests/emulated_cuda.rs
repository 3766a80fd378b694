//! The emulated CUDA device itself: kernels with known results, a faulty kernel for every fault
//! that it detects, and an emulated counterpart for every header with PTX.

#[allow(dead_code, reason = "tests/cuda_emulated.rs uses the rest")]
#[path = "support/emulated_cuda.rs"]
mod emulated_cuda;

use std::path::Path;
use std::process::Command;

#[test]
fn emulation_passes_its_selftest() {
    let Some(folder) = emulated_cuda::built() else { return };
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulated_cuda/selftest.cu");
    let out = Command::new(folder.join("selftest")).arg(kernels).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    assert!(said.lines().filter(|line| line.starts_with("ok: ")).count() > 30, "{said}");
}

#[cfg(feature = "cuda")]
#[test]
fn every_ptx_header_has_an_emulation() {
    let twins = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulated_cuda");
    let mut seen = 0;
    for program in zimage::backend::cuda::programs("sm_90a") {
        for file in program.headers().unwrap().into_iter().chain([program.file()]) {
            if file.text.contains("asm(") || file.text.contains("asm volatile(") {
                seen += 1;
                assert!(twins.join(file.name).is_file(), "tests/emulated_cuda/{} is missing", file.name);
            }
        }
    }
    assert!(seen > 100, "only {seen} files with PTX");
}
