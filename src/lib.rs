//! Runs Z-Image.
pub mod backend;
mod error;
pub mod model;
pub mod pipeline;
pub mod weights;

pub use error::{Error, ErrorKind, Result};
