//! What happens when memory runs out or the device goes away, and what is kept for reuse.

use super::super::halves;
use super::super::matrix::{Filling, Stored};
use super::*;
use pollster::block_on;
use std::io::Write;

fn open() -> Option<Gpu> {
    let skip = |error| writeln!(std::io::stderr(), "skipped: webgpu: {error}");
    block_on(Gpu::open(Adapters::Any, Shaders::Best, u64::MAX)).map_err(skip).ok()
}

fn upload(gpu: &Gpu) -> Result<WebGpuTensor> {
    gpu.upload_tensor("upload", &HostTensor::from_f32(&[3], &[1.0, 2.0, 3.0]))
}

#[test]
fn a_device_that_is_gone_is_an_error_of_every_call_and_another_can_be_opened() {
    let Some(gpu) = open() else { return };
    let tensor = upload(&gpu).unwrap();
    gpu.device.device.destroy();
    // wgpu tells of the end when the device is looked at next.
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
    let other = open().unwrap();
    assert_eq!(block_on(other.download(&upload(&other).unwrap())).unwrap().to_f32(), [1.0, 2.0, 3.0]);
}

#[test]
fn what_a_stage_leaves_is_used_again_and_gives_way_before_more_is_held_than_ever() {
    let Some(gpu) = open() else { return };
    let mebibytes = |n: usize| gpu.output("test", &[n << 18], DType::F32).unwrap();
    let of = |tensor: &WebGpuTensor| tensor.memory().buffer().clone();
    let kept = upload(&gpu).unwrap();
    // A stage with 4 + 16 MiB, of which the next one wants something else.
    let (small, large) = (of(&mebibytes(4)), of(&mebibytes(16)));
    gpu.trim();
    let peak = gpu.peak_memory();
    assert!((20 << 20..21 << 20).contains(&peak), "{peak} bytes, of two large buffers and a few small ones");
    assert_eq!(of(&mebibytes(4)), small, "what fits is used again");
    gpu.trim();
    let instead = mebibytes(6);
    assert_eq!(of(&instead), large, "rather than more than ever, something larger");
    drop(instead);
    assert_eq!(gpu.peak_memory(), peak);
    gpu.trim();
    // Nothing that was kept is large enough: both buffers give way.
    drop(mebibytes(20));
    assert!(gpu.peak_memory() < peak + (1 << 20), "{} bytes", gpu.peak_memory());
    assert!(gpu.pool.take(4 << 20).is_none() && gpu.pool.take(14 << 20).is_none());
    // An upload has memory of its own, and the same holds for it.
    gpu.trim();
    let peak = gpu.peak_memory();
    let uploaded = gpu.upload_tensor("upload", &HostTensor::from_f32(&[4 << 18], &vec![1.0; 4 << 18])).unwrap();
    assert_eq!(gpu.peak_memory(), peak);
    assert!(gpu.pool.take(20 << 20).is_none(), "it gave way");
    // Within a stage nothing gives way.
    drop(mebibytes(8));
    drop(mebibytes(32));
    assert!(gpu.pool.take(8 << 20).is_some() && gpu.pool.take(32 << 20).is_some());
    assert_eq!(block_on(gpu.download(&uploaded)).unwrap().to_f32()[(4 << 18) - 1], 1.0);
    assert_eq!(block_on(gpu.download(&kept)).unwrap().to_f32(), [1.0, 2.0, 3.0]);
}

#[test]
fn what_was_only_on_the_way_to_halves_is_let_go_of() {
    let Some(gpu) = open() else { return };
    let (rows, width) = (1 << 10, 1 << 10);
    let base = gpu.peak_memory();
    let mut filling = Filling::new(&gpu, "test", Stored::F32, [rows, width], 1).unwrap();
    filling.write(0, 0, &HostTensor::from_f32(&[rows, width], &vec![1.0; rows * width])).unwrap();
    let piece = filling.written().unwrap().remove(0);
    let f32s = piece.memory.buffer().clone();
    let halves = halves::narrow(&gpu, "test", Stored::F32, width, piece, 0).unwrap();
    assert_eq!((f32s.size(), halves.bytes), (4 << 20, 2 << 20));
    assert_eq!(gpu.peak_memory(), base + (6 << 20));
    // Neither is the buffer handed out again, nor does it count any longer.
    let instead = gpu.output("test", &[rows, width], DType::F32).unwrap();
    assert_ne!(*instead.memory().buffer(), f32s);
    assert_eq!(gpu.peak_memory(), base + (6 << 20));
}

/// On an adapter that computes on the processor a process can be given little memory: it runs this test alone in one.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_runs_out_is_named_and_the_device_goes_on() {
    const LIMITED: &str = "ZIMAGE_TEST_IN_LITTLE_MEMORY";
    let Some(gpu) = open() else { return };
    if std::env::var_os(LIMITED).is_none() {
        if gpu.device.info.device_type != wgpu::DeviceType::Cpu {
            let _ = writeln!(std::io::stderr(), "skipped: webgpu: the memory of {} has no limit", gpu.device.info.name);
            return;
        }
        let test = "backend::webgpu::gpu::tests::memory_that_runs_out_is_named_and_the_device_goes_on";
        let limited = "ulimit -v 5000000 && exec \"$0\" --exact \"$1\"";
        let this = std::env::current_exe().unwrap();
        let child =
            std::process::Command::new("sh").arg("-c").arg(limited).arg(this).arg(test).env(LIMITED, "").output();
        let child = child.unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&child.stderr)
        );
        return;
    }
    let tensor = upload(&gpu).unwrap();
    let each = 1 << 30;
    let mut kept = Vec::new();
    let full = loop {
        match gpu.allocate("conv2d", &[1, 512, 512, 1024], each, false, "a smaller one may fit") {
            Ok(buffer) => kept.push(buffer),
            Err(error) => break error,
        }
        assert!(kept.len() < 5, "5 GB have room for 5 GiB");
    };
    let sentence = full.to_string();
    assert!(matches!(full, Error::OutOfMemory(_)) && !kept.is_empty(), "{sentence}");
    let end = "has no memory left for a tensor of shape [1, 512, 512, 1024] (1024.0 MiB); a smaller one may fit";
    assert!(sentence.starts_with("conv2d: ") && sentence.ends_with(end), "{sentence}");
    // Work goes on, and what the pool holds is let go of for something that needs it.
    assert_eq!(block_on(gpu.download(&tensor)).unwrap().to_f32(), [1.0, 2.0, 3.0]);
    let pooled: Vec<_> = kept.drain(..).map(|buffer| Memory::new(buffer, &gpu.pool)).collect();
    drop(pooled);
    gpu.allocate("conv2d", &[1 << 28], each, false, "nothing").unwrap();
    assert!(gpu.pool.take(each).is_none(), "the pool was not emptied");
    gpu.device.faults.check().unwrap();
}
