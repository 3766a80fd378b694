//! Runs Z-Image, the text-to-image model, through one pipeline on any device.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use zimage::{BackendChoice, Engine, Model, Request};
//!
//! let model = Model::embedded()?; // or Model::open("Z-Image-Turbo".as_ref())?
//! let progress = &mut |_| ControlFlow::Continue(());
//! let engine = pollster::block_on(Engine::load(&model, BackendChoice::Auto, progress))?;
//! let request = Request { seed: 7, ..Request::new("a red fox") };
//! let output = pollster::block_on(engine.generate(&request, progress))?;
//! output.images[0].save("fox.png".as_ref())?;
//! # Ok::<(), zimage::Error>(())
//! ```
//!
//! # Modules
//!
//! The pipeline is written once, against a trait of fused ops. Each op has one name, and every backend implements it under
//! that name.
//!
//! | module | holds |
//! | --- | --- |
//! | [`Engine`], [`Model`], [`Request`], [`Image`], [`Error`] | the public face |
//! | [`pipeline`] | prompt → picture, in the order it happens |
//! | [`model`] | the three networks, and the configs that give their sizes |
//! | [`weights`] | files → named tensors |
//! | [`backend`] | the ops, each defined by a formula with shapes and types; [`backend::cpu`] is their meaning in plain Rust, `backend::webgpu` runs them on any GPU, `backend::cuda` on NVIDIA's |
//! | [`mod@bench`] | how fast a backend is: every op at the sizes of a model, every stage and whole pictures |
//! | [`conformance`] | whether a backend is right: cases for every op, every stage and whole pictures |
//!
//! Dependencies point one way: engine → pipeline → model → backend (the trait), with weights beside model. `pipeline` and
//! `model` never name a backend, and backends never see Z-Image or each other. `conformance` and `bench` are beside the
//! engine: they compare and measure any backends and any pipelines, without naming one.
//!
//! # The way of a prompt
//!
//! 1. [`Request::check`](pipeline::request::Request::check) turns what was asked for into a job, or into a sentence,
//!    before anything runs.
//! 2. [`pipeline::prompt`] puts the prompt into Qwen's chat template and into tokens.
//! 3. [`model::text_encoder`] turns tokens into the hidden states before its last block.
//! 4. [`model::transformer`] embeds and refines them: once a prompt.
//! 5. [`pipeline::noise`] draws the latents that `torch.Generator("cpu")` draws for the same seed.
//! 6. [`pipeline::schedule`] writes times, step sizes and guidance as tables that the device reads.
//! 7. One denoising step, [`model::transformer::Transformer::forward`] and
//!    [`guide_and_step`](backend::Backend::guide_and_step), is recorded once and replayed for every step.
//! 8. [`model::vae`] decodes the latents to pixels, and [`Image`] writes them as a PNG that says what made it.

pub mod backend;
pub mod bench;
pub mod conformance;
mod engine;
mod error;
mod future;
mod image;
pub mod model;
mod named;
mod output_file;
pub mod pipeline;
mod png_text;
pub mod reserve;
mod sync;
pub mod tensor;
#[cfg(all(target_family = "wasm", feature = "webgpu"))]
pub mod web;
pub mod weights;

pub use engine::{BackendChoice, DeviceInfo, Engine, LoadOptions, Output, Precision, bench, devices, parity, stages};
pub use error::{Error, ErrorKind, MemoryKind, Result};
pub use image::{Image, Info};
pub use model::Model;
pub use model::vae::tiling::VaeTile;
pub use output_file::OutputFile;
pub use pipeline::preview::Preview;
pub use pipeline::progress::{Progress, Stage, Timings};
pub use pipeline::request::Request;
pub use pipeline::{Offload, RunInfo};
pub use png_text::{Foreign, PngText};
