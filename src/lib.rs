//! Runs Z-Image, the text-to-image model, through one pipeline on any device.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use zimage::{BackendChoice, Engine, Model, Request};
//!
//! let model = Model::embedded()?; // or Model::open("Z-Image-Turbo".as_ref())?, a folder or a file
//! let progress = &mut |_| ControlFlow::Continue(());
//! let engine = pollster::block_on(Engine::load(&model, BackendChoice::Auto, progress))?;
//! let request = Request { seed: 7, ..Request::new("a red fox") };
//! let output = pollster::block_on(engine.generate(&request, progress))?;
//! output.images[0].save("fox.png".as_ref())?;
//! # Ok::<(), zimage::Error>(())
//! ```
//!
//! # Cargo features
//!
//! | feature | default | adds |
//! | --- | --- | --- |
//! | `cli` | yes | the dependencies of the program `zimage`; a library needs none of them |
//! | `hub` | with `cli` | `weights::hub`: downloads from the Hugging Face hub, on targets with files and threads |
//! | `embedded-model` | yes | [`Model::embedded`], a small model compiled in (9 MB) |
//! | `webgpu` | yes | `backend::webgpu`: any GPU through Vulkan, Metal or Direct3D 12, and in the browser |
//! | `cuda` | yes | `backend::cuda`: NVIDIA GPUs; needs no CUDA to build |
//!
//! [`backend::cpu`] is always there.
//!
//! # Models from several files
//!
//! [`weights::Sources`] names the place of each part: a diffusers folder, a part's own folder, or a
//! safetensors or GGUF file in the formats of ComfyUI, stable-diffusion.cpp and llama.cpp. LoRA
//! files change the weights as they are read.
//!
//! ```no_run
//! use zimage::Model;
//! use zimage::weights::{Lora, Sources, Unused};
//!
//! let sources = Sources {
//!     text_encoder: Some("Qwen3-4B-Q4_K_M.gguf".into()),
//!     vae: Some("ae.safetensors".into()),
//!     ..Sources::of("z_image_turbo-Q4_K.gguf")
//! };
//! let model = Model::from_sources(&sources)?;
//! let lora = pollster::block_on(Lora::open("style.safetensors".as_ref()))?;
//! let (model, reports) = pollster::block_on(model.with_loras(&[(lora, 0.8)], Unused::Refuse))?;
//! println!("{}", reports[0]); // style.safetensors: 480 of 480 tensors applied (240 layers), …
//! # Ok::<(), zimage::Error>(())
//! ```
//!
//! `weights::hub::Hub::resolve` gives the path of a model on the Hugging Face hub, and downloads it
//! if need be. [`weights::identify()`] names the kind of a file.
//!
//! # Calls that block
//!
//! [`Engine`]'s methods are `async` because a model's files may be remote and because a browser
//! never blocks. On other targets their futures do their work while they are polled, a poll waits
//! for the device, and the futures are not `Send`. So a program of one thread calls
//! `pollster::block_on`, as above, and an async server uses a `Worker`: it runs the engine on a
//! thread of its own behind a handle that is `Send + Sync + Clone`, and its futures only wait.
//! [`Model::open`], [`Model::from_sources`], [`Model::embedded`], [`Image::open`] and
//! [`Image::save`] read and write files, and block; the calls of `weights::hub` wait for a network.
//!
//! # Modules
//!
//! The pipeline is written once, against a trait of fused ops. Each op has one name, and every
//! backend implements it under that name.
//!
//! | module | holds |
//! | --- | --- |
//! | [`Engine`], `Worker`, [`Model`], [`Request`], [`Image`], [`Error`] | the public face |
//! | [`pipeline`] | prompt → picture, one file a step |
//! | [`model`] | the three networks, and the configs that give their sizes |
//! | [`weights`] | files, folders and names on the hub → named tensors |
//! | [`tensor`] | storage formats, element types, and tensors on the host |
//! | [`backend`] | the ops, each defined by a formula with shapes and types; [`backend::cpu`] is their meaning in plain Rust, `backend::webgpu` runs them on any GPU, `backend::cuda` on NVIDIA's |
//! | [`catalogue`] | sizes, inputs, tolerances and cost of each op, and the arguments that it rejects |
//! | [`mod@bench`] | the speed of a backend: every op at the sizes of a model, every stage and whole pictures |
//! | [`conformance`] | the correctness of a backend: cases for every op, every stage and whole pictures |
//!
//! Dependencies point one way: engine → bench, conformance → catalogue → pipeline → model →
//! weights → tensor, and catalogue, pipeline, model → backend (the trait) → tensor. `pipeline` and
//! `model` never name a backend, and backends never see Z-Image or each other. Only the engine
//! names them all.
//!
//! # From prompt to picture
//!
//! 1. [`Request::check`](pipeline::request::Request::check) turns a request into a job, or into an
//!    error, before anything runs.
//! 2. [`pipeline::prompt`] puts the prompt into Qwen's chat template and into tokens.
//! 3. [`model::text_encoder`] turns tokens into the hidden states before its last block.
//! 4. [`model::transformer`] embeds and refines them: once a prompt.
//! 5. [`pipeline::noise`] draws the latents that `torch.Generator("cpu")` draws for the same seed.
//! 6. [`pipeline::schedule`] and [`pipeline::guidance`] give times, step sizes and guidance, which
//!    become tables on the device.
//! 7. [`pipeline::sampler`] records one denoising step,
//!    [`model::transformer::Transformer::forward`] and
//!    [`sampler_step`](backend::SamplerStepOp::sampler_step), and the loop replays it for every
//!    step.
//! 8. [`model::vae`] decodes the latents to pixels, and [`Image`] writes them as a PNG with the
//!    values that made them.

pub mod backend;
pub mod bench;
pub mod catalogue;
pub mod conformance;
mod engine;
mod error;
mod future;
mod image;
mod json;
pub mod model;
mod named;
mod numbers;
mod output_file;
pub mod pipeline;
pub mod reserve;
mod sync;
pub mod tensor;
#[cfg(all(target_family = "wasm", feature = "webgpu"))]
pub mod web;
pub mod weights;

pub use bench::Estimate;
pub use engine::{
    BackendChoice, DeviceInfo, Engine, LoadOptions, Output, Planned, Precision, bench, devices, parity, plan, stages,
};
#[cfg(not(target_family = "wasm"))]
pub use engine::{Event, Generation, Worker};
pub use error::{Error, ErrorKind, HubCause, MemoryKind, Result};
pub use image::{Foreign, Image, Info, LoraInfo, PngText};
pub use model::Model;
pub use model::vae::tiling::{Home, Tile, VaeTile};
pub use output_file::OutputFile;
pub use pipeline::plan::{Needs, Obstacle, Plan};
pub use pipeline::preview::Preview;
pub use pipeline::progress::{Progress, Stage, Timings};
pub use pipeline::request::Request;
pub use pipeline::{Offload, RunInfo};
