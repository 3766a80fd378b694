//! What all verbs of the backend share: memory to write to, dispatches in order, and the way to the host and back.

use super::super::{DeviceTensor, RELIEF};
use super::adapters::Adapters;
use super::device::{Device, Signal};
use super::memory::{Memory, Pool, lock};
use super::pipelines::Pipelines;
use super::program::Program;
use super::recording::{Arg, Collected, Dispatch, Prepared, WebGpuRecording};
use super::tensor::{WebGpuTensor, padded};
use super::variant::Shaders;
use crate::error::{Error, Result};
use crate::reserve;
use crate::tensor::{DType, HostTensor, Weight};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Dispatches that wait for a submission at most.
const PENDING: usize = 64;
/// Bytes of uploads after which the host waits for the device to take them over, so that loading a model does not keep
/// a second copy of it.
const UPLOADS: u64 = 256 << 20;
/// The most workgroups in one dimension of a dispatch.
const GROUPS: usize = 65_535;
/// What makes a model fit.
const LIGHTER: &str = if cfg!(target_family = "wasm") {
    "a smaller model may fit, or one in shorter types"
} else {
    "--offload sequential, a smaller model or one in shorter types may fit"
};

/// A device with its memory and its order of work.
#[derive(Debug)]
pub(super) struct Gpu {
    pub device: Device,
    pool: Arc<Pool>,
    pipelines: Pipelines,
    order: Mutex<Order>,
    /// Stand in for inputs, and for outputs, that a verb was not given.
    empty: [Arc<Memory>; 2],
    /// Tensors made once from nothing but a number: see [`Gpu::table`].
    tables: Mutex<HashMap<usize, WebGpuTensor>>,
    /// A word that `to_rgb8` sets where a value is not finite; the download of a picture reads it and sets it back.
    not_numbers: Arc<Memory>,
}

/// What was called and has not been submitted.
#[derive(Debug, Default)]
struct Order {
    pending: Vec<Dispatch>,
    recording: Option<Collected>,
    /// The last submission.
    last: Option<wgpu::SubmissionIndex>,
    /// Bytes uploaded since the host last waited for them.
    uploaded: u64,
}

impl Gpu {
    /// Opens an adapter; no buffer larger than `largest` is given to a shader, where the adapter allows more.
    pub(super) async fn open(adapters: Adapters, shaders: Shaders, largest: u64) -> Result<Self> {
        let mut device = Device::open(&adapters, shaders).await?;
        device.max_binding = device.max_binding.min(largest);
        let pool = Arc::new(Pool::default());
        let word = |label| Memory::new(device.device.create_buffer(&buffer(label, 16, false)), &pool);
        let (empty, not_numbers) = ([(); 2].map(|()| word("empty")), word("not numbers"));
        let pipelines = Pipelines::new(&device.device, &device.info);
        let gpu =
            Self { device, pool, pipelines, order: Mutex::default(), empty, tables: Mutex::default(), not_numbers };
        gpu.device.faults.check()?;
        Ok(gpu)
    }

    // ---- memory ------------------------------------------------------------------------------------------------

    /// A tensor for `verb` to fill. Its elements are whatever the memory held before.
    pub(super) fn output(&self, verb: &'static str, shape: &[usize], dtype: DType) -> Result<WebGpuTensor> {
        self.device.faults.check()?;
        let pool = match &lock(&self.order).recording {
            Some(recording) => recording.pool.clone(),
            None => self.pool.clone(),
        };
        let bytes = padded(shape, dtype);
        self.check_size(verb, format_args!("a tensor of shape {shape:?}"), bytes, self.device.max_binding)?;
        let buffer = match pool.take(bytes).or_else(|| pool.take_instead(bytes)) {
            Some(buffer) => buffer,
            None => self.uninit(verb, shape, bytes)?,
        };
        Ok(WebGpuTensor::new(shape, dtype, Memory::new(buffer, &pool)))
    }

    fn check_size(&self, verb: &str, what: fmt::Arguments<'_>, bytes: u64, most: u64) -> Result<()> {
        if bytes <= most {
            return Ok(());
        }
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        Err(Error::OutOfMemory(format!(
            "{verb}: {what} takes {:.1} MiB, and {} allows {:.1} MiB for one buffer; a smaller picture or batch may fit",
            mib(bytes),
            self.device.info.name,
            mib(most)
        )))
    }

    /// Ends a stage: memory that no tensor uses gives way from now on to what is asked for.
    pub(super) fn trim(&self) {
        self.pool.keep();
    }

    /// The most bytes that the buffers of tensors ever had at once.
    pub(super) fn peak_memory(&self) -> u64 {
        self.pool.peak()
    }

