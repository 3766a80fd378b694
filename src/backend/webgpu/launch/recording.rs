//! Commands, which are dispatches, copies and writes: collected, prepared once, submitted as often
//! as wanted.
//!
//! An op only appends [`Command`]s to a list. Preparing a list makes its bind groups and one
//! buffer with the uniforms of all dispatches, 256 bytes apart, the alignment that every device
//! grants. Submitting it only encodes. A recording is a prepared list that is replayed; outside of
//! a recording a list is submitted once. A write by the host ends a submission.

use super::binding::Binding;
use crate::backend::webgpu::driver::device::Device;
use crate::backend::webgpu::driver::pipelines::Pipeline;
use crate::backend::webgpu::memory::pool::{Memory, Pool};
use std::fmt;
use std::mem::discriminant;
use std::sync::Arc;

/// Bytes between the uniforms of two dispatches.
const UNIFORM_STRIDE: u64 = 256;
/// Commands in one submission: enough to hide its cost, and few enough that no driver's watchdog
/// takes a large model for a hang.
const SUBMISSION: usize = 64;

/// A command that is not prepared yet.
#[derive(Debug)]
pub(crate) enum Command {
    Dispatch(Dispatch),
    Copy(Copy),
    Write(Write),
}

impl Command {
    fn dispatch(&self) -> Option<&Dispatch> {
        match self {
            Command::Dispatch(dispatch) => Some(dispatch),
            Command::Copy(_) | Command::Write(_) => None,
        }
    }
}

/// A copy of one slice to another of the same size.
#[derive(Debug)]
pub(crate) struct Copy {
    pub from: Slice,
    pub to: Slice,
}

/// A write of a weight in pageable memory, by the host between two submissions.
#[derive(Debug)]
pub(crate) struct Write {
    pub from: Arc<Memory>,
    pub to: Slice,
}

/// A dispatch that is not prepared yet.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub pipeline: Arc<Pipeline>,
    /// The buffers from binding 1 on; binding 0 is the uniform.
    pub slices: Vec<Slice>,
    pub uniform: Vec<u8>,
    pub groups: [u32; 3],
}

/// A bound range of a buffer. It does not keep the buffer's memory from being reused by a later op.
#[derive(Debug)]
pub(crate) struct Slice {
    buffer: wgpu::Buffer,
    offset: u64,
    bytes: u64,
}

impl From<&Binding> for Slice {
    fn from(binding: &Binding) -> Self {
        Self { buffer: binding.memory.buffer().clone(), offset: binding.offset, bytes: binding.bytes }
    }
}

/// A recording in progress.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub commands: Vec<Command>,
    /// The recording's own memory.
    pub pool: Arc<Pool>,
    /// Memory from outside, which stays allocated while the recording lives.
    pub outside: Vec<Arc<Memory>>,
}

impl Recorder {
    pub(crate) fn new(parent: &Arc<Pool>) -> Self {
        Self { commands: Vec::new(), pool: Pool::child(parent), outside: Vec::new() }
    }

    /// Appends a command on `bindings`, and holds those from outside.
    pub(crate) fn push(&mut self, command: Command, bindings: &[Binding]) {
        for Binding { memory, .. } in bindings {
            if !memory.belongs_to(&self.pool) && !self.outside.iter().any(|held| Arc::ptr_eq(held, memory)) {
                self.outside.push(memory.clone());
            }
        }
        self.commands.push(command);
    }
}

/// Commands that only need to be encoded.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    steps: Vec<Step>,
}

/// A command that only needs to be encoded.
#[derive(Debug)]
enum Step {
    Dispatch { pipeline: Arc<Pipeline>, group: wgpu::BindGroup, groups: [u32; 3] },
    Copy(Copy),
    Write(Write),
}

