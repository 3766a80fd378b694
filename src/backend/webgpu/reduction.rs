//! How a workgroup brings its threads' values together.

use super::program::{Program, wgsl};

/// What provides `reduced` and the entry point of a verb that reduces: the sums of norms, the largest of an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reduction {
    /// A tree in workgroup memory, with a barrier at each of its levels.
    Tree,
    /// Subgroup operations, and one pass through workgroup memory across subgroups of whatever size.
    Subgroups,
}

impl Reduction {
    /// Both.
    pub(super) const ALL: [Reduction; 2] = [Reduction::Tree, Reduction::Subgroups];

    /// Puts the reduction's file and constants to `program`: workgroups of `threads`, of which teams of `team` neighbours
    /// reduce among themselves. Only a whole workgroup uses subgroups: where a smaller team meets them is not known.
    pub(super) fn finish(self, program: Program, threads: usize, team: usize) -> Program {
        let program = program.with("THREADS", threads).with("TEAM", team);
        match self {
            Reduction::Subgroups if team == threads => program.file(wgsl!("reduce_subgroups")),
            _ => program.file(wgsl!("reduce_tree")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::adapters::Adapters;
    use super::super::gpu::Gpu;
    use super::super::tensor::WebGpuTensor;
    use super::super::variant::{Shaders, Variant};
    use super::super::{Branch, Heads, QkNormRope, RmsNorm, attention, guide_and_step, norms};
    use super::*;
    use crate::backend::RopePairs;
    use crate::conformance::noise;
    use crate::tensor::HostTensor;
    use pollster::block_on;
    use std::io::Write;

    fn open() -> Option<Gpu> {
        let skip = |error| writeln!(std::io::stderr(), "skipped: webgpu: {error}");
        block_on(Gpu::open(Adapters::Any, Shaders::Half, u64::MAX)).map_err(skip).ok()
    }

    /// What every verb that reduces returns with the present variant.
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
            if gpu.device.variant.halves() {
                keep(format!("narrow of {width}"), &gpu.narrow(&y, width, width.next_multiple_of(8)).unwrap());
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

    fn same_by_both() -> bool {
        let Some(mut gpu) = open() else { return false };
        if gpu.device.variant.reduction() == Reduction::Tree {
            let _ = writeln!(std::io::stderr(), "skipped: webgpu: {} has no subgroup operations", gpu.device.info.name);
            return false;
        }
        let [tree, subgroups] = Reduction::ALL.map(|reduction| {
            gpu.device.variant = Variant::Half(reduction);
            reduced(&gpu)
        });
        for ((name, tree), (_, subgroups)) in tree.iter().zip(&subgroups) {
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let error = norm(&mut tree.iter().zip(subgroups).map(|(a, b)| a - b)) / norm(&mut tree.iter().copied());
            // The order of a sum costs its last digit; the largest has no order.
            let most = if name.starts_with("narrow") { 0.0 } else { 1e-6 };
            assert!(error <= most, "{name}: {error:e}");
        }
        true
    }

    /// Mesa's software Vulkan has subgroups of the size of the processor's vectors, and reads which to use when a process
    /// opens it.
    #[test]
    fn a_tree_and_subgroups_of_any_size_find_the_same() {
        const WIDTH: &str = "LP_NATIVE_VECTOR_WIDTH";
        if !same_by_both() || std::env::var_os(WIDTH).is_some() {
            return;
        }
        let test = "backend::webgpu::reduction::tests::a_tree_and_subgroups_of_any_size_find_the_same";
        for width in ["128", "256", "512"] {
            let this = std::env::current_exe().unwrap();
            let child = std::process::Command::new(this).arg("--exact").arg(test).env(WIDTH, width).output().unwrap();
            let said = String::from_utf8_lossy(&child.stdout);
            let passed = child.status.success() && said.contains("1 passed");
            assert!(passed, "{width} bits: {said}{}", String::from_utf8_lossy(&child.stderr));
        }
    }
}
