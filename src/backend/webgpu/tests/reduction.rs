//! Reductions by a tree and by subgroup operations.

use super::{open, run_alone, skip};
use crate::backend::webgpu::driver::variant::{Reduction, Shaders, Variant};
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::backend::webgpu::{Runtime, WebGpu};
use crate::backend::{
    Branch, GroupNormOp, Heads, QkNormRope, QkNormRopeOp, ResidualNormOp, RmsNorm, RopePairs, SamplerRow, SamplerState,
    SamplerStepOp,
};
use crate::numbers::noise;
use crate::tensor::{Compute, HostTensor};
use pollster::block_on;
use std::process::Command;

/// A result by name.
type Found = (String, Vec<f32>);

/// The results of every op that reduces, with the current variant.
fn reduced(b: &WebGpu) -> Vec<Found> {
    let mut seed = 0;
    let mut tensor = |shape: &[usize], scale: f32| {
        seed += 1;
        let values: Vec<f32> = noise(seed, shape.iter().product()).iter().map(|v| v * scale).collect();
        b.upload(&HostTensor::from_f32(shape, &values)).unwrap()
    };
    let mut found: Vec<Found> = Vec::new();
    let mut keep = |name: String, out: &WebGpuTensor| {
        found.push((name, block_on(b.download(out)).unwrap().to_f32()));
    };
    for width in [5, 100, 3840] {
        let mut x = tensor(&[1, 3, width], 1e4);
        let y = tensor(&[1, 3, width], 1e4);
        let branch_norm = tensor(&[width], 1.0);
        let weight = tensor(&[width], 1.0);
        let branch = Branch { y: &y, norm: Some(&branch_norm), gate: None, eps: 1e-5 };
        let norm = RmsNorm { weight: &weight, scale: None, eps: 1e-5, output: Compute::Native };
        let out = b.residual_norm(&mut x, branch, norm).unwrap();
        keep(format!("residual_norm of {width}"), &out);
        keep(format!("residual of {width}"), &x);
        keep(format!("to_f16 of {width}"), &b.0.to_f16(&y, width, width.next_multiple_of(8)).unwrap());
    }
    let mut qkv = tensor(&[1, 3, 4 * 128], 1e4);
    let norm = tensor(&[128], 1.0);
    let rotation = tensor(&[1, 3, 64, 2], 1.0);
    let how =
        QkNormRope { q_norm: &norm, k_norm: &norm, eps: 1e-5, rotation: &rotation, pairs: RopePairs::Interleaved };
    b.qk_norm_rope(&mut qkv, Heads { query: 2, key_value: 1, dim: 128 }, how).unwrap();
    keep("qk_norm_rope".into(), &qkv);
    let x = tensor(&[1, 70, 70, 8], 1e2);
    let weight = tensor(&[8], 1.0);
    let bias = tensor(&[8], 1.0);
    keep("group_norm".into(), &b.group_norm(&x, &weight, &bias, 2, 1e-6, false).unwrap());
    let mut latents = tensor(&[1, 4, 33, 33], 1.0);
    let prediction = tensor(&[2, 4, 33, 33], 1.0);
    let table = b.upload(&HostTensor::from_f32(&[1, 7], &SamplerRow::euler(-0.1, 4.0, 1.0).values())).unwrap();
    let mut step = b.upload(&HostTensor::from_u32(&[1], &[0])).unwrap();
    let sampler = SamplerState { table: &table, history: None, noise: None };
    b.sampler_step(&mut latents, &prediction, sampler, &mut step).unwrap();
    keep("sampler_step".into(), &latents);
    found
}

fn compare_reductions(mut b: WebGpu) {
    let [tree, subgroups] = Reduction::ALL.map(|reduction| {
        b.0.device.variant = Variant::Half(reduction);
        reduced(&b)
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
    compare_reductions(WebGpu(gpu));
    if std::env::var_os(WIDTH).is_some() {
        return;
    }
    for width in ["128", "256", "512"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(WIDTH, width);
        run_alone(command);
    }
}