impl Prepared {
    /// Makes the bind groups of the dispatches in `commands` and uploads their uniforms.
    pub(crate) fn new(device: &wgpu::Device, commands: Vec<Command>) -> Self {
        if commands.is_empty() {
            return Self::default();
        }
        let uniforms = uniforms(device, &commands);
        let mut dispatches = 0;
        let steps = commands.into_iter().map(|command| {
            let dispatch = match command {
                Command::Copy(copy) => return Step::Copy(copy),
                Command::Write(write) => return Step::Write(write),
                Command::Dispatch(dispatch) => dispatch,
            };
            let uniform = wgpu::BufferBinding {
                buffer: &uniforms,
                offset: dispatches * UNIFORM_STRIDE,
                size: wgpu::BufferSize::new(UNIFORM_STRIDE),
            };
            dispatches += 1;
            let storage = dispatch.slices.iter().map(|slice| wgpu::BufferBinding {
                buffer: &slice.buffer,
                offset: slice.offset,
                size: wgpu::BufferSize::new(slice.bytes),
            });
            let entries: Vec<_> = std::iter::once(uniform)
                .chain(storage)
                .zip(0..)
                .map(|(buffer, binding)| wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(buffer),
                })
                .collect();
            let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(dispatch.pipeline.label.as_str()),
                layout: &dispatch.pipeline.layout,
                entries: &entries,
            });
            Step::Dispatch { pipeline: dispatch.pipeline, group, groups: dispatch.groups }
        });
        Self { steps: steps.collect() }
    }

    /// Encodes and submits every command in order. `last` is the last submission, `before_write`
    /// the last one before the last write: both are returned as they are afterwards. A write waits
    /// until those before the last one have been read, so that few of them take memory.
    pub(crate) fn submit(
        &self,
        device: &Device,
        mut last: Option<wgpu::SubmissionIndex>,
        mut before_write: Option<wgpu::SubmissionIndex>,
    ) -> [Option<wgpu::SubmissionIndex>; 2] {
        for steps in self.steps.chunk_by(|_, next| !matches!(next, Step::Write(_))) {
            let steps = match steps {
                [Step::Write(Write { from, to }), rest @ ..] => {
                    if let Some(submission) = before_write.take() {
                        // The caller's next check of the device's faults finds an error.
                        let _ = device.poll(Some(&submission));
                    }
                    before_write = last.clone();
                    if let Some(pageable) = from.as_pageable() {
                        pageable.write(&device.queue, &to.buffer, to.offset);
                    }
                    rest
                }
                steps => steps,
            };
            for steps in steps.chunks(SUBMISSION) {
                let mut encoder = device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                for steps in steps.chunk_by(|one, next| discriminant(one) == discriminant(next)) {
                    encode(&mut encoder, steps);
                }
                last = Some(device.queue.submit([encoder.finish()]));
            }
        }
        [last, before_write]
    }
}

/// One buffer with the uniforms of all dispatches in order.
fn uniforms(device: &wgpu::Device, commands: &[Command]) -> wgpu::Buffer {
    let dispatches: Vec<&Dispatch> = commands.iter().filter_map(Command::dispatch).collect();
    let uniforms = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("uniforms"),
        size: dispatches.len().max(1) as u64 * UNIFORM_STRIDE,
        usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: true,
    });
    if let Ok(mut mapped) = uniforms.get_mapped_range_mut(..) {
        for (i, dispatch) in dispatches.into_iter().enumerate() {
            let at = i * UNIFORM_STRIDE as usize;
            mapped.slice(at..at + dispatch.uniform.len()).copy_from_slice(&dispatch.uniform);
        }
    }
    uniforms.unmap();
    uniforms
}

/// Encodes steps that are all copies, or all dispatches, which share a pass.
fn encode(encoder: &mut wgpu::CommandEncoder, steps: &[Step]) {
    if let [Step::Copy(_), ..] = steps {
        for step in steps {
            if let Step::Copy(Copy { from, to }) = step {
                encoder.copy_buffer_to_buffer(&from.buffer, from.offset, &to.buffer, to.offset, Some(from.bytes));
            }
        }
        return;
    }
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    for step in steps {
        if let Step::Dispatch { pipeline, group, groups: [x, y, z] } = step {
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(*x, *y, *z);
        }
    }
}

/// Ops recorded for replay, with the memory that they use.
pub struct WebGpuRecording {
    pub(crate) prepared: Prepared,
    pub(crate) _pool: Arc<Pool>,
    pub(crate) _outside: Vec<Arc<Memory>>,
}

impl fmt::Debug for WebGpuRecording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebGpuRecording({} commands)", self.prepared.steps.len())
    }
}
