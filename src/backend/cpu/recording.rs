//! The order of the verbs: each runs at once, or is kept while a recording is made; either way it is a closure over the
//! memory of its tensors.

use super::super::{DeviceTensor, shapes};
use super::Cpu;
use super::tensor::{CpuTensor, Elements, FreeList};
use crate::error::{Error, Result};
use crate::tensor::DType;
use std::fmt;
use std::sync::{Arc, MutexGuard, PoisonError};

/// Verbs kept for replay, with the memory they work in.
#[derive(Default)]
pub struct CpuRecording {
    verbs: Vec<Box<dyn Fn() -> Result<()> + Send + Sync>>,
    free: Arc<FreeList>,
}

impl CpuRecording {
    /// Runs every verb once more, up to the first that fails.
    pub(super) fn run(&self) -> Result<()> {
        self.verbs.iter().try_for_each(|verb| verb())
    }
}

impl fmt::Debug for CpuRecording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuRecording({} verbs)", self.verbs.len())
    }
}

impl Cpu {
    fn recording(&self) -> MutexGuard<'_, Option<CpuRecording>> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the verbs that `steps` calls.
    pub(super) fn keep(&self, steps: impl FnOnce(&Self) -> Result<()>) -> Result<CpuRecording> {
        self.not_recording("record")?;
        *self.recording() = Some(CpuRecording::default());
        let result = steps(self);
        let recording = self.recording().take().unwrap_or_default();
        result.map(|()| recording)
    }

    /// Refuses what cannot be kept: inside a recording nothing has run yet.
    pub(super) fn not_recording(&self, verb: &'static str) -> Result<()> {
        match *self.recording() {
            Some(_) => Err(Error::shape(verb, "not while a recording is made")),
            None => Ok(()),
        }
    }

    /// A tensor for a verb to fill.
    fn output(&self, shape: &[usize]) -> Result<CpuTensor> {
        CpuTensor::uninit(shape, self.recording().as_ref().map(|recording| &recording.free))
    }

    /// Runs a verb now, or keeps it when a recording is being made.
    pub(super) fn run(&self, verb: impl Fn() -> Result<()> + Send + Sync + 'static) -> Result<()> {
        if let Some(recording) = &mut *self.recording() {
            recording.verbs.push(Box::new(verb));
            return Ok(());
        }
        verb()
    }

    /// A verb that reads `inputs` and fills a new tensor of `shape`.
    pub(super) fn fill<const N: usize>(
        &self,
        shape: &[usize],
        inputs: [&CpuTensor; N],
        verb: impl Fn([&Elements; N], &mut [f32]) -> Result<()> + Send + Sync + 'static,
    ) -> Result<CpuTensor> {
        let out = self.output(shape)?;
        self.write(&out, inputs, verb)?;
        Ok(out)
    }

    /// A verb that reads `inputs` and changes `target` in place.
    pub(super) fn update<const N: usize>(
        &self,
        name: &'static str,
        target: &CpuTensor,
        inputs: [&CpuTensor; N],
        verb: impl Fn([&Elements; N], &mut [f32]) -> Result<()> + Send + Sync + 'static,
    ) -> Result<()> {
        in_place(name, target, &inputs)?;
        self.write(target, inputs, verb)
    }

    fn write<const N: usize>(
        &self,
        target: &CpuTensor,
        inputs: [&CpuTensor; N],
        verb: impl Fn([&Elements; N], &mut [f32]) -> Result<()> + Send + Sync + 'static,
    ) -> Result<()> {
        let memories = inputs.map(CpuTensor::memory);
        let target = target.memory();
        self.run(move || {
            let guards = memories.each_ref().map(|memory| memory.read());
            verb(guards.each_ref().map(|guard| &**guard), target.write().f32_mut()?)
        })
    }
}

/// What a verb changes in place is F32, which it stays, and none of its inputs: a lock taken for reading and for writing
/// by one thread would never open.
pub(super) fn in_place(verb: &'static str, target: &CpuTensor, inputs: &[&CpuTensor]) -> Result<()> {
    shapes::typed(verb, "what it changes in place", target.dtype(), DType::F32)?;
    apart(verb, target, inputs)
}

/// Checks that no input shares the memory of `target`.
pub(super) fn apart(verb: &'static str, target: &CpuTensor, inputs: &[&CpuTensor]) -> Result<()> {
    if inputs.iter().any(|input| input.shares(target)) {
        return Err(Error::shape(verb, format!("the {:?} that it changes in place is also read", target.shape())));
    }
    Ok(())
}
