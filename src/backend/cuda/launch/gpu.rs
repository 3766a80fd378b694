//! The device with its memory and its stream, as all ops use it.

use super::args::Arg;
use super::copies::{Order, Streaming};
use super::kernel::{Grid, KernelLaunch};
use super::recording::{Collector, CudaRecording, Work};
use crate::backend::cuda::driver::device::Device;
use crate::backend::cuda::driver::error::fault;
use crate::backend::cuda::driver::program::Program;
use crate::backend::cuda::memory::allocation::Allocation;
use crate::backend::cuda::memory::arena::{Arena, Footprint, Home, Placement, out_of_memory};
use crate::backend::cuda::memory::layout::RecordingMemory;
use crate::backend::cuda::memory::page_locked::PageLocked;
use crate::backend::cuda::memory::projection::Projection;
use crate::backend::cuda::memory::staging::Staging;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::gpu::frequencies::Frequencies;
use crate::backend::gpu::lock;
use crate::error::{Error, Result};
use crate::reserve;
use crate::tensor::{Compute, DType};
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, DriverError, result};
use std::sync::{Arc, Mutex};

/// Uploads of at least so many bytes get an allocation of their own: weights stay, and leave no
/// gaps.
const LARGE_UPLOAD: usize = 8 << 20;

/// A device with its memory and its stream.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub device: Device,
    footprint: Arc<Footprint>,
    /// The arena of most tensors.
    arena: Arc<Arena>,
    /// The arena of large uploads.
    exact: Arc<Arena>,
    /// The arena of streamed weights.
    host: Arc<Arena>,
    recordings: Arc<RecordingMemory>,
    pub(super) staging: Arc<Staging>,
    pub(super) streaming: Streaming,
    /// Events for reuse, so that the denoising loop creates none.
    events: Mutex<Vec<CudaEvent>>,
    recording: Mutex<Option<Collector>>,
    pub(super) frequencies: Frequencies<CudaTensor>,
    /// A word that `to_rgb8` sets if a value is not finite; the download of a picture reads and
    /// clears it.
    pub non_finite: CudaTensor,
}

impl Gpu {
    /// Opens the device with this index.
    pub(crate) fn open(index: usize, placement: Placement) -> Result<Self> {
        let device = Device::open(index)?;
        let footprint = Arc::<Footprint>::default();
        let arena = Arena::new(&device.context, &footprint, placement);
        let failed = |error| fault("open", error);
        let word = Allocation::new(&arena, size_of::<u32>()).map_err(failed)?;
        // SAFETY: the memory has this size and no other user.
        unsafe { result::memset_d8_async(word.address()?, 0, size_of::<u32>(), device.stream.cu_stream()) }
            .map_err(failed)?;
        Ok(Self {
            arena,
            exact: Arena::exact(&device.context, &footprint, placement),
            host: Arena::of_host(Box::new(PageLocked::new(&device.context)), placement),
            recordings: RecordingMemory::new(Arena::exact(&device.context, &footprint, placement)),
            footprint,
            staging: Arc::new(Staging::new(&device.context)),
            streaming: Streaming::default(),
            events: Mutex::default(),
            recording: Mutex::default(),
            frequencies: Frequencies::default(),
            non_finite: CudaTensor::new(&[1], DType::U32, word),
            device,
        })
    }

    /// Makes the device current for the calling thread.
    pub(crate) fn bind(&self, op: &str) -> Result<()> {
        self.device.context.bind_to_thread().map_err(|error| fault(op, error))
    }

    // ---- memory ----

    /// A tensor for `op` to fill. Debug builds fill it with NaN, so that unwritten elements show.
    pub(crate) fn output(&self, op: &'static str, shape: &[usize], dtype: DType) -> Result<CudaTensor> {
        let bytes = bytes(op, shape, dtype)?;
        if let Some(recording) = &*lock(&self.recording) {
            return Ok(CudaTensor::new(shape, dtype, Allocation::planned(&recording.layout, bytes)));
        }
        let allocation = self.allocate(op, shape, bytes, &self.arena)?;
        self.poison(op, allocation.address()?, allocation.bytes())?;
        Ok(CudaTensor::new(shape, dtype, allocation))
    }

