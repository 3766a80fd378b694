//! Runs Z-Image, the text-to-image model, through one pipeline on any device.
pub mod backend;
pub mod conformance;
mod engine;
mod error;
mod image;
pub mod model;
pub mod pipeline;
pub mod weights;

pub use engine::{BackendChoice, Engine, Output};
pub use error::{Error, ErrorKind, Result};
pub use image::{Image, Info, PngText};
pub use model::Model;
pub use pipeline::progress::{Progress, Stage, Timings};
pub use pipeline::request::Request;
