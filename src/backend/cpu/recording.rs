//! The order of the ops. Each op is a closure over the memory of its tensors, which runs at once or
//! is stored while a recording is made.

use super::Cpu;
use super::parallel::*;
use super::tensor::{CpuTensor, Elements, FreeList};
use crate::backend::Fp8Form;
use crate::error::{Error, Result};
use crate::tensor::{Compute, Fp8Scales};
use std::fmt;
use std::sync::{Arc, MutexGuard, PoisonError};

/// Ops to replay, and their memory.
#[derive(Default)]
pub struct CpuRecording {
    ops: Vec<Box<dyn Fn() -> Result<()> + Send + Sync>>,
    free: Arc<FreeList>,
}

impl CpuRecording {
    /// Runs every op once, up to the first error.
    pub(super) fn run(&self) -> Result<()> {
        self.ops.iter().try_for_each(|op| op())
    }
}

impl fmt::Debug for CpuRecording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuRecording({} ops)", self.ops.len())
    }
}

impl Cpu {
    fn recording(&self) -> MutexGuard<'_, Option<CpuRecording>> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the ops that `steps` calls.
    pub(super) fn recorded(&self, steps: impl FnOnce(&Self) -> Result<()>) -> Result<CpuRecording> {
        self.not_recording("record")?;
        *self.recording() = Some(CpuRecording::default());
        let result = steps(self);
        let recording = self.recording().take().unwrap_or_default();
        result.map(|()| recording)
    }

    /// Rejects a call that cannot be recorded.
    pub(super) fn not_recording(&self, op: &'static str) -> Result<()> {
        match *self.recording() {
            Some(_) => Err(Error::shape(op, "not while a recording is made")),
            None => Ok(()),
        }
    }

    /// A tensor for an op to fill.
    pub(super) fn output(&self, shape: &[usize]) -> Result<CpuTensor> {
        let recording = self.recording();
        CpuTensor::uninit(shape, recording.as_ref().map_or(&self.free, |recording| &recording.free))
    }

    /// Runs an op now, or stores it while a recording is made.
    pub(super) fn run(&self, op: impl Fn() -> Result<()> + Send + Sync + 'static) -> Result<()> {
        if let Some(recording) = &mut *self.recording() {
            recording.ops.push(Box::new(op));
            return Ok(());
        }
        op()
    }

    /// An op that reads `inputs` and fills a new tensor of `shape`.
    pub(super) fn fill<const N: usize>(
        &self,
        shape: &[usize],
        inputs: [&CpuTensor; N],
        op: impl Fn([&Elements; N], &mut [f32]) -> Result<()> + Send + Sync + 'static,
    ) -> Result<CpuTensor> {
        let out = self.output(shape)?;
        self.write(&out, inputs, op)?;
        Ok(out)
    }

    /// As [`Cpu::fill`], a tensor that is the operand of a gemm. In FP8 it is `scaled`.
    pub(super) fn fill_operand<const N: usize>(
        &self,
        (compute, scaled): (Compute, Fp8Scales),
        shape: &[usize],
        inputs: [&CpuTensor; N],
        op: impl Fn([&Elements; N], &mut [f32]) -> Result<()> + Send + Sync + 'static,
    ) -> Result<CpuTensor> {
        if compute == Compute::Native {
            return self.fill(shape, inputs, op);
        }
        let width = shape.last().copied().unwrap_or(1);
        let rounded = self.fill(shape, inputs, move |inputs, out| {
            op(inputs, out)?;
            out.par_chunks_mut(width).for_each(|row| scaled.round(row));
            Ok(())
        })?;
        Ok(rounded.in_fp8(Fp8Form::Operand))
    }

    /// An op that reads `inputs` and changes `target` in place. `target` is not among the inputs.
    pub(super) fn update<const N: usize>(
        &self,
        target: &CpuTensor,
        inputs: [&CpuTensor; N],
        op: impl Fn([&Elements; N], &mut [f32]) -> Result<()> + Send + Sync + 'static,
    ) -> Result<()> {
        self.write(target, inputs, op)
    }

    fn write<const N: usize>(
        &self,
        target: &CpuTensor,
        inputs: [&CpuTensor; N],
        op: impl Fn([&Elements; N], &mut [f32]) -> Result<()> + Send + Sync + 'static,
    ) -> Result<()> {
        let memories = inputs.map(CpuTensor::memory);
        let target = target.memory();
        self.run(move || {
            let guards = memories.each_ref().map(|memory| memory.read());
            op(guards.each_ref().map(|guard| &**guard), target.write().f32_mut()?)
        })
    }
}