    /// As [`Gpu::output`], the operand of a gemm. In FP8 a row has `blocks` scales.
    pub(crate) fn output_operand(
        &self,
        op: &'static str,
        shape: &[usize],
        compute: Compute,
        blocks: usize,
    ) -> Result<CudaTensor> {
        if compute == Compute::Native {
            return self.output(op, shape, DType::Bf16);
        }
        let rows = shape[..shape.len() - 1].iter().product();
        let codes = self.output(op, shape, DType::U8)?;
        Ok(CudaTensor::fp8(codes, self.output(op, &[blocks, rows], DType::F32)?))
    }

    /// As [`Gpu::output`], a fused projection in FP8.
    pub(crate) fn output_projection(&self, op: &'static str, layout: Projection) -> Result<CudaTensor> {
        let codes = self.output(op, &[layout.bytes()], DType::U8)?;
        let scales = self.output(op, &[layout.scales()], DType::F32)?;
        Ok(CudaTensor::fp8_projection(codes, scales, layout))
    }

    /// A tensor for an upload to fill, outside of any recording. One in host memory is read through
    /// [`Gpu::staged`].
    pub(crate) fn upload_target(
        &self,
        op: &'static str,
        shape: &[usize],
        dtype: DType,
        home: Home,
    ) -> Result<CudaTensor> {
        let bytes = bytes(op, shape, dtype)?;
        let allocation = match home {
            Home::Device if bytes < LARGE_UPLOAD => self.allocate(op, shape, bytes, &self.arena)?,
            Home::Device => self.allocate(op, shape, bytes, &self.exact)?,
            Home::Host => {
                let made = Allocation::new(&self.host, bytes);
                if out_of_memory(&made) {
                    return Err(reserve::refused(bytes as f64, "weights, page-locked by the driver"));
                }
                made.map_err(|error| fault(op, error))?
            }
            Home::Pageable => Allocation::pageable(bytes),
        };
        Ok(CudaTensor::new(shape, dtype, allocation))
    }

    /// The memory of the ring through which weights are streamed.
    pub(super) fn ring_memory(&self, op: &'static str, bytes: u64) -> Result<Arc<Allocation>> {
        let allocate = || Allocation::new(&self.exact, bytes as usize);
        self.allocate_or_trim(op, bytes as usize, || "streamed weights".into(), allocate)
    }

    /// Fills memory with bytes that are NaN in every floating type, in debug builds.
    fn poison(&self, op: &'static str, address: u64, bytes: usize) -> Result<()> {
        if cfg!(debug_assertions) && bytes > 0 {
            self.bind(op)?;
            // SAFETY: the memory has this size and no user but the caller.
            let filled = unsafe { result::memset_d8_async(address, 0xff, bytes, self.device.stream.cu_stream()) };
            filled.map_err(|error| fault(op, error))?;
        }
        Ok(())
    }

    fn allocate(&self, op: &'static str, shape: &[usize], bytes: usize, arena: &Arc<Arena>) -> Result<Arc<Allocation>> {
        let tensor = || format!("a tensor of shape {shape:?}");
        self.allocate_or_trim(op, bytes, tensor, || Allocation::new(arena, bytes))
    }

    /// Calls `allocate`, which allocates `bytes` for `what`, again after a trim if memory is full:
    /// one arena may need what another one caches.
    fn allocate_or_trim<T>(
        &self,
        op: &'static str,
        bytes: usize,
        what: impl FnOnce() -> String,
        allocate: impl Fn() -> Result<T, DriverError>,
    ) -> Result<T> {
        let mut made = allocate();
        if out_of_memory(&made) {
            self.trim_tensors();
            self.recordings.trim();
            made = allocate();
        }
        if out_of_memory(&made) {
            return Err(self.device.out_of_memory(op, &what(), bytes));
        }
        made.map_err(|error| fault(op, error))
    }

    /// Bytes of the smallest slab, which small tensors share.
    pub(crate) fn slab(&self) -> u64 {
        self.arena.slab
    }

