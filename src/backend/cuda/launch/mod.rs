//! Launches in stream order, at once or as a recording, and copies between host and device.

pub(crate) mod args;
pub(crate) mod convert;
pub(crate) mod copies;
pub(crate) mod gpu;
pub(crate) mod kernel;
pub(crate) mod recording;
pub(crate) mod streaming;
pub(crate) mod tensor_map;
mod transfer;
