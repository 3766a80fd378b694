//! Runs Z-Image.
pub mod backend;
mod error;

pub use error::{Error, ErrorKind, Result};
