//! The device: adapters, shader variants, faults and compiled pipelines.

pub(crate) mod adapters;
pub(crate) mod device;
mod faults;
mod pipeline_cache;
pub(crate) mod pipelines;
pub(crate) mod signal;
pub(crate) mod variant;
