//! `modulation`: the adaLN linears of every block at once.

use super::linear::CpuLinear;
use super::simd::silu;
use super::{Cpu, CpuTensor};
use crate::backend::{ModulationArgs, ModulationOp};
use crate::error::Result;
use crate::reserve;

impl ModulationOp for Cpu {
    fn run_modulation(&self, args: ModulationArgs<'_, CpuTensor, CpuLinear>, shape: [usize; 3]) -> Result<CpuTensor> {
        let w = args.w.clone();
        let silu = args.silu;
        self.fill(&shape, [args.t], move |[t], out| modulation(&t.f32()?, &w, silu, out))
    }
}

/// `W·a + b` with `a = t`, or `SiLU(t)` when `activate`.
fn modulation(t: &[f32], w: &CpuLinear, activate: bool, out: &mut [f32]) -> Result<()> {
    if !activate {
        return w.apply(t, out);
    }
    let mut activated = reserve::copied(t, "a modulation")?;
    activated.iter_mut().for_each(|t| *t = silu(*t));
    w.apply(&activated, out)
}
