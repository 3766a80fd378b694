//! What all verbs of the backend share: memory to write to, launches in order, and the way to the host and back.

use super::recording::{Arg, Collected, CudaRecording, Grid, Launch, Work};
use crate::backend::DeviceTensor;
use crate::backend::cuda::driver::device::{Device, fault};
use crate::backend::cuda::driver::program::Program;
use crate::backend::cuda::gemm::autotune::Ways;
use crate::backend::cuda::memory::arena::{Arena, Held, Memory, Placement};
use crate::backend::cuda::memory::staging::Staging;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::gpu::lock;
use crate::error::{Error, Result};
use crate::reserve::zeros;
use crate::tensor::{DType, HostTensor, Weight};
use cudarc::driver::sys::{CUevent_flags, CUresult};
use cudarc::driver::{CudaEvent, DriverError, result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// From so many bytes on a tensor from the host is held in an allocation of its own: weights stay, and leave no gaps.
const LARGE: usize = 8 << 20;
/// What a task copies of a tensor's elements on their way to the device, in bytes.
const UNIT: usize = 512 << 10;

/// A device with its memory and its order of work.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub device: Device,
    arena: Arc<Arena>,
    held: Arc<Held>,
    /// Where large tensors from the host are.
    exact: Arc<Arena>,
    /// Where recordings work, a piece each.
    recordings: Arc<Arena>,
    staging: Staging,
    /// Events that nobody waits for any more, so that none is made in the loop.
    events: Mutex<Vec<CudaEvent>>,
    recording: Mutex<Option<Collected>>,
    /// Tensors made once from nothing but a number: see [`Gpu::table`].
    tables: Mutex<HashMap<usize, CudaTensor>>,
    /// How large products are done.
    pub ways: Ways,
    /// A word that `to_rgb8` sets where a value is not finite; the download of a picture reads it and sets it back.
    pub not_numbers: CudaTensor,
}

impl Gpu {
    /// Opens the first device.
    pub(crate) fn open(placement: Placement) -> Result<Self> {
        let device = Device::open()?;
        let held = Arc::<Held>::default();
        let arena = Arena::new(&device.context, &held, placement);
        let [exact, recordings] = [(); 2].map(|()| Arena::exact(&device.context, &held, placement));
        let staging = Staging::new(&device.context);
        let failed = |error| fault("open", error);
        let memory = arena.allocate(size_of::<u32>()).map_err(failed)?;
        // SAFETY: the memory is of this size and nobody's but ours.
        unsafe { result::memset_d8_async(memory.address()?, 0, size_of::<u32>(), device.stream.cu_stream()) }
            .map_err(failed)?;
        let not_numbers = CudaTensor::new(&[1], DType::U32, memory);
        let (events, recording, tables) = (Mutex::default(), Mutex::default(), Mutex::default());
        let ways = Ways::default();
        Ok(Self { device, held, arena, exact, recordings, staging, events, recording, tables, ways, not_numbers })
    }

    // ---- memory ------------------------------------------------------------------------------------------------

    /// A tensor for `verb` to fill. In debug builds it is poisoned, so that a verb that leaves an element unwritten shows.
    pub(crate) fn output(&self, verb: &'static str, shape: &[usize], dtype: DType) -> Result<CudaTensor> {
        let bytes = bytes(verb, shape, dtype)?;
        if let Some(recording) = &*lock(&self.recording) {
            return Ok(CudaTensor::new(shape, dtype, Memory::laid(&recording.layout, bytes)));
        }
        let memory = self.allocate(verb, shape, bytes, &self.arena)?;
        self.poison(verb, memory.address()?, memory.bytes())?;
        Ok(CudaTensor::new(shape, dtype, memory))
    }

    /// In debug builds, makes memory hold what is no number.
    fn poison(&self, verb: &'static str, address: u64, bytes: usize) -> Result<()> {
        if cfg!(debug_assertions) && bytes > 0 {
            self.bind(verb)?;
            // SAFETY: the memory is of this size and nobody's but the caller's.
            let filled = unsafe { result::memset_d8_async(address, 0xff, bytes, self.device.stream.cu_stream()) };
            filled.map_err(|error| fault(verb, error))?;
        }
        Ok(())
    }

