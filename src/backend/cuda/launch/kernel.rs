//! Launches of kernels.

use super::args::{Arg, Bound, Value};
use super::recording::Work;
use crate::backend::cuda::driver::error::fault;
use crate::backend::cuda::driver::kernels::Kernel;
use crate::backend::cuda::driver::program::Parameter;
use crate::error::{Error, Result};
use cudarc::driver::CudaStream;
use cudarc::driver::sys::{self, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig};
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

/// Threads of a warp.
pub(crate) const WARP: usize = 32;

/// The CTAs of a launch, and the threads and dynamic shared memory (in bytes) of each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub ctas: [usize; 3],
    pub threads: usize,
    pub shared: usize,
}

impl Grid {
    /// A one-dimensional grid without dynamic shared memory.
    pub(crate) fn linear(ctas: usize, threads: usize) -> Self {
        Self { ctas: [ctas, 1, 1], threads, shared: 0 }
    }

    /// The grid that gives each of `values` values a thread, or `per_thread` of them.
    pub(crate) fn covering(values: usize, threads: usize, per_thread: usize) -> Self {
        Self::linear(values.div_ceil(threads * per_thread), threads)
    }
}

/// One kernel with its grid and arguments.
#[derive(Debug)]
pub(crate) struct KernelLaunch {
    op: &'static str,
    kernel: Arc<Kernel>,
    grid: Grid,
    args: Vec<Bound>,
}

impl KernelLaunch {
    /// Checks the arguments against the kernel's parameters.
    pub(crate) fn new(op: &'static str, kernel: Arc<Kernel>, grid: Grid, args: &[Arg<'_>]) -> Result<Self> {
        let [x, y, z] = grid.ctas;
        if x > i32::MAX as usize || y > 65_535 || z > 65_535 {
            return Err(Error::Device(format!("{op}: {x}×{y}×{z} CTAs are more than a GPU takes")));
        }
        let parameters = &kernel.parameters;
        if parameters.len() != args.len() {
            let counts = (parameters.len(), args.len());
            return Err(Error::internal(format!("{op}: the kernel takes {} arguments, not {}", counts.0, counts.1)));
        }
        let bind = |(i, (arg, parameter)): (usize, (&Arg<'_>, &Parameter))| {
            arg.bind(*parameter)
                .ok_or_else(|| Error::internal(format!("{op}: argument {i} is {arg:?}, not {parameter:?}")))
        };
        let bound = args.iter().zip(parameters).enumerate().map(bind).collect::<Result<_>>()?;
        Ok(Self { op, kernel, grid, args: bound })
    }
}

impl Work for KernelLaunch {
    fn enqueue(&self, stream: &CudaStream) -> Result<()> {
        let failed = |error| fault(self.op, error);
        stream.context().bind_to_thread().map_err(failed)?;
        let Grid { ctas, threads, shared } = self.grid;
        let [x, y, z] = ctas.map(|count| count as u32);
        let mut pdl = CUlaunchAttribute {
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
            attrs: &raw mut pdl,
            numAttrs: u32::from(self.kernel.pdl),
        };
        let values = self.args.iter().map(Bound::value).collect::<Result<Vec<_>>>()?;
        let mut pointers: Vec<*mut c_void> = values.iter().map(Value::as_ptr).collect();
        let function = self.kernel.function.cu_function();
        // SAFETY: the arguments have the types that the kernel declares. The tensors' memory is at
        // least as large as their shapes say, and kernels guard every index by sizes from these
        // shapes. Memory is reused only for later work of this stream. A kernel with programmatic
        // dependent launch waits by itself for all work before it.
        unsafe { sys::cuLaunchKernelEx(&config, function, pointers.as_mut_ptr(), ptr::null_mut()) }
            .result()
            .map_err(failed)
    }
}
