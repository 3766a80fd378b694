//! Buffers of the device: allocation, reuse, tensors and uploads.

pub(crate) mod allocate;
pub(crate) mod pageable;
pub(crate) mod pool;
pub(crate) mod scratch;
pub(crate) mod tensor;
pub(crate) mod upload;
