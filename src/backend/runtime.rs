//! The runtime part of a backend: tensors, memory, recordings and order.

use super::shape;
use crate::error::Result;
use crate::tensor::{Compute, DType, Format, HostTensor};
use std::fmt::Debug;

/// A tensor in a device's memory. Cloning it shares the memory.
pub trait DeviceTensor: Clone + Debug {
    /// Sizes, outermost first.
    fn shape(&self) -> &[usize];

    /// The type of the elements; U8 for tensors in FP8.
    fn dtype(&self) -> DType;

    /// The form of a tensor in FP8, which only the ops for that form read; `None` for all others.
    fn fp8(&self) -> Option<Fp8Form> {
        None
    }

    /// [`Compute::Fp8`] for a tensor in FP8 of either form.
    fn compute(&self) -> Compute {
        if self.fp8().is_some() { Compute::Fp8 } else { Compute::Native }
    }

    /// True if both tensors use the same memory.
    fn shares(&self, other: &Self) -> bool;

    /// The same memory under `shape`, which has the same number of elements.
    fn with_shape(&self, shape: &[usize]) -> Self;

    /// The same memory under another shape.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when `shape` has another number of elements, or
    /// another last dimension for the operand of an FP8 gemm, whose scales are of its rows or
    /// columns, or is not that of a projection in FP8, which has a layout of its own.
    fn reshaped(&self, shape: &[usize]) -> Result<Self> {
        shape::reshaped(self.shape(), shape)?;
        let (fits, kept) = match self.fp8() {
            None => (true, ""),
            Some(Fp8Form::Operand) => (self.shape().last() == shape.last(), "a tensor in FP8 keeps its last dimension"),
            Some(Fp8Form::Projection { .. }) => (self.shape() == shape, "a projection in FP8 keeps its shape"),
        };
        shape::ensure(fits, "reshape", || format!("{kept}: {:?} cannot become {shape:?}", self.shape()))?;
        Ok(self.with_shape(shape))
    }
}

/// The form of a tensor in FP8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fp8Form {
    /// The operand of a gemm: E4M3 codes with F32 scales, one a row or one for each
    /// [`FP8_BLOCK`](crate::tensor::FP8_BLOCK) columns of a row.
    Operand,
    /// A fused projection of E4M3 codes with F32 scales: one for all queries, one for all keys, and
    /// for the values one for each head and [`FP8_VALUE_TOKENS`](crate::tensor::FP8_VALUE_TOKENS)
    /// tokens of an item. A backend may store the columns of a head in any order that queries and
    /// keys share, and values in any layout. A download has all in the order of an activation.
    Projection {
        /// The columns of the queries, which come first.
        queries: usize,
        /// The columns of the keys, which follow. There are as many of the values.
        keys: usize,
    },
}

/// Weights on a device, in a layout that the backend chooses.
pub trait DeviceWeight<const N: usize>: Debug {
    /// Sizes, in the order that the op defines.
    fn dims(&self) -> [usize; N];

    /// The type of the operands of its gemms.
    fn compute(&self) -> Compute {
        Compute::Native
    }
}

/// The device memory that a backend takes beside tensors, for plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overheads {
    /// Bytes for tables, latents and other small tensors.
    pub small: u64,
    /// Bytes for each element of a quantised matrix during its gemm.
    pub dequantized: u64,
    /// The most bytes that quantised matrices take during a gemm.
    pub most_dequantized: u64,
    /// The bytes through which weights are streamed, in multiples of the largest matrix; `None` if
    /// [`Weight::streamed`](crate::tensor::Weight::streamed) has no effect. A streamed matrix is
    /// copied to the device before each use, a streamed table is read in host memory.
    pub streamed: Option<u64>,
    /// The most bytes through which weights are streamed.
    pub most_streamed: u64,
    /// Bytes for each element of the copy that a gemm makes of its activations; 0 if it reads them
    /// where they are.
    pub operand: u64,
    /// True if activations have buffers of their own, which only activations of a similar size
    /// reuse. A decoder then takes the memory of all its levels. Otherwise it takes that of the
    /// largest level.
    pub pools_buffers: bool,
}

/// Tensors, memory and order.
///
/// Ops may run later than they are called, in the order of the calls. Only [`Runtime::download`]
/// and [`Runtime::wait`] wait for them. Uploads wait only for the weights: a weight in memory is
/// ready when the future is polled for the first time.
pub trait Runtime: Sized + Debug {
    /// Device memory with a shape and an element type.
    type Tensor: DeviceTensor;
    /// A sequence of ops that is replayed without host work (a CUDA graph; prepared wgpu
    /// dispatches).
    type Recording: Debug;
    /// A point in the op order that the host can wait for.
    type Event: Debug;

