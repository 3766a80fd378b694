//! The lowest layer: NVIDIA's libraries, the device, and kernels from source text to loaded code.

pub(crate) mod device;
pub(crate) mod error;
pub(crate) mod files;
pub(crate) mod functions;
pub(crate) mod kernels;
pub(crate) mod library;
pub(crate) mod nvrtc;
pub(crate) mod program;
