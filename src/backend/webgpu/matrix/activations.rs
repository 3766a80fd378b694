//! F16 activations with a scale: the operands of F16 products.

use crate::backend::webgpu::driver::variant::Reduction;
use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::Program;
use crate::backend::webgpu::launch::shader::wgsl;
use crate::backend::webgpu::launch::uniform::uniform;
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a workgroup.
const THREADS: usize = 256;
/// Vectors of four values that one thread converts at least.
const VECTORS: usize = 8;
/// Vectors of four in front of the values: see `shared/input.wgsl`.
const HEADER_VECTORS: usize = 4;

uniform! {
    /// `Params` of `gemm/activations_to_f16.wgsl`.
    struct Params {
        rows: u32,
        k: u32,
        k4: u32,
        parts: u32,
    }
}

/// The two passes of the conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// The search for the largest magnitude.
    Largest,
    Convert,
}

/// A pass over rows of any width, or of a multiple of four (`aligned`).
fn program(reduction: Reduction, pass: Pass, aligned: bool) -> Program {
    let program = Program::new::<Params>("activations_to_f16", wgsl!("gemm/activations_to_f16"))
        .with("CONVERT", pass == Pass::Convert)
        .with("REDUCE_MAX", true)
        .reduces(reduction, THREADS, THREADS);
    if aligned { program } else { program.define("X_SCALAR") }
}

impl Gpu {
    /// `tensor` in F16 with its scale, as rows of `row` values with zeros up to `padded`, a
    /// multiple of four.
    pub(crate) fn to_f16(&self, tensor: &WebGpuTensor, row: usize, padded: usize) -> Result<WebGpuTensor> {
        let rows = tensor.len() / row.max(1);
        let k4 = padded / 4;
        let parts = (rows * k4).div_ceil(THREADS * VECTORS).min(THREADS);
        let op = "activations_to_f16";
        let found = self.output(op, &[parts], DType::U32)?;
        let out = self.output(op, &[4 * (HEADER_VECTORS + rows * k4)], DType::F16)?;
        let bindings = [Binding::from(tensor), Binding::from(&found), Binding::from(&out)];
        let params = Params { rows: rows as u32, k: row as u32, k4: k4 as u32, parts: parts as u32 };
        let reduction = self.device.variant.reduction();
        let aligned = row.is_multiple_of(4);
        self.dispatch(&program(reduction, Pass::Largest, aligned), &bindings, params, parts)?;
        let groups = (rows * k4).div_ceil(THREADS * VECTORS);
        self.dispatch(&program(reduction, Pass::Convert, aligned), &bindings, params, groups)?;
        Ok(out)
    }
}

/// Every program of this file.
pub(crate) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for reduction in Reduction::ALL {
        for pass in [Pass::Largest, Pass::Convert] {
            programs.extend([false, true].map(|aligned| program(reduction, pass, aligned)));
        }
    }
    programs
}