    /// Maximum number of replays in flight: enough to keep the device busy, few enough to cancel
    /// quickly. 1 if ops run as they are called.
    const IN_FLIGHT: usize;

    /// True if recordings share their memory, so that another recording costs memory only when it
    /// needs more than the others.
    const RECORDINGS_SHARE_MEMORY: bool = false;

    /// The backend's name in the user interface: `cpu`, `webgpu`, `cuda`.
    fn name(&self) -> &'static str;

    /// A description of the device.
    fn device(&self) -> String;

    /// The type of activations. A tensor uploaded in this type can be used as an activation without
    /// a conversion.
    fn activations(&self) -> DType {
        DType::F32
    }

    /// The type to which gemms (`linear`, `swiglu`, `attention`, `conv2d` and the ops that contain
    /// one) round their operands; F32 means no rounding. Accumulation is always F32. Conformance
    /// derives its tolerances from this.
    fn operands(&self) -> DType {
        DType::F32
    }

    /// The device type of matrices, kernels and tables that are stored as `stored`.
    fn weights(&self, stored: DType) -> DType {
        stored
    }

    /// True if matrices and tables of this quantised format, with any scales beside them, stay
    /// quantised on the device. Others become [`Runtime::weights`] of their decoded type during the
    /// upload.
    fn keeps(&self, format: Format) -> bool {
        let _ = format;
        false
    }

    /// True if gemms multiply FP8 operands: matrices that are
    /// [`computed_in`](crate::tensor::Weight::computed_in) it by activations that an op wrote so.
    fn computes_fp8(&self) -> bool {
        false
    }

    /// The device memory that this backend takes beside tensors.
    fn overheads(&self) -> Overheads {
        Overheads::default()
    }

    /// Maximum number of elements of an activation, independent of free memory; `usize::MAX` means
    /// no limit. Callers use it to choose sizes that fit.
    fn largest_activation(&self) -> usize {
        usize::MAX
    }

    /// Free bytes of the device's memory; `None` if unknown or if the device uses host memory.
    /// Callers use it to decide which networks are resident together.
    fn free_memory(&self) -> Option<u64> {
        None
    }

    /// Limits the bytes that [`Runtime::peak_memory`] counts: an allocation beyond them is out of
    /// memory, and [`Runtime::free_memory`] tells what is left. False if the backend uses host
    /// memory.
    fn limit_memory(&self, bytes: u64) -> bool {
        let _ = bytes;
        false
    }

    /// Peak bytes allocated since the backend was opened: tensors, cached memory and recordings,
    /// without the driver's own. `None` if unknown.
    fn peak_memory(&self) -> Option<u64> {
        None
    }

    /// Marks the end of a stage. Cached memory that no tensor uses is freed, or handed to the next
    /// stage before an allocation would raise the peak.
    fn trim(&self) {}

    /// Copies a tensor to the device, in its stored type or widened exactly. Like all uploads it
    /// takes effect at once, also inside [`Runtime::record`].
    fn upload(&self, tensor: &HostTensor) -> Result<Self::Tensor> {
        shape::not_empty("upload", "the tensor", tensor.shape())?;
        self.run_upload(tensor)
    }

    /// Runs [`Runtime::upload`] on a non-empty tensor.
    fn run_upload(&self, tensor: &HostTensor) -> Result<Self::Tensor>;

    /// Copies a tensor back after all earlier ops have run; an error inside [`Runtime::record`].
    /// F32, U32 and U8 come back unchanged, activations in the backend's own type, FP8 operands as
    /// F32.
    fn download(&self, tensor: &Self::Tensor) -> impl Future<Output = Result<HostTensor>>;

    /// Records the ops that `steps` calls instead of running them. Tensors made inside belong to
    /// the recording: after a replay they can be read while both exist, until another recording is
    /// made or replayed. Tensors from outside are read and written in place at each replay.
    /// Recordings do not nest.
    fn record(&self, steps: impl FnOnce(&Self) -> Result<()>) -> Result<Self::Recording>;

    /// Runs a recording once; an error inside [`Runtime::record`].
    fn replay(&self, recording: &Self::Recording) -> Result<()>;

    /// Marks the point after all earlier calls.
    fn event(&self) -> Result<Self::Event>;

    /// Waits until all ops before `event` have run.
    fn wait(&self, event: Self::Event) -> impl Future<Output = Result<()>>;
}
