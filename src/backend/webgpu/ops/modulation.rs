//! `modulation`.

use super::linear::{self, product};
use super::{DType, Program, Result, WebGpu, WebGpuTensor};
use crate::backend::webgpu::gemm::{self, GemmOp};
use crate::backend::webgpu::matrix::WebGpuLinear;
use crate::backend::{ModulationArgs, ModulationOp};

/// The table is small and every block reads it, so F32 costs nothing.
pub(super) const OP: GemmOp = GemmOp { name: "modulation", f16: false, ..linear::OP };

impl ModulationOp for WebGpu {
    fn run_modulation(
        &self,
        args: ModulationArgs<'_, WebGpuTensor, WebGpuLinear>,
        shape: [usize; 3],
    ) -> Result<WebGpuTensor> {
        let out = self.0.output(OP.name, &shape, DType::F32)?;
        product(&self.0, OP, args.t, args.w, args.silu, &out)?;
        Ok(out)
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    let programs = |given| gemm::programs::<()>(OP, given, &[("HAS_BIAS", given), ("SILU", true)]);
    [false, true].map(programs).concat()
}
