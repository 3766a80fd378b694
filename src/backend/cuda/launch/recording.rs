//! Recordings: work that is collected and then captured as a CUDA graph.

use super::args::Arg;
use crate::backend::cuda::driver::error::fault;
use crate::backend::cuda::memory::allocation::Allocation;
use crate::backend::cuda::memory::layout::{Layout, RecordingMemory};
use crate::error::Result;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Work for a stream: a launch of a kernel or a call of a library.
pub(crate) trait Work: fmt::Debug + Send + Sync {
    /// Enqueues it.
    fn enqueue(&self, stream: &CudaStream) -> Result<()>;
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

    /// Captures the work as a graph; the layout must be allocated.
    pub(crate) fn finish(self, stream: &Arc<CudaStream>) -> Result<CudaRecording> {
        let Self { work, layout, outside } = self;
        let refused = |error| fault("record", error);
        let mut graph = None;
        if !work.is_empty() {
            stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(refused)?;
            let captured = work.iter().try_for_each(|work| work.enqueue(stream));
            // A stream in capture is unusable, so the capture ends even after an error.
            let ended = stream.end_capture(CUgraphInstantiate_flags(0));
            captured?;
            graph = ended.map_err(refused)?;
            if let Some(graph) = &graph {
                graph.upload().map_err(refused)?;
            }
        }
        Ok(CudaRecording { graph, work, _layout: layout, _outside: outside })
    }
}

/// Ops recorded as a CUDA graph, with the memory that they use.
pub struct CudaRecording {
    graph: Option<CudaGraph>,
    /// The captured work, whose kernels must outlive the graph.
    work: Vec<Box<dyn Work>>,
    _layout: Arc<Layout>,
    _outside: BTreeMap<usize, Arc<Allocation>>,
}

impl CudaRecording {
    /// Launches the graph on the stream that it was captured from.
    pub(crate) fn launch(&self) -> Result<()> {
        match &self.graph {
            Some(graph) => graph.launch().map_err(|error| fault("replay", error)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for CudaRecording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaRecording({} launches)", self.work.len())
    }
}