    /// A new buffer, mapped or not. What earlier stages left gives way to it. When memory runs out, all that no tensor uses
    /// is let go of first; when that does not help, the error says what may fit instead.
    fn allocate(&self, verb: &str, shape: &[usize], bytes: u64, mapped: bool, instead: &str) -> Result<wgpu::Buffer> {
        let create = || {
            let buffer = self.device.device.create_buffer(&buffer(verb, bytes, mapped));
            let made = !self.device.faults.take_out_of_memory();
            made.then(|| {
                self.pool.made(bytes);
                buffer
            })
        };
        self.pool.make_room(bytes);
        let made = create().or_else(|| {
            self.flush();
            self.pool.clear();
            self.device.poll(None).ok()?;
            create()
        });
        made.ok_or_else(|| {
            let mib = bytes as f64 / (1 << 20) as f64;
            Error::OutOfMemory(format!(
                "{verb}: {} has no memory left for a tensor of shape {shape:?} ({mib:.1} MiB); {instead}",
                self.device.info.name
            ))
        })
    }

    /// New memory for an output. In debug builds it is poisoned, so that a verb that leaves an element unwritten shows.
    fn uninit(&self, verb: &str, shape: &[usize], bytes: u64) -> Result<wgpu::Buffer> {
        let poison = cfg!(debug_assertions);
        let made = self.allocate(verb, shape, bytes, poison, RELIEF)?;
        if poison {
            if let Ok(mut mapped) = made.get_mapped_range_mut(..) {
                let ones = vec![0xff; mapped.len()];
                mapped.copy_from_slice(&ones);
            }
            made.unmap();
        }
        Ok(made)
    }

    /// New memory of `bytes` for the host to write, all zeros. `most` is how large a buffer may be for what it is meant to be.
    pub(super) fn room(&self, what: &str, shape: &[usize], bytes: u64, most: u64) -> Result<Room> {
        self.device.faults.check()?;
        self.check_size(what, format_args!("a tensor of shape {shape:?}"), bytes, most)?;
        let buffer = self.allocate(what, shape, bytes, Room::MAPPED, LIGHTER)?;
        let view = Room::MAPPED.then(|| buffer.get_mapped_range_mut(..)).transpose();
        let fault = |error| Error::Device(format!("{what}: the GPU's memory cannot be written: {error}"));
        Ok(Room { view: view.map_err(fault)?, memory: Memory::new(buffer, &self.pool) })
    }

    /// Writes `part` to a place in new memory that is a multiple of 4; behind a part that ends at none come zeros.
    pub(super) fn write(&self, room: &mut Room, at: usize, part: &[u8]) {
        if let Some(view) = &mut room.view {
            return view.slice(at..at + part.len()).copy_from_slice(part);
        }
        let (queue, buffer) = (&self.device.queue, room.memory.buffer());
        let (words, rest) = part.split_at(part.len() / 4 * 4);
        queue.write_buffer(buffer, at as u64, words);
        if !rest.is_empty() {
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            queue.write_buffer(buffer, (at + words.len()) as u64, &last);
        }
    }

    /// Ends the writing: the memory belongs to the device from now on.
    pub(super) fn written(&self, room: Room) -> Result<Arc<Memory>> {
        let memory = room.memory.clone();
        drop(room);
        let full = {
            let mut order = lock(&self.order);
            order.uploaded += memory.buffer().size();
            order.uploaded > UPLOADS
        };
        if full {
            lock(&self.order).uploaded = 0;
            self.device.queue.submit([]);
            self.device.poll(None)?;
        }
        Ok(memory)
    }

    /// New memory for a matrix that the device itself writes, at once.
    pub(super) fn new_memory(&self, what: &str, shape: &[usize], bytes: u64) -> Result<Arc<Memory>> {
        Ok(Memory::new(self.allocate(what, shape, bytes, false, LIGHTER)?, &self.pool))
    }

    /// A host tensor as it is.
    pub(super) fn upload_tensor(&self, what: &str, tensor: &HostTensor) -> Result<WebGpuTensor> {
        let mut room = self.room_of(what, tensor.shape(), tensor.dtype())?;
        self.write(&mut room, 0, tensor.bytes());
        Ok(WebGpuTensor::new(tensor.shape(), tensor.dtype(), self.written(room)?))
    }

    /// A table as it is stored, row after row.
    pub(super) async fn upload_table(&self, what: &str, table: &Weight<'_>) -> Result<WebGpuTensor> {
        let (shape, dtype) = (table.shape(), table.dtype());
        let mut room = self.room_of(what, shape, dtype)?;
        let write = |first: usize, rows: HostTensor| {
            self.write(&mut room, first * table.row_bytes(), rows.bytes());
            Ok(())
        };
        Weight::each_piece(std::slice::from_ref(table), write).await?;
        Ok(WebGpuTensor::new(shape, dtype, self.written(room)?))
    }

