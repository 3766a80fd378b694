pub(crate) mod device;
pub(crate) mod functions;
pub(crate) mod kernels;
pub(crate) mod library;
pub(crate) mod nvrtc;
pub(crate) mod program;
