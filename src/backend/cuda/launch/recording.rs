//! Launches: checked, run at once or collected, and collected ones as a CUDA graph.

use super::tensor_map::{Description, Encoded, TensorMap};
use crate::backend::DeviceTensor;
use crate::backend::cuda::driver::device::fault;
use crate::backend::cuda::driver::kernels::Kernel;
use crate::backend::cuda::driver::program::Parameter;
use crate::backend::cuda::gemm::cublaslt::Multiplication;
use crate::backend::cuda::matrix::Matrix;
use crate::backend::cuda::memory::arena::{Arena, Memory};
use crate::backend::cuda::memory::layout::{Layout, Place};
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::error::{Error, Result};
use cudarc::driver::sys::{
    self, CUgraphInstantiate_flags, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig,
    CUstreamCaptureMode,
};
use cudarc::driver::{CudaGraph, CudaStream};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fmt;
use std::ptr;
use std::sync::Arc;

/// What a kernel is given at one place.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg<'a> {
    Read(&'a CudaTensor),
    Write(&'a CudaTensor),
    Weights(&'a Matrix),
    Map(&'a TensorMap),
    /// A tensor that the kernel was compiled not to look at.
    Absent,
    U32(usize),
    F32(f32),
}

impl<'a> Arg<'a> {
    /// An input that may be absent.
    pub(crate) fn optional(tensor: Option<&'a CudaTensor>) -> Self {
        tensor.map_or(Arg::Absent, Arg::Read)
    }

    fn memory(self) -> Option<&'a Arc<Memory>> {
        match self {
            Arg::Read(tensor) | Arg::Write(tensor) => Some(tensor.memory()),
            Arg::Weights(matrix) => Some(matrix.memory()),
            Arg::Map(map) => Some(&map.memory),
            Arg::Absent | Arg::U32(_) | Arg::F32(_) => None,
        }
    }

    /// The argument, if it is what the kernel takes.
    fn word(self, parameter: Parameter) -> Option<Word> {
        match (self, parameter) {
            (Arg::Read(tensor), Parameter::Tensor { elements, mutable: false })
            | (Arg::Write(tensor), Parameter::Tensor { elements, mutable: true }) => {
                let fits = elements.is_none_or(|dtype| dtype == tensor.dtype());
                fits.then(|| Word::Memory(tensor.memory().place()))
            }
            (Arg::Weights(matrix), Parameter::Tensor { elements: Some(Matrix::ELEMENTS), mutable: false }) => {
                Some(Word::Memory(matrix.memory().place()))
            }
            (Arg::Map(map), Parameter::Map) => Some(Word::Map(map.description.clone())),
            (Arg::Absent, Parameter::Tensor { .. }) => Some(Word::Memory(Place::At(0))),
            (Arg::U32(value), Parameter::U32) => u32::try_from(value).ok().map(Word::U32),
            (Arg::F32(value), Parameter::F32) => Some(Word::F32(value)),
            _ => None,
        }
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone)]
enum Word {
    Memory(Place),
    Map(Description),
    U32(u32),
    F32(f32),
}

impl Word {
    fn value(&self) -> Result<Value> {
        Ok(match self {
            Word::Memory(place) => Value::Address(place.address()?),
            Word::Map(description) => Value::Map(description.encode()?),
            Word::U32(value) => Value::U32(*value),
            Word::F32(value) => Value::F32(*value),
        })
    }
}

/// An argument as the driver copies it.
enum Value {
    Address(u64),
    Map(Encoded),
    U32(u32),
    F32(f32),
}

impl Value {
    /// Where the driver finds it.
    fn place(&self) -> *mut c_void {
        let place: *const c_void = match self {
            Value::Address(value) => (&raw const *value).cast(),
            Value::Map(value) => (&raw const *value).cast(),
            Value::U32(value) => (&raw const *value).cast(),
            Value::F32(value) => (&raw const *value).cast(),
        };
        place.cast_mut()
    }
}

/// How many blocks of how many threads, and the shared memory of each in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub blocks: [usize; 3],
    pub threads: usize,
    pub shared: usize,
}

impl Grid {
    /// Blocks in a row, without shared memory but what the kernel declares.
    pub(crate) fn row(blocks: usize, threads: usize) -> Self {
        Self { blocks: [blocks, 1, 1], threads, shared: 0 }
    }
}

/// One kernel with everything that it is given.
#[derive(Debug)]
pub(crate) struct Launch {
    verb: &'static str,
    kernel: Arc<Kernel>,
    grid: Grid,
    words: Vec<Word>,
}

impl Launch {
    /// Checks that the arguments are what the kernel takes, and that it changes nothing that it also reads.
    pub(crate) fn new(verb: &'static str, kernel: Arc<Kernel>, grid: Grid, args: &[Arg<'_>]) -> Result<Self> {
        let [x, y, z] = grid.blocks;
        if x > i32::MAX as usize || y > 65_535 || z > 65_535 {
            return Err(Error::Device(format!("{verb}: {x}×{y}×{z} blocks are more than a GPU takes")));
        }
        let parameters = &kernel.parameters;
        if parameters.len() != args.len() {
            let problem = format!("the kernel takes {} arguments, not {}", parameters.len(), args.len());
            return Err(Error::shape(verb, problem));
        }
        let word = |(i, (arg, parameter)): (usize, (&Arg<'_>, &Parameter))| {
            arg.word(*parameter).ok_or_else(|| {
                Error::shape(verb, format!("argument {i} is {arg:?}, and the kernel takes {parameter:?}"))
            })
        };
        let words = args.iter().zip(parameters).enumerate().map(word).collect::<Result<_>>()?;
        for (i, arg) in args.iter().enumerate() {
            let Arg::Write(tensor) = arg else { continue };
            let shared = |other: &Arg<'_>| other.memory().is_some_and(|memory| Arc::ptr_eq(memory, tensor.memory()));
            if args.iter().enumerate().any(|(j, other)| i != j && shared(other)) {
                let problem = format!("the {:?} that it changes in place is also read", tensor.shape());
                return Err(Error::shape(verb, problem));
            }
        }
        Ok(Self { verb, kernel, grid, words })
    }

    fn run(&self, stream: &CudaStream) -> Result<()> {
        let failed = |error| fault(self.verb, error);
        stream.context().bind_to_thread().map_err(failed)?;
        let Grid { blocks, threads, shared } = self.grid;
        let [x, y, z] = blocks.map(|blocks| blocks as u32);
        let mut early = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: threads as u32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared as u32,
            hStream: stream.cu_stream(),
            attrs: &raw mut early,
            numAttrs: u32::from(self.kernel.early),
        };
        let values = self.words.iter().map(Word::value).collect::<Result<Vec<_>>>()?;
        let mut words: Vec<*mut c_void> = values.iter().map(Value::place).collect();
        let function = self.kernel.function.cu_function();
        // SAFETY: the arguments are of the types that the kernel declares. The tensors' memory is at least as large as
        // their shapes say, the kernels guard every index by sizes that the verbs take from these shapes, and memory is
        // given to others only for what comes later in this stream. A kernel that may start early waits for all that was
        // called before by itself.
        unsafe { sys::cuLaunchKernelEx(&config, function, words.as_mut_ptr(), ptr::null_mut()) }
            .result()
            .map_err(failed)
    }
}