    fn room_of(&self, what: &str, shape: &[usize], dtype: DType) -> Result<Room> {
        self.room(what, shape, padded(shape, dtype), self.device.limits.max_buffer_size)
    }

    /// The table that `make` makes of `size`, uploaded when it is asked for the first time.
    pub(super) fn table(&self, size: usize, make: impl FnOnce(usize) -> Vec<f32>) -> Result<WebGpuTensor> {
        if let Some(table) = lock(&self.tables).get(&size) {
            return Ok(table.clone());
        }
        let table = self.upload_tensor("table", &HostTensor::from_f32(&[size], &make(size)))?;
        lock(&self.tables).insert(size, table.clone());
        Ok(table)
    }

    /// What to bind for an input that is absent.
    pub(super) fn empty(&self) -> Arg {
        Arg { memory: self.empty[0].clone(), offset: 0, bytes: 16 }
    }

    /// What to bind for an output that is not wanted.
    pub(super) fn nowhere(&self) -> Arg {
        Arg { memory: self.empty[1].clone(), offset: 0, bytes: 16 }
    }

    /// The binding of the word that says that a picture is not finite.
    pub(super) fn not_numbers(&self) -> Arg {
        Arg { memory: self.not_numbers.clone(), offset: 0, bytes: 16 }
    }

    /// What to bind for an input that may be absent.
    pub(super) fn optional(&self, tensor: Option<&WebGpuTensor>) -> Arg {
        tensor.map_or_else(|| self.empty(), Arg::from)
    }

    // ---- order -------------------------------------------------------------------------------------------------

    /// A dispatch of `groups` workgroups, of which there is one at least. They are folded into two dimensions where one is too
    /// short; shaders take their index from both.
    fn prepare(&self, program: &Program, args: &[Arg], parameters: Vec<u32>, groups: usize) -> Result<Dispatch> {
        let rows = groups.div_ceil(GROUPS);
        if rows > GROUPS {
            return Err(Error::Device(format!("{}: {groups} workgroups are more than a GPU takes", program.name)));
        }
        for arg in args {
            self.check_size(program.name, format_args!("a tensor"), arg.bytes, self.device.max_binding)?;
        }
        let pipeline = self.pipelines.get(&self.device.device, program);
        self.device.faults.check()?;
        let buffers = args.iter().map(|arg| (arg.memory.buffer().clone(), arg.offset, arg.bytes)).collect();
        Ok(Dispatch { pipeline, buffers, parameters, groups: [groups.div_ceil(rows) as u32, rows as u32, 1] })
    }

    /// Runs a dispatch on new memory at once, also inside a recording.
    pub(super) fn run(&self, program: &Program, args: &[Arg], parameters: Vec<u32>, groups: usize) -> Result<()> {
        let dispatch = self.prepare(program, args, parameters, groups)?;
        self.submit(&Prepared::new(&self.device.device, vec![dispatch]));
        Ok(())
    }

    /// Appends a dispatch of `groups` workgroups to what will run.
    pub(super) fn dispatch(&self, program: &Program, args: &[Arg], parameters: Vec<u32>, groups: usize) -> Result<()> {
        if groups == 0 {
            return Ok(());
        }
        let dispatch = self.prepare(program, args, parameters, groups)?;
        let full = {
            let mut order = lock(&self.order);
            match &mut order.recording {
                Some(recording) => {
                    args.iter().for_each(|arg| recording.keep(&arg.memory));
                    recording.dispatches.push(dispatch);
                    false
                }
                None => {
                    order.pending.push(dispatch);
                    order.pending.len() >= PENDING
                }
            }
        };
        if full {
            self.flush();
        }
        Ok(())
    }

    /// Submits what is pending.
    pub(super) fn flush(&self) {
        let pending = std::mem::take(&mut lock(&self.order).pending);
        if !pending.is_empty() {
            self.submit(&Prepared::new(&self.device.device, pending));
        }
    }

    fn submit(&self, prepared: &Prepared) {
        if let Some(last) = prepared.submit(&self.device.device, &self.device.queue) {
            lock(&self.order).last = Some(last);
        }
    }