    /// The most bytes that were allocated at once.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.footprint.peak()
    }

    /// The bytes that the driver and the limit have left.
    pub(crate) fn free_memory(&self) -> Option<u64> {
        self.device.context.mem_get_info().ok().map(|(free, _)| (free as u64).min(self.footprint.left()))
    }

    /// Limits the bytes that are allocated at once.
    pub(crate) fn limit_memory(&self, bytes: u64) {
        self.footprint.limit(bytes);
    }

    /// Frees memory that no tensor uses, except that of recordings: the next picture needs as much,
    /// and allocating it takes milliseconds in which the device is idle.
    pub(crate) fn trim(&self) {
        self.streaming.trim();
        self.trim_tensors();
        self.staging.trim();
    }

    fn trim_tensors(&self) {
        self.arena.trim();
        self.exact.trim();
    }

    // ---- order ----

    /// Launches a kernel after all earlier work, or adds it to the recording that is being made.
    pub(crate) fn launch(&self, program: &Program, entry: &'static str, grid: Grid, args: &[Arg<'_>]) -> Result<()> {
        let kernel = self.device.kernels.get(program, entry)?;
        kernel.allow_shared(program.name, grid.shared, self.device.max_shared)?;
        self.enqueue(KernelLaunch::new(program.name, kernel, grid, args)?, args)
    }

    /// Enqueues work on `args` after all earlier work, or adds it to the recording that is being
    /// made.
    pub(crate) fn enqueue(&self, work: impl Work + 'static, args: &[Arg<'_>]) -> Result<()> {
        if let Some(recording) = &mut *lock(&self.recording) {
            recording.push(Box::new(work), args);
            return Ok(());
        }
        // Without the lock: a copy from pageable memory waits for other threads.
        work.enqueue(&self.device.stream)
    }

    /// Runs `steps` at once, outside of any recording that is being made.
    pub(crate) fn outside_recording<T>(&self, steps: impl FnOnce() -> T) -> T {
        let recording = lock(&self.recording).take();
        let order = self.streaming.replace(Order::default());
        let result = steps();
        self.streaming.replace(order);
        *lock(&self.recording) = recording;
        result
    }

    /// Records the ops that `steps` calls instead of running them.
    pub(crate) fn record(&self, steps: impl FnOnce() -> Result<()>) -> Result<CudaRecording> {
        {
            let mut recording = lock(&self.recording);
            if recording.is_some() {
                return Err(Error::shape("record", "recordings do not nest"));
            }
            *recording = Some(Collector::new(&self.recordings));
        }
        self.streaming.replace(Order::default());
        let result = steps();
        self.streaming.replace(Order::default());
        let collected = lock(&self.recording).take();
        result?;
        let collected = collected.ok_or_else(|| Error::shape("record", "the recording is gone"))?;
        let layout = &collected.layout;
        let bytes = layout.bytes() as usize;
        let share = collected.may_share();
        let allocate = || layout.allocate(share);
        let start = self.allocate_or_trim("record", bytes, || "a recording".into(), allocate)?;
        self.poison("record", start, bytes)?;
        Ok(collected.finish())
    }

    /// An error if a recording is being made.
    pub(super) fn not_recording(&self, op: &'static str) -> Result<()> {
        match &*lock(&self.recording) {
            Some(_) => Err(Error::shape(op, "not while a recording is made")),
            None => Ok(()),
        }
    }

    /// Runs a recording after all earlier work.
    pub(crate) fn replay(&self, recording: &CudaRecording) -> Result<()> {
        self.not_recording("replay")?;
        self.streaming.replace(Order::default());
        recording.launch(&self.device.stream)
    }

    /// Records an event after all earlier work.
    pub(crate) fn event(&self) -> Result<CudaEvent> {
        let failed = |error| fault("event", error);
        let used = lock(&self.events).pop();
        let event = match used {
            Some(event) => event,
            None => self.device.context.new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC)).map_err(failed)?,
        };
        event.record(&self.device.stream).map_err(failed)?;
        Ok(event)
    }

    /// Waits for an event and stores it for reuse.
    pub(crate) fn wait(&self, event: CudaEvent) -> Result<()> {
        event.synchronize().map_err(|error| fault("wait", error))?;
        lock(&self.events).push(event);
        Ok(())
    }
}

/// The bytes of a tensor; an error if no machine has as many.
pub(super) fn bytes(op: &'static str, shape: &[usize], dtype: DType) -> Result<usize> {
    let bytes = shape.iter().try_fold(dtype.size(), |bytes, &n| bytes.checked_mul(n));
    let bytes = bytes.filter(|&bytes| isize::try_from(bytes).is_ok());
    bytes.ok_or_else(|| Error::Device(format!("{op}: no GPU holds a tensor of shape {shape:?}")))
}
