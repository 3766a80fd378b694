//! The backend trait: the ops that the pipeline is written in, and the runtime under them.
//!
//! An op is as much work as a GPU should do in one pass over memory. [`ops`] defines each one by a
//! formula with shapes and types, [`cpu`] is its executable meaning, `shaders/` and `kernels/` hold
//! it for GPUs under the same name, and [`crate::conformance`] compares them.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(any(feature = "cuda", feature = "webgpu"))]
mod gpu;
pub mod ops;
mod runtime;
pub(crate) mod shape;
#[cfg(feature = "webgpu")]
pub mod webgpu;

pub use ops::*;
pub use runtime::{DeviceTensor, DeviceWeight, Fp8Form, Overheads, Runtime};

/// Defines [`Backend`] as the sum of the runtime and the ops.
macro_rules! backend {
    ($($op:ident),+ $(,)?) => {
        /// A GPU, a CPU, anything that computes the ops. It is implemented for every type that has
        /// a runtime and all ops.
        pub trait Backend: Runtime $(+ $op)+ {}

        impl<B: Runtime $(+ $op)+> Backend for B {}
    };
}

// The one list of the ops.
backend! {
    AttentionOp,
    ConcatRowsOp,
    Conv2dOp,
    EmbedPatchesOp,
    FinalLayerOp,
    GatherRowsOp,
    GroupMomentsOp,
    GroupNormOp,
    JoinSequenceOp,
    LinearOp,
    ModulationOp,
    NormalizeGroupsOp,
    NormalizeRgb8Op,
    PadRowsOp,
    ProjectQkvOp,
    QkNormRopeOp,
    ResidualNormOp,
    ResidualOp,
    RmsNormOp,
    SamplerStepOp,
    ScaleLatentsOp,
    SwiGluOp,
    TimestepEmbeddingOp,
    ToRgb8Op,
    UnscaleLatentsOp,
}