    /// Collects what `steps` calls instead of running it.
    pub(super) fn record(&self, steps: impl FnOnce() -> Result<()>) -> Result<WebGpuRecording> {
        {
            let mut order = lock(&self.order);
            if order.recording.is_some() {
                return Err(Error::shape("record", "recordings do not nest"));
            }
            order.recording = Some(Collected::new(&self.pool));
        }
        let result = steps();
        let collected = lock(&self.order).recording.take();
        result?;
        let Some(Collected { dispatches, pool, outside }) = collected else {
            return Err(Error::shape("record", "the recording is gone"));
        };
        let prepared = Prepared::new(&self.device.device, dispatches);
        self.device.faults.check()?;
        Ok(WebGpuRecording { prepared, _pool: pool, _outside: outside })
    }

    /// Submits a recording.
    pub(super) fn replay(&self, recording: &WebGpuRecording) -> Result<()> {
        self.flush();
        self.submit(&recording.prepared);
        self.device.faults.check()
    }

    /// The end of everything called so far.
    pub(super) fn event(&self) -> Result<Event> {
        self.flush();
        let done = Signal::new();
        let sender = done.sender();
        self.device.queue.on_submitted_work_done(move || sender(()));
        self.device.faults.check()?;
        Ok(Event { done, submission: lock(&self.order).last.clone() })
    }

    /// Waits for an event.
    pub(super) async fn wait(&self, event: Event) -> Result<()> {
        self.poll_for(&event.done, event.submission.as_ref())?;
        event.done.await;
        self.device.faults.check()
    }

    /// Makes the callback of `signal` run, which follows `submission` or everything, where the host may wait; a browser
    /// runs it by itself.
    fn poll_for<T>(&self, signal: &Signal<T>, submission: Option<&wgpu::SubmissionIndex>) -> Result<()> {
        if cfg!(target_family = "wasm") {
            return Ok(());
        }
        let mut submission = submission;
        while !signal.arrived() {
            let idle = self.device.poll(submission.take())?;
            if idle && !signal.arrived() {
                self.device.faults.check()?;
                return Err(Error::Device("the GPU did not say that it finished".into()));
            }
        }
        Ok(())
    }

    /// Copies a tensor to the host once everything called before has run.
    pub(super) async fn download(&self, tensor: &WebGpuTensor) -> Result<HostTensor> {
        self.device.faults.check()?;
        self.flush();
        let (device, queue, bytes) = (&self.device.device, &self.device.queue, tensor.bytes());
        // Behind a picture comes the word that says whether it is one.
        let picture = tensor.dtype() == DType::U8;
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("download"),
            size: bytes + if picture { 4 } else { 0 },
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(tensor.memory().buffer(), 0, &staging, 0, Some(bytes));
        if picture {
            let word = self.not_numbers.buffer();
            encoder.copy_buffer_to_buffer(word, 0, &staging, bytes, Some(4));
            encoder.clear_buffer(word, 0, Some(4));
        }
        let submission = queue.submit([encoder.finish()]);
        let mapped = Signal::new();
        staging.map_async(wgpu::MapMode::Read, .., mapped.sender());
        self.poll_for(&mapped, Some(&submission))?;
        let result = mapped.await;
        self.device.faults.check()?;
        let refused = |error: &dyn fmt::Display| Error::Device(format!("the GPU's memory cannot be read: {error}"));
        result.map_err(|error| refused(&error))?;
        let view = staging.get_mapped_range(..).map_err(|error| refused(&error))?;
        if picture && view[bytes as usize..].iter().any(|&byte| byte != 0) {
            return Err(Error::NonFinitePicture);
        }
        let len = tensor.len() * tensor.dtype().size();
        let stored = reserve::copied(&view[..len], "what comes back from the GPU")?;
        HostTensor::new(tensor.dtype(), tensor.shape(), stored.into())
            .ok_or_else(|| Error::shape("download", "a tensor's memory does not hold its shape"))
    }
}

/// A point in the order of the verbs.
#[derive(Debug)]
pub(super) struct Event {
    done: Signal<()>,
    submission: Option<wgpu::SubmissionIndex>,
}

/// New memory that the host is writing; nothing that runs uses it yet.
#[derive(Debug)]
pub(super) struct Room {
    view: Option<wgpu::BufferViewMut>,
    memory: Arc<Memory>,
}

impl Room {
    /// Whether the memory is mapped. A browser would map a copy of all of it into this program's memory; its queue takes parts
    /// as they are.
    const MAPPED: bool = !cfg!(target_family = "wasm");

    /// Where it is.
    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.view.take().is_some() {
            self.memory.buffer().unmap();
        }
    }
}

fn buffer(label: &str, size: u64, mapped: bool) -> wgpu::BufferDescriptor<'_> {
    wgpu::BufferDescriptor {
        label: Some(label),
        size,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: mapped,
    }
}

#[cfg(test)]
mod tests;
