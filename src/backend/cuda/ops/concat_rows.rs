//! `concat_rows`, by copies of the driver.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::error::fault;
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::recording::Work;
use crate::backend::cuda::memory::allocation::Location;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{ConcatRowsArgs, ConcatRowsOp, DeviceTensor, Runtime};
use crate::error::Result;
use cudarc::driver::{CudaStream, result};

const OP: &str = "concat_rows";

impl ConcatRowsOp for Cuda {
    fn run_concat_rows(&self, args: ConcatRowsArgs<'_, CudaTensor>, shape: [usize; 4]) -> Result<CudaTensor> {
        let gpu = &self.gpu;
        let out = gpu.output(OP, &shape, self.activations())?;
        let mut at = 0;
        for (x, rows) in args.parts {
            let row = x.shape()[2..].iter().product::<usize>() * x.dtype().size();
            let bytes = rows.len() * row;
            let copy = Copy {
                from: (x.allocation().location(), rows.start * row),
                to: (out.allocation().location(), at),
                bytes,
            };
            gpu.enqueue(copy, &[Arg::Read(x), Arg::Write(&out)])?;
            at += bytes;
        }
        Ok(out)
    }
}

/// A copy between tensors, from and to these bytes of them.
#[derive(Debug)]
struct Copy {
    from: (Location, usize),
    to: (Location, usize),
    bytes: usize,
}

impl Work for Copy {
    fn enqueue(&self, stream: &CudaStream) -> Result<()> {
        let failed = |error| fault(OP, error);
        stream.context().bind_to_thread().map_err(failed)?;
        let address = |(location, at): &(Location, usize)| Ok(location.address()? + *at as u64);
        let (from, to) = (address(&self.from)?, address(&self.to)?);
        // SAFETY: both tensors have as many bytes from these addresses on, and their memory is
        // reused only for later work of this stream.
        unsafe { result::memcpy_dtod_async(to, from, self.bytes, stream.cu_stream()) }.map_err(failed)
    }
}
