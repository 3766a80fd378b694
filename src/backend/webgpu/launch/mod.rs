//! Programs, and their dispatches in order: at once or recorded.

pub(crate) mod binding;
mod dispatch;
pub(crate) mod event;
pub(crate) mod gpu;
pub(crate) mod program;
pub(crate) mod recording;
pub(crate) mod shader;
pub(crate) mod streaming;
mod transfer;
pub(crate) mod uniform;
