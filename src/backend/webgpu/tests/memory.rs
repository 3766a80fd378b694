//! Reuse of memory, memory that runs out, and lost devices.

use super::{open, run_alone, skip};
use crate::backend::webgpu::driver::variant::Shaders;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::matrix::f16;
use crate::backend::webgpu::matrix::stored::Stored;
use crate::backend::webgpu::matrix::upload::MatrixUpload;
use crate::backend::webgpu::memory::allocate::{Place, Request};
use crate::backend::webgpu::memory::pool::Memory;
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::error::{Error, MemoryKind, Result};
use crate::tensor::{DType, HostTensor};
use pollster::block_on;
use std::process::Command;

fn upload(gpu: &Gpu) -> Result<WebGpuTensor> {
    gpu.upload_tensor("upload", &HostTensor::from_f32(&[3], &[1.0, 2.0, 3.0]))
}

#[test]
fn a_lost_device_fails_every_call() {
    let Some(gpu) = open(Shaders::Best) else { return };
    let tensor = upload(&gpu).unwrap();
    gpu.device.device.destroy();
    // wgpu reports the loss during the next poll.
    let _ = gpu.device.poll(None);
    let gone = |error: Error| {
        let sentence = error.to_string();
        assert!(
            matches!(error, Error::Lost(_)) && sentence == "the GPU is gone, please start again: it was closed",
            "{sentence}"
        );
    };
    for _ in 0..2 {
        gone(upload(&gpu).unwrap_err());
        gone(block_on(gpu.download(&tensor)).unwrap_err());
        gone(gpu.output("test", &[4], DType::F32).unwrap_err());
        gone(gpu.event().unwrap_err());
    }
    let other = open(Shaders::Best).unwrap();
    assert_eq!(block_on(other.download(&upload(&other).unwrap())).unwrap().to_f32(), [1.0, 2.0, 3.0]);
}

#[test]
fn cached_buffers_never_raise_the_peak() {
    let Some(gpu) = open(Shaders::Best) else { return };
    let mebibytes = |n: usize| gpu.output("test", &[n << 18], DType::F32).unwrap();
    let of = |tensor: &WebGpuTensor| tensor.memory().buffer().clone();
    let first = upload(&gpu).unwrap();
    // The first stage takes 4 + 16 MiB.
    let small = of(&mebibytes(4));
    let large = of(&mebibytes(16));
    gpu.pool.end_stage();
    let peak = gpu.pool.peak();
    assert!((20 << 20..21 << 20).contains(&peak), "{peak} bytes in two large buffers and a few small ones");
    assert_eq!(of(&mebibytes(4)), small, "a cached buffer that fits is reused");
    gpu.pool.end_stage();
    let instead = mebibytes(6);
    assert_eq!(of(&instead), large, "a larger cached buffer is reused before the peak rises");
    drop(instead);
    assert_eq!(gpu.pool.peak(), peak);
    gpu.pool.end_stage();
    // No cached buffer is large enough, so both are freed.
    drop(mebibytes(20));
    assert!(gpu.pool.peak() < peak + (1 << 20), "{} bytes", gpu.pool.peak());
    assert!(gpu.pool.take(4 << 20).is_none() && gpu.pool.take(14 << 20).is_none());
    // An upload has a buffer of its own, and cached buffers are freed for it too.
    gpu.pool.end_stage();
    let peak = gpu.pool.peak();
    let uploaded = gpu.upload_tensor("upload", &HostTensor::from_f32(&[4 << 18], &vec![1.0; 4 << 18])).unwrap();
    assert_eq!(gpu.pool.peak(), peak);
    assert!(gpu.pool.take(20 << 20).is_none(), "the cached buffer is freed");
    // Free buffers of the current stage stay.
    drop(mebibytes(8));
    drop(mebibytes(32));
    assert!(gpu.pool.take(8 << 20).is_some() && gpu.pool.take(32 << 20).is_some());
    assert_eq!(block_on(gpu.download(&uploaded)).unwrap().to_f32()[(4 << 18) - 1], 1.0);
    assert_eq!(block_on(gpu.download(&first)).unwrap().to_f32(), [1.0, 2.0, 3.0]);
}

