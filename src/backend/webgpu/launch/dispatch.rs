//! Commands in order: pending, submitted or recorded.

use super::binding::Binding;
use super::gpu::{Gpu, Queue};
use super::program::Program;
use super::recording::{Command, Copy, Dispatch, Prepared, Recorder, Slice, WebGpuRecording, Write};
use super::uniform::Uniform;
use crate::backend::gpu::lock;
use crate::backend::webgpu::memory::allocate::check_size;
use crate::backend::webgpu::memory::pool::Memory;
use crate::error::{Error, Result};
use std::sync::Arc;

/// Most commands that wait for a submission.
const MAX_PENDING: usize = 64;
/// Most workgroups in one dimension of a dispatch.
const MAX_GROUPS: usize = 65_535;

impl Gpu {
    /// A dispatch of `groups ≥ 1` workgroups, split over x and y above [`MAX_GROUPS`]. Shaders take
    /// their index from both.
    fn prepare(&self, program: &Program, bindings: &[Binding], uniform: Vec<u8>, groups: usize) -> Result<Dispatch> {
        let rows = groups.div_ceil(MAX_GROUPS);
        if rows > MAX_GROUPS {
            return Err(Error::Device(format!("{}: {groups} workgroups are more than a GPU takes", program.name)));
        }
        for binding in bindings {
            let limit = self.device.max_binding;
            check_size(&self.device, program.name, format_args!("a tensor"), binding.bytes, limit)?;
        }
        let pipeline = self.pipelines.get(&self.device.device, program.label(), || program.source())?;
        self.device.faults.check()?;
        let groups = [groups.div_ceil(rows) as u32, rows as u32, 1];
        Ok(Dispatch { pipeline, slices: bindings.iter().map(Slice::from).collect(), uniform, groups })
    }

    /// Runs a dispatch on new memory at once, also inside a recording.
    pub(crate) fn run_now<P: Uniform>(
        &self,
        program: &Program,
        bindings: &[Binding],
        params: P,
        groups: usize,
    ) -> Result<()> {
        debug_assert_eq!(program.params, P::FIELDS, "{}", program.name);
        let dispatch = self.prepare(program, bindings, bytemuck::bytes_of(&params).to_vec(), groups)?;
        self.submit(&Prepared::new(&self.device.device, vec![Command::Dispatch(dispatch)]));
        Ok(())
    }

    /// Copies `from` to `to`, which are as large, at once, also inside a recording.
    pub(crate) fn copy_now(&self, from: &Binding, to: &Binding) {
        self.submit(&Prepared::new(&self.device.device, vec![copy(from, to)]));
    }

    /// Appends a dispatch of `groups` workgroups to the recording or to the pending work.
    pub(crate) fn dispatch<P: Uniform>(
        &self,
        program: &Program,
        bindings: &[Binding],
        params: P,
        groups: usize,
    ) -> Result<()> {
        debug_assert_eq!(program.params, P::FIELDS, "{}", program.name);
        self.dispatch_bytes(program, bindings, bytemuck::bytes_of(&params).to_vec(), groups)
    }

    /// [`Gpu::dispatch`] with the bytes of a `Params` that several structs make up.
    pub(crate) fn dispatch_bytes(
        &self,
        program: &Program,
        bindings: &[Binding],
        uniform: Vec<u8>,
        groups: usize,
    ) -> Result<()> {
        if groups == 0 {
            return Ok(());
        }
        let dispatch = self.prepare(program, bindings, uniform, groups)?;
        self.append(Command::Dispatch(dispatch), bindings);
        Ok(())
    }

    /// Appends a copy of `from` to `to`, which are as large, to the recording or to the pending
    /// work.
    pub(crate) fn copy(&self, from: Binding, to: Binding) {
        self.append(copy(&from, &to), &[from, to]);
    }

    /// Appends a write of a weight in pageable memory to the start of `to`.
    pub(crate) fn write_pageable(&self, weight: &Arc<Memory>, to: &Binding) {
        let from = Binding::of(weight, to.bytes);
        let write = Write { from: weight.clone(), to: Slice::from(to) };
        self.append(Command::Write(write), &[from, to.clone()]);
    }

    fn append(&self, command: Command, bindings: &[Binding]) {
        let full = {
            let mut queue = lock(&self.queue);
            if let Some(recorder) = &mut queue.recorder {
                recorder.push(command, bindings);
                return;
            }
            queue.pending.push(command);
            queue.pending.len() >= MAX_PENDING
        };
        if full {
            self.flush();
        }
    }

    /// Submits pending work.
    pub(crate) fn flush(&self) {
        let pending = std::mem::take(&mut lock(&self.queue).pending);
        if !pending.is_empty() {
            self.submit(&Prepared::new(&self.device.device, pending));
        }
    }

    fn submit(&self, prepared: &Prepared) {
        let [last, before_write] = {
            let Queue { last, before_write, .. } = &mut *lock(&self.queue);
            [last.clone(), before_write.take()]
        };
        let [last, before_write] = prepared.submit(&self.device, last, before_write);
        let queue = &mut *lock(&self.queue);
        (queue.last, queue.before_write) = (last, before_write);
    }

    /// Records the ops that `steps` calls instead of running them.
    pub(crate) fn record(&self, steps: impl FnOnce() -> Result<()>) -> Result<WebGpuRecording> {
        {
            let mut queue = lock(&self.queue);
            if queue.recorder.is_some() {
                return Err(Error::shape("record", "recordings do not nest"));
            }
            queue.recorder = Some(Recorder::new(&self.pool));
        }
        let result = steps();
        let recorder = lock(&self.queue).recorder.take();
        result?;
        let Some(Recorder { commands, pool, outside }) = recorder else {
            return Err(Error::internal("record: the recording is gone"));
        };
        let prepared = Prepared::new(&self.device.device, commands);
        self.device.faults.check()?;
        Ok(WebGpuRecording { prepared, _pool: pool, _outside: outside })
    }

    /// Submits a recording.
    pub(crate) fn replay(&self, recording: &WebGpuRecording) -> Result<()> {
        self.flush();
        self.submit(&recording.prepared);
        self.device.faults.check()
    }
}

fn copy(from: &Binding, to: &Binding) -> Command {
    debug_assert_eq!(from.bytes, to.bytes, "a copy of another size");
    Command::Copy(Copy { from: Slice::from(from), to: Slice::from(to) })
}