/// What a stream is given to do.
#[derive(Debug)]
pub(crate) enum Work {
    /// A kernel of our own.
    Kernel(Launch),
    /// A product of the library.
    Library(Multiplication),
}

impl Work {
    /// Puts it into the stream.
    pub(crate) fn run(&self, stream: &CudaStream) -> Result<()> {
        match self {
            Work::Kernel(launch) => launch.run(stream),
            Work::Library(multiplication) => multiplication.run(stream),
        }
    }
}

/// Work that is being collected for a recording.
#[derive(Debug)]
pub(crate) struct Collected {
    work: Vec<Work>,
    /// The recording's own memory.
    pub layout: Arc<Layout>,
    /// Memory from outside, which must not be reused while the recording lives: by the address of its handle, as its own may not
    /// be known yet.
    outside: BTreeMap<usize, Arc<Memory>>,
}

impl Collected {
    /// Nothing yet; its own memory will come from `source`.
    pub(crate) fn new(source: &Arc<Arena>) -> Self {
        Self { work: Vec::new(), layout: Layout::new(source), outside: BTreeMap::new() }
    }

    /// Adds work and keeps the memory of its arguments that is not the recording's own.
    pub(crate) fn push(&mut self, work: Work, args: &[Arg<'_>]) {
        for memory in args.iter().filter_map(|arg| arg.memory()) {
            if !memory.belongs_to(&self.layout) {
                self.outside.entry(Arc::as_ptr(memory).addr()).or_insert_with(|| memory.clone());
            }
        }
        self.work.push(work);
    }

    /// Captures the work as a graph, when its memory is settled.
    pub(crate) fn finish(self, stream: &Arc<CudaStream>) -> Result<CudaRecording> {
        let Self { work, layout, outside } = self;
        let refused = |error| fault("record", error);
        let mut graph = None;
        if !work.is_empty() {
            stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(refused)?;
            let captured = work.iter().try_for_each(|work| work.run(stream));
            // Ends the capture in any case: the stream is of no use before.
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

/// Verbs kept for replay as a CUDA graph, with the memory they work in.
pub struct CudaRecording {
    graph: Option<CudaGraph>,
    /// What the graph was captured from, whose kernels must live as long as it does.
    work: Vec<Work>,
    _layout: Arc<Layout>,
    _outside: BTreeMap<usize, Arc<Memory>>,
}

impl CudaRecording {
    /// Puts the graph into the stream that it was captured from.
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
