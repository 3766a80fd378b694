//! A stand-in for the engine, so that the command line compiles and can be tried before there is one: it draws a
//! gradient.
#![allow(missing_docs, missing_debug_implementations, clippy::missing_errors_doc)]

use crate::error::{Error, Result};
use crate::image::{Image, Info};
use crate::model::config::Defaults;
use crate::weights::ModelFolder;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendChoice {
    Auto,
    Cpu,
}

impl std::str::FromStr for BackendChoice {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => Err(Error::Request(format!("no backend is called {name}: choose auto or cpu"))),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Request {
    pub prompts: Vec<String>,
    pub negative: Vec<String>,
    pub width: Option<usize>,
    pub height: Option<usize>,
    pub steps: Option<usize>,
    pub guidance: Option<f32>,
    pub cfg_normalization: f32,
    pub cfg_truncation: f64,
    pub seed: u64,
    pub count: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    TextEncoder,
    Step { done: usize, of: usize },
    Vae,
}

pub trait Progress {
    fn update(&mut self, stage: Stage) -> ControlFlow<()>;
}

impl<F: FnMut(Stage) -> ControlFlow<()>> Progress for F {
    fn update(&mut self, stage: Stage) -> ControlFlow<()> {
        self(stage)
    }
}

#[derive(Debug, Clone, Default)]
pub struct Timings {
    pub text_encoder_ms: f64,
    pub transformer_ms: f64,
    pub step_ms: Vec<f64>,
    pub vae_ms: f64,
    pub total_ms: f64,
}

#[derive(Debug, Clone)]
pub struct Output {
    pub images: Vec<Image>,
    pub timings: Timings,
}

pub struct Engine {
    name: String,
}

impl Engine {
    /// The files that [`Engine::load`] reads. `None`: the embedded default.
    pub fn folder(model: Option<&Path>) -> Result<ModelFolder> {
        model.map_or(Ok(ModelFolder::in_memory("emoji", &[])), ModelFolder::open)
    }
    pub fn load(model: Option<&Path>, _: BackendChoice) -> Result<Engine> {
        let name = Self::folder(model)?.name().to_owned();
        Ok(Engine { name })
    }
    pub fn model(&self) -> &str {
        &self.name
    }
    pub fn backend(&self) -> &'static str {
        "cpu"
    }
    pub fn device(&self) -> String {
        "no device".into()
    }
    pub fn defaults(&self) -> Defaults {
        Defaults { steps: 8, guidance: 0.0, width: 256, height: 256 }
    }
    pub fn warnings(&self) -> &[String] {
        &[]
    }
    pub fn load_ms(&self) -> f64 {
        0.0
    }

    #[allow(clippy::unused_async)]
    pub async fn generate(&self, request: &Request, progress: &mut dyn Progress) -> Result<Output> {
        let start = Instant::now();
        let defaults = self.defaults();
        let (width, height) = (request.width.unwrap_or(defaults.width), request.height.unwrap_or(defaults.height));
        if width % 16 != 0 || height % 16 != 0 || request.count == 0 {
            return Err(Error::Request("width and height must be multiples of 16".into()));
        }
        let steps = request.steps.unwrap_or(defaults.steps);
        let cancelled = |flow: ControlFlow<()>| if flow.is_break() { Err(Error::Cancelled) } else { Ok(()) };
        cancelled(progress.update(Stage::TextEncoder))?;
        cancelled(progress.update(Stage::Step { done: 0, of: steps }))?;
        for done in 1..=steps {
            std::thread::sleep(Duration::from_millis(20));
            cancelled(progress.update(Stage::Step { done, of: steps }))?;
        }
        cancelled(progress.update(Stage::Vae))?;
        let mut images = Vec::new();
        for prompt in &request.prompts {
            for i in 0..request.count {
                let pixels = (0..width * height * 3).map(|p| (p / 3 % width) as u8).collect();
                let info = Info {
                    prompt: prompt.clone(),
                    negative: request.negative.first().cloned().unwrap_or_default(),
                    steps,
                    guidance: request.guidance.unwrap_or(defaults.guidance),
                    cfg_normalization: request.cfg_normalization,
                    cfg_truncation: request.cfg_truncation,
                    seed: request.seed.wrapping_add(i as u64),
                    width,
                    height,
                    model: self.name.clone(),
                    version: env!("CARGO_PKG_VERSION").into(),
                };
                images.push(Image { width, height, pixels, info });
            }
        }
        let timings =
            Timings { step_ms: vec![20.0; steps], total_ms: start.elapsed().as_secs_f64() * 1e3, ..Timings::default() };
        Ok(Output { images, timings })
    }
}
