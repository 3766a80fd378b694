//! The `cpu` backend when the system denies memory: every op that allocates returns an error.
//!
//! The limit applies to a whole process, so the test runs itself again in a process of its own.
#![cfg(target_os = "linux")]

use pollster::block_on;
use std::process::Command;
use zimage::Error;
use zimage::backend::cpu::Cpu;
use zimage::backend::*;
use zimage::tensor::{Compute, DType, HostTensor};

/// The variable that marks a process as running under the limit.
const INSIDE: &str = "ZIMAGE_TEST_OUT_OF_MEMORY";

/// Limits the address space of this process to `more` bytes above its current size.
fn limit(more: u64) {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').next().unwrap().parse().unwrap();
    // SAFETY: the call reads the limit, which outlives it.
    unsafe {
        let bytes = pages * libc::sysconf(libc::_SC_PAGESIZE) as u64 + more;
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &limit), 0);
    }
}

fn halves(shape: &[usize]) -> HostTensor {
    HostTensor::new(DType::F16, shape, vec![0; 2 * shape.iter().product::<usize>()].into()).unwrap()
}

/// Asserts an out-of-memory error.
#[track_caller]
fn refused<T>(result: Result<T, Error>) {
    match result.map(drop) {
        Err(Error::OutOfMemory { memory: zimage::MemoryKind::Host, problem }) => {
            assert!(problem.starts_with("there is no memory for "), "{problem}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_large_cpu_allocation_can_fail() {
    if std::env::var_os(INSIDE).is_none() {
        let test = "every_large_cpu_allocation_can_fail";
        let mut again = Command::new(std::env::current_exe().unwrap());
        // Freed memory returns to the system, threads have no arenas of their own inside the limit,
        // and a failure's report allocates nothing extra.
        again.envs([("MALLOC_MMAP_THRESHOLD_", "131072"), ("MALLOC_ARENA_MAX", "1"), ("RAYON_NUM_THREADS", "2")]);
        again.env("RUST_BACKTRACE", "0");
        let out = again.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").output().unwrap();
        let said = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(out.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let b = Cpu::new();
    let kernel = halves(&[1024, 1024, 3, 3]);
    let stored = b.upload(&halves(&[1, 1024, 1024, 8])).unwrap();
    let norm = HostTensor::from_f32(&[8], &[1.0; 8]);
    let norm = b.upload(&norm).unwrap();
    let wide = block_on(b.upload_linear(&[halves(&[8, 4 << 20]).into()], &[])).unwrap();
    let x = b.upload(&HostTensor::from_f32(&[1, 1, 4 << 20], &vec![0.0; 4 << 20])).unwrap();
    let pad = b.upload(&HostTensor::from_f32(&[1], &[0.0])).unwrap();
    let narrow = block_on(b.upload_linear(&[halves(&[1, 64]).into()], &[])).unwrap();
    let latents = b.upload(&HostTensor::from_f32(&[1, 16, 1024, 512], &vec![0.0; 8 << 20])).unwrap();
    let many = Heads { query: 1, key_value: 1, dim: 1 };
    let qkv = b.upload(&HostTensor::from_f32(&[1, 1 << 19, 3], &vec![0.0; 3 << 19])).unwrap();
    let picture = b.upload(&HostTensor::from_f32(&[1, 1, 1, 4096], &[0.0; 4096])).unwrap();
    let large = b.upload_conv2d(&HostTensor::from_f32(&[1, 4096, 32, 32], &vec![0.0; 4 << 20]), None).unwrap();
    rayon_is_up(&b, &norm);

    limit(12 << 20);
    refused(b.upload_conv2d(&kernel, None));
    refused(b.group_norm(&stored, &norm, &norm, 8, 1e-5, false));
    refused(b.linear(&x, &wide));
    refused(b.embed_patches(&latents, 2, &narrow, &pad, 512 * 256, 1));
    refused(b.attention(&qkv, many, Mask { causal: false, lengths: None }, Compute::Native));
    refused(b.conv2d(&picture, &large, Conv2d { stride: 1, pad: [16, 16, 15, 15], ..Conv2d::default() }, None));
    refused(b.unscale_latents(&latents, 0..1, 1.0, 0.0));
    let made = b.record(|b| b.unscale_latents(&latents, 0..1, 1.0, 0.0).map(drop));
    refused(made);
    assert_eq!(block_on(b.download(&norm)).unwrap().to_f32(), [1.0; 8], "the backend goes on");
}

/// Starts the pool's threads before memory is limited.
fn rayon_is_up(b: &Cpu, norm: &<Cpu as Runtime>::Tensor) {
    let x = b.upload(&HostTensor::from_f32(&[1, 64, 8], &[1.0; 512])).unwrap();
    let w = block_on(b.upload_linear(&[HostTensor::from_f32(&[8, 8], &[1.0; 64]).into()], &[])).unwrap();
    b.linear(&x, &w).unwrap();
    b.rms_norm(&x, RmsNorm { weight: norm, scale: None, eps: 1e-5, output: Compute::Native }).unwrap();
}
