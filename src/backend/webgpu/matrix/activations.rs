//! F16 activations with a scale: the operands of F16 products.

use crate::backend::webgpu::driver::variant::Reduction;
use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::{Program, wgsl};
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a workgroup.
const THREADS: usize = 256;
/// Vectors of four values that one thread converts at least.
const VECTORS: usize = 8;
/// Vectors of four in front of the values: see `input_half.wgsl`.
const HEADER_VECTORS: usize = 4;

/// One pass of the conversion: the search for the largest magnitude, or the conversion.
fn program(reduction: Reduction, converts: bool, aligned: bool) -> Program {
    let input = if aligned { wgsl!("input_vec4") } else { wgsl!("input_scalar") };
    let program = Program::new("narrow", &[wgsl!("common"), input, wgsl!("narrow")]).with("NARROW", converts);
    program.reduces(reduction, THREADS, THREADS)
}

impl Gpu {
    /// `tensor` in F16 with its scale, as rows of `row` values with zeros up to `padded`, a
    /// multiple of four.
    pub(crate) fn to_f16(&self, tensor: &WebGpuTensor, row: usize, padded: usize) -> Result<WebGpuTensor> {
        let rows = tensor.len() / row.max(1);
        let k4 = padded / 4;
        let parts = (rows * k4).div_ceil(THREADS * VECTORS).min(THREADS);
        let found = self.output("narrow", &[parts], DType::U32)?;
        let out = self.output("narrow", &[4 * (HEADER_VECTORS + rows * k4)], DType::F16)?;
        let args = [Binding::from(tensor), Binding::from(&found), Binding::from(&out)];
        let parameters = [rows, row, k4, parts].map(|value| value as u32).to_vec();
        let pass = |converts| program(self.device.variant.reduction(), converts, row.is_multiple_of(4));
        self.dispatch(&pass(false), &args, parameters.clone(), parts)?;
        let groups = (rows * k4).div_ceil(THREADS * VECTORS);
        self.dispatch(&pass(true), &args, parameters, groups)?;
        Ok(out)
    }
}

/// Every program of this file.
pub(crate) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for reduction in Reduction::ALL {
        for (converts, aligned) in [(false, false), (false, true), (true, false), (true, true)] {
            programs.push(program(reduction, converts, aligned));
        }
    }
    programs
}