#[test]
fn a_limit_frees_buffers_and_is_then_an_error() {
    let Some(gpu) = open(Shaders::Best) else { return };
    assert_eq!(gpu.pool.left(), None);
    let tensor = upload(&gpu).unwrap();
    let mebibytes = |n: usize| gpu.output("linear", &[n << 18], DType::F32);
    let limit = 20 << 20;
    gpu.pool.limit(limit);
    let left = gpu.pool.left().unwrap();
    assert!((19 << 20..20 << 20).contains(&left), "{left}");
    let held = mebibytes(4).unwrap();
    assert_eq!(gpu.pool.left(), Some(left - (4 << 20)));
    // A free buffer and a cached one are freed for a larger one.
    drop(mebibytes(3).unwrap());
    gpu.pool.end_stage();
    drop(mebibytes(10).unwrap());
    assert_eq!(gpu.pool.left(), Some(left - (4 << 20)), "free buffers count as left");
    let large = mebibytes(15).unwrap();
    let full = mebibytes(1).unwrap_err();
    let sentence = full.to_string();
    assert!(matches!(full, Error::OutOfMemory { memory: MemoryKind::Activations, .. }), "{sentence}");
    assert!(sentence.starts_with("linear: the limit of 20.0 MiB on "), "{sentence}");
    assert!(sentence.ends_with(" has no room left for a tensor of shape [262144] (1.0 MiB)"), "{sentence}");
    let values = vec![1.0; 1 << 20];
    let full = gpu.upload_tensor("upload", &HostTensor::from_f32(&[1 << 20], &values)).unwrap_err();
    assert!(matches!(full, Error::OutOfMemory { memory: MemoryKind::Weights, .. }), "{full}");
    // Work goes on, also in a recording, and the peak is within the limit.
    drop(large);
    let recording = gpu.record(|| mebibytes(12).map(drop)).unwrap();
    assert!(gpu.record(|| mebibytes(8).map(drop)).is_err(), "the first recording holds its memory");
    drop(recording);
    gpu.record(|| mebibytes(8).map(drop)).unwrap();
    drop(held);
    assert_eq!(block_on(gpu.download(&tensor)).unwrap().to_f32(), [1.0, 2.0, 3.0]);
    assert!(gpu.pool.peak() <= limit, "{}", gpu.pool.peak());
}

#[test]
fn the_f32_copy_of_a_matrix_is_freed() {
    let Some(gpu) = open(Shaders::Best) else { return };
    let rows = 1 << 10;
    let width = 1 << 10;
    let base = gpu.pool.peak();
    let mut upload = MatrixUpload::new(&gpu, "test", Stored::F32, [rows, width], 1, Place::Device).unwrap();
    upload.write(0, 0, &HostTensor::from_f32(&[rows, width], &vec![1.0; rows * width])).unwrap();
    let piece = upload.written().unwrap().remove(0);
    let f32s = piece.memory.buffer().clone();
    let converted = f16::convert(&gpu, "test", Stored::F32, width, piece, 0).unwrap();
    assert_eq!((f32s.size(), converted.bytes), (4 << 20, 2 << 20));
    assert_eq!(gpu.pool.peak(), base + (6 << 20));
    // The F32 buffer is not reused, and it no longer counts.
    let instead = gpu.output("test", &[rows, width], DType::F32).unwrap();
    assert_ne!(*instead.memory().buffer(), f32s);
    assert_eq!(gpu.pool.peak(), base + (6 << 20));
}

/// Software Vulkan uses the process's memory, which a limit of the shell bounds.
#[cfg(target_os = "linux")]
#[test]
fn the_device_survives_running_out_of_memory() {
    const LIMITED: &str = "ZIMAGE_TEST_IN_LITTLE_MEMORY";
    let Some(gpu) = open(Shaders::Best) else { return };
    if std::env::var_os(LIMITED).is_none() {
        if gpu.device.info.device_type != wgpu::DeviceType::Cpu {
            skip(&format!("the memory of {} has no limit", gpu.device.info.name));
            return;
        }
        let mut limited = Command::new("sh");
        limited.arg("-c").arg("ulimit -v 5000000 && exec \"$0\" \"$@\"").arg(std::env::current_exe().unwrap());
        limited.env(LIMITED, "");
        run_alone(limited);
        return;
    }
    let tensor = upload(&gpu).unwrap();
    let bytes = 1 << 30;
    let conv2d =
        Request { op: "conv2d", shape: &[1, 512, 512, 1024], bytes, mapped: false, memory: MemoryKind::Activations };
    let mut buffers = Vec::new();
    let full = loop {
        match gpu.allocate(conv2d) {
            Ok(buffer) => buffers.push(buffer),
            Err(error) => break error,
        }
        assert!(buffers.len() < 5, "5 GB have room for 5 GiB");
    };
    let sentence = full.to_string();
    assert!(
        matches!(full, Error::OutOfMemory { memory: MemoryKind::Activations, .. }) && !buffers.is_empty(),
        "{sentence}"
    );
    let end = "has no memory left for a tensor of shape [1, 512, 512, 1024] (1024.0 MiB)";
    assert!(sentence.starts_with("conv2d: ") && sentence.ends_with(end), "{sentence}");
    // Work goes on, and free buffers are freed for a new one.
    assert_eq!(block_on(gpu.download(&tensor)).unwrap().to_f32(), [1.0, 2.0, 3.0]);
    let pooled: Vec<_> = buffers.drain(..).map(|buffer| Memory::new(buffer, &gpu.pool)).collect();
    drop(pooled);
    gpu.allocate(conv2d).unwrap();
    assert!(gpu.pool.take(bytes).is_none(), "the pool was not emptied");
    gpu.device.faults.check().unwrap();
}
