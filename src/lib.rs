//! Runs Z-Image.
pub mod backend;
mod engine;
mod error;
mod image;
pub mod model;
pub mod weights;

pub use engine::{BackendChoice, Engine, Output, Progress, Request, Stage, Timings};
pub use error::{Error, ErrorKind, Result};
pub use image::{Image, Info, PngText};
