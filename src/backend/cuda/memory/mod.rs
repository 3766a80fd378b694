//! Device memory: arenas, layouts of recordings, tensors in them, and staging buffers for uploads.

pub(crate) mod allocation;
pub(crate) mod arena;
mod free_list;
pub(crate) mod layout;
pub(crate) mod page_locked;
pub(crate) mod pageable;
pub(crate) mod projection;
pub(crate) mod ring;
pub(crate) mod staging;
pub(crate) mod tensor;
#[cfg(test)]
mod tests;
