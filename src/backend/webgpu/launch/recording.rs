//! Dispatches: collected, prepared once, submitted as often as wanted.
//!
//! An op only appends [`Dispatch`]es to a list. Preparing a list makes its bind groups and one
//! buffer with the uniforms of all dispatches, 256 bytes apart, the alignment that every device
//! grants. Submitting it only encodes. A recording is a prepared list that is replayed; outside of
//! a recording a list is submitted once.

use super::binding::Binding;
use crate::backend::webgpu::driver::pipelines::Pipeline;
use crate::backend::webgpu::memory::pool::{Memory, Pool};
use std::fmt;
use std::sync::Arc;

/// Bytes between the uniforms of two dispatches.
const UNIFORM_STRIDE: u64 = 256;
/// Dispatches in one submission: enough to hide its cost, and few enough that no driver's watchdog
/// takes a large model for a hang.
const SUBMISSION: usize = 64;

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
    pub dispatches: Vec<Dispatch>,
    /// The recording's own memory.
    pub pool: Arc<Pool>,
    /// Memory from outside, which stays allocated while the recording lives.
    pub outside: Vec<Arc<Memory>>,
}

impl Recorder {
    pub(crate) fn new(parent: &Arc<Pool>) -> Self {
        Self { dispatches: Vec::new(), pool: Pool::child(parent), outside: Vec::new() }
    }

    /// Appends a dispatch of `bindings`, and holds those from outside.
    pub(crate) fn push(&mut self, dispatch: Dispatch, bindings: &[Binding]) {
        for Binding { memory, .. } in bindings {
            if !memory.belongs_to(&self.pool) && !self.outside.iter().any(|held| Arc::ptr_eq(held, memory)) {
                self.outside.push(memory.clone());
            }
        }
        self.dispatches.push(dispatch);
    }
}

/// Dispatches that only need to be encoded.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    groups: [u32; 3],
}

impl Prepared {
    /// Makes the bind groups of `dispatches` and uploads their uniforms.
    pub(crate) fn new(device: &wgpu::Device, dispatches: Vec<Dispatch>) -> Self {
        if dispatches.is_empty() {
            return Self::default();
        }
        let uniforms = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("uniforms"),
            size: dispatches.len() as u64 * UNIFORM_STRIDE,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: true,
        });
        if let Ok(mut mapped) = uniforms.get_mapped_range_mut(..) {
            for (i, dispatch) in dispatches.iter().enumerate() {
                let at = i * UNIFORM_STRIDE as usize;
                mapped.slice(at..at + dispatch.uniform.len()).copy_from_slice(&dispatch.uniform);
            }
        }
        uniforms.unmap();
        let steps = dispatches.into_iter().zip(0..).map(|(dispatch, i)| {
            let uniform = wgpu::BufferBinding {
                buffer: &uniforms,
                offset: i * UNIFORM_STRIDE,
                size: wgpu::BufferSize::new(UNIFORM_STRIDE),
            };
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
            Step { pipeline: dispatch.pipeline, group, groups: dispatch.groups }
        });
        Self { steps: steps.collect() }
    }

    /// Encodes and submits every dispatch in order. Returns the last submission.
    pub(crate) fn submit(&self, device: &wgpu::Device, queue: &wgpu::Queue) -> Option<wgpu::SubmissionIndex> {
        let mut last = None;
        for steps in self.steps.chunks(SUBMISSION) {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                for Step { pipeline, group, groups: [x, y, z] } in steps {
                    pass.set_pipeline(&pipeline.pipeline);
                    pass.set_bind_group(0, group, &[]);
                    pass.dispatch_workgroups(*x, *y, *z);
                }
            }
            last = Some(queue.submit([encoder.finish()]));
        }
        last
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
        write!(f, "WebGpuRecording({} dispatches)", self.prepared.steps.len())
    }
}
