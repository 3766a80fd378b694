//! Runs Z-Image.
pub mod backend;
mod engine;
mod error;
mod image;

pub use engine::{BackendChoice, Defaults, Engine, Output, Progress, Request, Stage, Timings};
pub use error::{Error, ErrorKind, Result};
pub use image::{Image, Info, PngText};