    /// The most bytes that were ever taken from the driver at once.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.held.peak()
    }

    fn allocate(&self, verb: &'static str, shape: &[usize], bytes: usize, arena: &Arc<Arena>) -> Result<Arc<Memory>> {
        self.take_or_trim(verb, bytes, || format!("a tensor of shape {shape:?}"), || arena.allocate(bytes))
    }

    /// What `take` takes of the device's memory: `bytes` bytes, for `what`.
    fn take_or_trim<T>(
        &self,
        verb: &'static str,
        bytes: usize,
        what: impl FnOnce() -> String,
        take: impl Fn() -> Result<T, DriverError>,
    ) -> Result<T> {
        const FULL: DriverError = DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        // What one arena keeps for reuse, the other may need.
        let made = take().or_else(|error| {
            if error != FULL {
                return Err(error);
            }
            self.trim_arenas();
            take()
        });
        made.map_err(|error| match error {
            FULL => self.device.out_of_memory(verb, &what(), bytes),
            error => fault(verb, error),
        })
    }

    /// Makes the device the one that the calling thread means.
    pub(crate) fn bind(&self, verb: &str) -> Result<()> {
        self.device.context.bind_to_thread().map_err(|error| fault(verb, error))
    }

    /// Bytes that the driver has left.
    pub(crate) fn free_memory(&self) -> Option<u64> {
        self.device.context.mem_get_info().ok().map(|(free, _)| free as u64)
    }

    /// Gives back what no tensor uses.
    pub(crate) fn trim(&self) {
        self.trim_arenas();
        self.staging.trim();
    }

    fn trim_arenas(&self) {
        [&self.arena, &self.exact, &self.recordings].into_iter().for_each(|arena| arena.trim());
    }

    /// A tensor with these elements, from memory that is no recording's: it is filled at once.
    pub(crate) fn upload(
        &self,
        verb: &'static str,
        shape: &[usize],
        dtype: DType,
        elements: &[u8],
    ) -> Result<CudaTensor> {
        if bytes(verb, shape, dtype)? != elements.len() {
            let problem = format!("{} bytes do not fill {shape:?} of {dtype}", elements.len());
            return Err(Error::shape(verb, problem));
        }
        let room = self.room(verb, shape, dtype)?;
        self.send(verb, &room, 0, elements)?;
        Ok(room)
    }

    /// A table as it is stored.
    pub(crate) async fn upload_table(&self, verb: &'static str, table: &Weight<'_>) -> Result<CudaTensor> {
        let room = self.room(verb, table.shape(), table.dtype())?;
        let send = |first, rows: HostTensor| self.send(verb, &room, first * table.row_bytes(), rows.bytes());
        Weight::each_piece(std::slice::from_ref(table), send).await?;
        Ok(room)
    }

    /// A tensor to be filled at once, in memory that is no recording's.
    pub(crate) fn room(&self, verb: &'static str, shape: &[usize], dtype: DType) -> Result<CudaTensor> {
        let bytes = bytes(verb, shape, dtype)?;
        let arena = if bytes < LARGE { &self.arena } else { &self.exact };
        Ok(CudaTensor::new(shape, dtype, self.allocate(verb, shape, bytes, arena)?))
    }

    /// Copies bytes into a tensor, from its byte `at` on.
    fn send(&self, verb: &'static str, room: &CudaTensor, at: usize, elements: &[u8]) -> Result<()> {
        self.send_units(verb, room, at, elements.len(), UNIT, |i, place| {
            place.copy_from_slice(&elements[i * UNIT..i * UNIT + place.len()]);
        })
    }

    /// Fills `bytes` bytes of a tensor from its byte `at` on, with what `fill` writes unit by unit, in any order: it is given
    /// the number of a unit and its place. All units have `unit` bytes, but for the last one, which may have fewer.
    pub(crate) fn send_units(
        &self,
        verb: &'static str,
        room: &CudaTensor,
        at: usize,
        bytes: usize,
        unit: usize,
        fill: impl Fn(usize, &mut [u8]) + Sync,
    ) -> Result<()> {
        let memory = room.memory();
        debug_assert!(at + bytes <= memory.bytes());
        self.staging.send(verb, &self.device.stream, memory.address()? + at as u64, bytes, unit, fill)
    }

    /// The table that `make` makes of `size`, uploaded when it is asked for the first time.
    pub(crate) fn table(&self, size: usize, make: impl FnOnce(usize) -> Vec<f32>) -> Result<CudaTensor> {
        if let Some(table) = lock(&self.tables).get(&size) {
            return Ok(table.clone());
        }
        let table = self.upload("table", &[size], DType::F32, bytemuck::cast_slice(&make(size)))?;
        lock(&self.tables).insert(size, table.clone());
        Ok(table)
    }

    // ---- order -------------------------------------------------------------------------------------------------

    /// Runs a kernel after everything before, or adds it to the recording that is being made.
    pub(crate) fn launch(&self, program: &Program, entry: &'static str, grid: Grid, args: &[Arg<'_>]) -> Result<()> {
        let kernel = self.device.kernels.get(program, entry)?;
        kernel.allow_shared(program.name, grid.shared, self.device.shared)?;
        self.put(Work::Kernel(Launch::new(program.name, kernel, grid, args)?), args)
    }

    /// Runs work on `args` after everything before, or adds it to the recording that is being made.
    pub(crate) fn put(&self, work: Work, args: &[Arg<'_>]) -> Result<()> {
        match &mut *lock(&self.recording) {
            Some(recording) => {
                recording.push(work, args);
                Ok(())
            }
            None => work.run(&self.device.stream),
        }
    }

    /// Runs `steps` at once and outside of the recording that is being made, if one is.
    pub(crate) fn aside<T>(&self, steps: impl FnOnce() -> T) -> T {
        let recording = lock(&self.recording).take();
        let result = steps();
        *lock(&self.recording) = recording;
        result
    }

    /// Collects what `steps` calls instead of running it.
    pub(crate) fn record(&self, steps: impl FnOnce() -> Result<()>) -> Result<CudaRecording> {
        {
            let mut recording = lock(&self.recording);
            if recording.is_some() {
                return Err(Error::shape("record", "recordings do not nest"));
            }
            *recording = Some(Collected::new(&self.recordings));
        }
        let result = steps();
        let collected = lock(&self.recording).take();
        result?;
        let collected = collected.ok_or_else(|| Error::shape("record", "the recording is gone"))?;
        let layout = &collected.layout;
        let bytes = layout.bytes() as usize;
        let start = self.take_or_trim("record", bytes, || "what is replayed".into(), || layout.settle())?;
        self.poison("record", start, bytes)?;
        collected.finish(&self.device.stream)
    }

    fn not_recording(&self, verb: &'static str) -> Result<()> {
        match &*lock(&self.recording) {
            Some(_) => Err(Error::shape(verb, "not while a recording is made")),
            None => Ok(()),
        }
    }

    /// Runs a recording after everything before.
    pub(crate) fn replay(&self, recording: &CudaRecording) -> Result<()> {
        self.not_recording("replay")?;
        recording.launch()
    }

    /// The end of everything called so far.
    pub(crate) fn event(&self) -> Result<CudaEvent> {
        let refused = |error| fault("event", error);
        let used = lock(&self.events).pop();
        let event = match used {
            Some(event) => event,
            None => self.device.context.new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC)).map_err(refused)?,
        };
        event.record(&self.device.stream).map_err(refused)?;
        Ok(event)
    }

    /// Waits for an event, which is then used again.
    pub(crate) fn wait(&self, event: CudaEvent) -> Result<()> {
        event.synchronize().map_err(|error| fault("wait", error))?;
        lock(&self.events).push(event);
        Ok(())
    }

    /// Copies a tensor to the host once everything called before has run.
    pub(crate) fn download(&self, tensor: &CudaTensor) -> Result<HostTensor> {
        let verb = "download";
        self.not_recording(verb)?;
        self.bind(verb)?;
        let elements = self.read(verb, tensor.memory().address()?, tensor.bytes())?;
        if tensor.dtype() == DType::U8 {
            self.refuse_what_is_no_number()?;
        }
        HostTensor::new(tensor.dtype(), tensor.shape(), elements.into())
            .ok_or_else(|| Error::shape(verb, "a tensor's memory does not hold its shape"))
    }

    /// `bytes` bytes of the device from `address` on, once everything called before has run.
    fn read(&self, verb: &'static str, address: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut elements = zeros(bytes, "what comes back from the GPU")?;
        let stream = &self.device.stream;
        // SAFETY: the device's memory is the caller's and holds as many bytes.
        let copied = unsafe { result::memcpy_dtoh_async(&mut elements, address, stream.cu_stream()) };
        // Also where the call failed: the driver may have reported what went wrong before.
        if let Err(error) = stream.synchronize().and(copied) {
            // Memory that may still be written is not freed.
            std::mem::forget(elements);
            return Err(fault(verb, error));
        }
        Ok(elements)
    }

    /// An error if a picture was not finite since the last call.
    fn refuse_what_is_no_number(&self) -> Result<()> {
        let (verb, word) = ("to_rgb8", self.not_numbers.memory().address()?);
        let found = self.read(verb, word, size_of::<u32>())?;
        if found.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        // SAFETY: the word's memory is as large, and nothing that is under way touches it.
        unsafe { result::memset_d8_async(word, 0, found.len(), self.device.stream.cu_stream()) }
            .map_err(|error| fault(verb, error))?;
        Err(Error::NonFinitePicture)
    }
}

/// Bytes of a tensor; an error where no machine has so many.
fn bytes(verb: &'static str, shape: &[usize], dtype: DType) -> Result<usize> {
    let count = shape.iter().try_fold(dtype.size(), |product, &n| product.checked_mul(n));
    let bytes = count.filter(|&bytes| isize::try_from(bytes).is_ok());
    bytes.ok_or_else(|| Error::Device(format!("{verb}: no GPU holds a tensor of shape {shape:?}")))
}
