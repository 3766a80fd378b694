//! Dispatches: collected, prepared once, submitted as often as wanted.
//!
//! A verb only appends [`Dispatch`]es to a list. Preparing a list makes its bind groups and one buffer with all its
//! parameters (256 bytes apart, the alignment that every device grants); submitting it encodes and nothing else. A
//! recording is a list that is kept, and a verb called outside of one goes the same way with a list that is submitted
//! once.

use super::memory::{Memory, Pool};
use super::pipelines::Pipeline;
use super::tensor::WebGpuTensor;
use std::fmt;
use std::sync::Arc;

/// Bytes between the parameters of two dispatches.
const PARAMETERS: u64 = 256;
/// Dispatches in one submission: enough that submitting costs nothing, few enough that no driver's watchdog takes a
/// large model for a hang.
const SUBMISSION: usize = 64;

/// A part of a buffer that a dispatch reads or writes.
#[derive(Debug, Clone)]
pub(super) struct Arg {
    pub memory: Arc<Memory>,
    pub offset: u64,
    pub bytes: u64,
}

impl From<&WebGpuTensor> for Arg {
    fn from(tensor: &WebGpuTensor) -> Self {
        Self { memory: tensor.memory().clone(), offset: 0, bytes: tensor.bytes() }
    }
}

/// One dispatch that has not been prepared.
#[derive(Debug)]
pub(super) struct Dispatch {
    pub pipeline: Arc<Pipeline>,
    /// The buffers, in the order of the bindings behind the parameters.
    pub buffers: Vec<(wgpu::Buffer, u64, u64)>,
    pub parameters: Vec<u32>,
    pub groups: [u32; 3],
}

/// Dispatches that are being collected for a recording.
#[derive(Debug)]
pub(super) struct Collected {
    pub dispatches: Vec<Dispatch>,
    /// The recording's own memory.
    pub pool: Arc<Pool>,
    /// Memory from outside, which must not be reused while the recording lives.
    pub outside: Vec<Arc<Memory>>,
}

impl Collected {
    pub(super) fn new(parent: &Arc<Pool>) -> Self {
        Self { dispatches: Vec::new(), pool: Pool::child(parent), outside: Vec::new() }
    }

    /// Keeps memory that is not the recording's own.
    pub(super) fn keep(&mut self, memory: &Arc<Memory>) {
        if !memory.belongs_to(&self.pool) && !self.outside.iter().any(|kept| Arc::ptr_eq(kept, memory)) {
            self.outside.push(memory.clone());
        }
    }
}

/// Dispatches that only need to be encoded.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    steps: Vec<(Arc<Pipeline>, wgpu::BindGroup, [u32; 3])>,
}

impl Prepared {
    /// Makes the bind groups of `dispatches` and uploads their parameters.
    pub(super) fn new(device: &wgpu::Device, dispatches: Vec<Dispatch>) -> Self {
        if dispatches.is_empty() {
            return Self::default();
        }
        let arena = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: dispatches.len() as u64 * PARAMETERS,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: true,
        });
        if let Ok(mut mapped) = arena.get_mapped_range_mut(..) {
            for (i, dispatch) in dispatches.iter().enumerate() {
                let bytes: &[u8] = bytemuck::cast_slice(&dispatch.parameters);
                let at = i * PARAMETERS as usize;
                mapped.slice(at..at + bytes.len()).copy_from_slice(bytes);
            }
        }
        arena.unmap();
        let steps = dispatches.into_iter().enumerate().map(|(i, dispatch)| {
            let parameters = wgpu::BufferBinding {
                buffer: &arena,
                offset: i as u64 * PARAMETERS,
                size: wgpu::BufferSize::new(PARAMETERS),
            };
            let storage = dispatch.buffers.iter().map(|(buffer, offset, bytes)| wgpu::BufferBinding {
                buffer,
                offset: *offset,
                size: wgpu::BufferSize::new(*bytes),
            });
            let entries: Vec<_> = std::iter::once(parameters)
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
            (dispatch.pipeline, group, dispatch.groups)
        });
        Self { steps: steps.collect() }
    }

    /// Encodes and submits everything, in order; returns the last submission.
    pub(super) fn submit(&self, device: &wgpu::Device, queue: &wgpu::Queue) -> Option<wgpu::SubmissionIndex> {
        let mut last = None;
        for steps in self.steps.chunks(SUBMISSION) {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                for (pipeline, group, [x, y, z]) in steps {
                    pass.set_pipeline(&pipeline.pipeline);
                    pass.set_bind_group(0, group, &[]);
                    pass.dispatch_workgroups(*x, *y, *z);
                }
            }
            last = Some(queue.submit([encoder.finish()]));
        }
        last
    }

    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }
}

/// Verbs kept for replay, with the memory they work in.
pub struct WebGpuRecording {
    pub(super) prepared: Prepared,
    pub(super) _pool: Arc<Pool>,
    pub(super) _outside: Vec<Arc<Memory>>,
}

impl fmt::Debug for WebGpuRecording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebGpuRecording({} dispatches)", self.prepared.len())
    }
}
