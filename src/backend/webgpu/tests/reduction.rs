//! Reductions by a tree and by subgroup operations.

use super::{open, run_alone, skip};
use crate::backend::webgpu::driver::variant::{Reduction, Shaders, Variant};
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::backend::webgpu::ops::{attention, guide_and_step, residual_norm as norms};
use crate::backend::{Branch, Heads, QkNormRope, RmsNorm, RopePairs};
use crate::conformance::noise;
use crate::tensor::HostTensor;
use pollster::block_on;
use std::process::Command;

/// The results of every op that reduces, with the current variant.
fn reduced(gpu: &Gpu) -> Vec<(String, Vec<f32>)> {
    let mut seed = 0;
    let mut tensor = |shape: &[usize], scale: f32| {
        seed += 1;
        let values: Vec<f32> = noise(seed, shape.iter().product()).iter().map(|v| v * scale).collect();
        gpu.upload_tensor("upload", &HostTensor::from_f32(shape, &values)).unwrap()
    };
    let mut found = Vec::new();
    let mut keep = |name: String, out: &WebGpuTensor| {
        found.push((name, block_on(gpu.download(out)).unwrap().to_f32()));
    };
    for width in [5, 100, 3840] {
        let (x, y) = (tensor(&[1, 3, width], 1e4), tensor(&[1, 3, width], 1e4));
        let (norm, weight) = (tensor(&[width], 1.0), tensor(&[width], 1.0));
        let branch = Branch { y: &y, norm: Some(&norm), gate: None, eps: 1e-5 };
        let norm = RmsNorm { weight: &weight, scale: None, eps: 1e-5 };
        let out = norms::residual_norm(gpu, "residual_norm", &x, Some(branch), Some(norm)).unwrap();
        keep(format!("residual_norm of {width}"), &out.unwrap());
        keep(format!("residual of {width}"), &x);
        if gpu.device.variant.f16() {
            keep(format!("to_f16 of {width}"), &gpu.to_f16(&y, width, width.next_multiple_of(8)).unwrap());
        }
    }
    let mut qkv = tensor(&[1, 3, 4 * 128], 1e4);
    let (norm, rotation) = (tensor(&[128], 1.0), tensor(&[1, 3, 64, 2], 1.0));
    let how =
        QkNormRope { q_norm: &norm, k_norm: &norm, eps: 1e-5, rotation: &rotation, pairs: RopePairs::Interleaved };
    attention::qk_norm_rope(gpu, &mut qkv, Heads { query: 2, key_value: 1, dim: 128 }, how).unwrap();
    keep("qk_norm_rope".into(), &qkv);
    let (x, weight, bias) = (tensor(&[1, 70, 70, 8], 1e2), tensor(&[8], 1.0), tensor(&[8], 1.0));
    keep("group_norm".into(), &norms::group_norm(gpu, &x, &weight, &bias, 2, 1e-6, false).unwrap());
    let (mut latents, prediction) = (tensor(&[1, 4, 33, 33], 1.0), tensor(&[2, 4, 33, 33], 1.0));
    let table = gpu.upload_tensor("upload", &HostTensor::from_f32(&[1, 3], &[-0.1, 4.0, 1.0])).unwrap();
    let mut step = gpu.upload_tensor("upload", &HostTensor::from_u32(&[1], &[0])).unwrap();
    guide_and_step::guide_and_step(gpu, &mut latents, &prediction, &table, &mut step).unwrap();
    keep("guide_and_step".into(), &latents);
    found
}

fn compare_reductions(mut gpu: Gpu) {
    let [tree, subgroups] = Reduction::ALL.map(|reduction| {
        gpu.device.variant = Variant::Half(reduction);
        reduced(&gpu)
    });
    for ((name, tree), (_, subgroups)) in tree.iter().zip(&subgroups) {
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let error = norm(&mut tree.iter().zip(subgroups).map(|(a, b)| a - b)) / norm(&mut tree.iter().copied());
        // The order of a sum changes its last digit; a maximum does not depend on the order.
        let tolerance = if name.starts_with("to_f16") { 0.0 } else { 1e-6 };
        assert!(error <= tolerance, "{name}: {error:e}");
    }
}

/// Mesa's software Vulkan has subgroups as wide as the processor's vectors. It reads the width when
/// a process opens it.
#[test]
fn trees_and_subgroups_reduce_alike() {
    const WIDTH: &str = "LP_NATIVE_VECTOR_WIDTH";
    let Some(gpu) = open(Shaders::Half) else { return };
    if gpu.device.variant.reduction() == Reduction::Tree {
        return skip(&format!("{} has no subgroup operations", gpu.device.info.name));
    }
    compare_reductions(gpu);
    if std::env::var_os(WIDTH).is_some() {
        return;
    }
    for width in ["128", "256", "512"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(WIDTH, width);
        run_alone(command);
    }
}
