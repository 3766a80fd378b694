//! Recordings: work that is collected, and captured as a CUDA graph once it repeats.
//!
//! Capturing and instantiating a graph takes the host milliseconds. A recording's first replay
//! therefore launches its work one by one, and the second replay, for which the device is busy with
//! the first, captures it. The device starts without waiting, and a recording that is replayed once
//! costs no graph. A recording that copies weights from pageable memory never becomes one.

use super::args::Arg;
use crate::backend::cuda::driver::error::fault;
use crate::backend::cuda::memory::allocation::Allocation;
use crate::backend::cuda::memory::layout::{Layout, RecordingMemory};
use crate::backend::gpu::lock;
use crate::error::{Error, Result};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Work for a stream: a launch of a kernel or a call of a library.
pub(crate) trait Work: fmt::Debug + Send + Sync {
    /// Enqueues it.
    fn enqueue(&self, stream: &CudaStream) -> Result<()>;

    /// True if the host does a part of it while it is enqueued, so that no graph replays it.
    fn needs_host(&self) -> bool {
        false
    }
}

/// The work of a recording that is being made.
#[derive(Debug)]
pub(crate) struct Collector {
    work: Vec<Box<dyn Work>>,
    /// The recording's own memory.
    pub layout: Arc<Layout>,
    /// Memory from outside, which must not be reused while the recording lives. The key is the
    /// address of the handle, because the memory's own may not be known yet.
    outside: BTreeMap<usize, Arc<Allocation>>,
}

impl Collector {
    /// A collector without work; the recording's own memory will come from `source`.
    pub(crate) fn new(source: &Arc<RecordingMemory>) -> Self {
        Self { work: Vec::new(), layout: Layout::new(source), outside: BTreeMap::new() }
    }

    /// Adds work and retains the memory of its arguments that is not the recording's own.
    pub(crate) fn push(&mut self, work: Box<dyn Work>, args: &[Arg<'_>]) {
        for allocation in args.iter().filter_map(|arg| arg.allocation()) {
            if !allocation.belongs_to(&self.layout) {
                self.outside.entry(Arc::as_ptr(allocation).addr()).or_insert_with(|| allocation.clone());
            }
        }
        self.work.push(work);
    }

    /// True if the recording may use the memory of another one, because it reads no tensor of one.
    pub(crate) fn may_share(&self) -> bool {
        !self.outside.values().any(|allocation| allocation.is_recorded())
    }

    /// The recording; the layout must be allocated.
    pub(crate) fn finish(self) -> CudaRecording {
        let Self { work, layout, outside } = self;
        let graph = if work.iter().any(|work| work.needs_host()) { Graph::Impossible } else { Graph::Unneeded };
        CudaRecording { graph: Mutex::new(graph), work, _layout: layout, _outside: outside }
    }
}

/// Recorded ops, with the memory that they use.
pub struct CudaRecording {
    graph: Mutex<Graph>,
    /// The work, whose kernels must outlive the graph.
    work: Vec<Box<dyn Work>>,
    _layout: Arc<Layout>,
    _outside: BTreeMap<usize, Arc<Allocation>>,
}

/// The graph of a recording.
enum Graph {
    /// No replay so far.
    Unneeded,
    /// One replay so far: the next one captures the graph.
    Due,
    Captured(CudaGraph),
    /// The host does a part of the work.
    Impossible,
}

impl CudaRecording {
    /// Enqueues the work on `stream`, the same one for every replay.
    pub(crate) fn launch(&self, stream: &Arc<CudaStream>) -> Result<()> {
        let failed = |error| fault("replay", error);
        let graph = &mut *lock(&self.graph);
        match graph {
            _ if self.work.is_empty() => Ok(()),
            Graph::Impossible => self.enqueue(stream),
            Graph::Unneeded => {
                *graph = Graph::Due;
                self.enqueue(stream)
            }
            Graph::Due => {
                let captured = self.capture(stream)?;
                captured.launch().map_err(failed)?;
                *graph = Graph::Captured(captured);
                Ok(())
            }
            Graph::Captured(graph) => graph.launch().map_err(failed),
        }
    }

    fn enqueue(&self, stream: &CudaStream) -> Result<()> {
        self.work.iter().try_for_each(|work| work.enqueue(stream))
    }

    fn capture(&self, stream: &Arc<CudaStream>) -> Result<CudaGraph> {
        let failed = |error| fault("replay", error);
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(failed)?;
        let captured = self.enqueue(stream);
        // A stream in capture is unusable, so the capture ends even after an error.
        let ended = stream.end_capture(CUgraphInstantiate_flags(0));
        captured?;
        ended.map_err(failed)?.ok_or_else(|| Error::internal("the driver captured no graph"))
    }
}

impl fmt::Debug for CudaRecording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaRecording({} launches)", self.work.len())
    }
}
