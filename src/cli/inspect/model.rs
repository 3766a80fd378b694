//! The parts of a model's folder, from its config files and the headers of its weights; no weight
//! is read.

use super::amounts::{Types, amount, plural, size, types_line};
use super::shape::{TextEncoderShape, TransformerShape, VaeShape};
use crate::cli;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use zimage::Result;
use zimage::model::config::ModelConfig;
use zimage::pipeline::prompt;
use zimage::weights::{Amount, ModelFolder, Tensors};

/// The document of `--json`. Sizes are in bytes, and sides of pictures in pixels.
#[derive(Serialize)]
struct Model {
    model: String,
    variant: &'static str,
    /// Of the weights, as all that follow.
    bytes: u64,
    parameters: u64,
    defaults: Defaults,
    /// Both sides of a picture are multiples of this.
    size_multiple: usize,
    /// Width and height.
    largest_size: [usize; 2],
    scheduler: Scheduler,
    parts: Parts,
}

#[derive(Serialize)]
struct Defaults {
    steps: usize,
    guidance: f32,
    width: usize,
    height: usize,
    /// Widths and heights that the model was trained for; empty where its files do not say.
    sizes: Vec<[usize; 2]>,
}

#[derive(Serialize)]
struct Scheduler {
    shift: f64,
    /// The whole schedule, for display.
    schedule: String,
}

#[derive(Serialize)]
struct Parts {
    transformer: Part<TransformerShape>,
    text_encoder: Part<TextEncoderShape>,
    vae: Part<VaeShape>,
    tokenizer: Tokenizer,
}

#[derive(Serialize)]
struct Tokenizer {
    bytes: u64,
}

/// A network: its weights as they are stored, and its shape.
#[derive(Serialize)]
struct Part<S> {
    bytes: u64,
    parameters: u64,
    tensors: usize,
    files: usize,
    types: Types,
    shape: S,
}

pub(super) fn run(folder: Option<&Path>, json: bool) -> Result<()> {
    let folder = folder.map_or_else(ModelFolder::embedded, ModelFolder::open)?;
    let model = pollster::block_on(Model::read(&folder))?;
    if json { cli::print_json(&model) } else { cli::print(&model.describe()) }
}

impl Tokenizer {
    async fn read(folder: &ModelFolder) -> Result<Self> {
        let mut bytes = 0;
        for file in prompt::Tokenizer::files(folder).await? {
            bytes += folder.read(file).await?.len() as u64;
        }
        Ok(Self { bytes })
    }
}

impl Model {
    async fn read(folder: &ModelFolder) -> Result<Self> {
        let config = ModelConfig::read(folder).await?;
        let parts = Parts {
            transformer: Part::read(folder, "transformer", "diffusion_pytorch_model", (&config.transformer).into())
                .await?,
            text_encoder: Part::read(folder, "text_encoder", "model", (&config.text_encoder).into()).await?,
            vae: Part::read(folder, "vae", "diffusion_pytorch_model", (&config.vae).into()).await?,
            tokenizer: Tokenizer::read(folder).await?,
        };
        let [rows, columns] = config.largest_size();
        let defaults = &config.defaults;
        let sum = |of: [u64; 3]| of.into_iter().fold(0, u64::saturating_add);
        Ok(Self {
            model: folder.name().to_owned(),
            variant: config.variant(),
            bytes: sum([parts.transformer.bytes, parts.text_encoder.bytes, parts.vae.bytes]),
            parameters: sum([parts.transformer.parameters, parts.text_encoder.parameters, parts.vae.parameters]),
            defaults: Defaults {
                steps: defaults.steps,
                guidance: defaults.guidance,
                width: defaults.width,
                height: defaults.height,
                sizes: defaults.sizes.clone(),
            },
            size_multiple: config.size_multiple(),
            largest_size: [columns, rows],
            scheduler: Scheduler { shift: config.scheduler.shift, schedule: config.scheduler.to_string() },
            parts,
        })
    }

    /// The same for display.
    fn describe(&self) -> String {
        let Self { defaults, parts, .. } = self;
        let [width, height] = self.largest_size;
        let mut rows = vec![
            ("model", format!("{} ({})", self.model, self.variant)),
            ("weights", amount(self.parameters, self.bytes)),
            (
                "defaults",
                format!(
                    "{} steps, guidance {}, {}×{}",
                    defaults.steps, defaults.guidance, defaults.width, defaults.height
                ),
            ),
            ("sizes", format!("multiples of {}, at most {width}×{height}", self.size_multiple)),
            ("scheduler", self.scheduler.schedule.clone()),
        ];
        rows.extend(parts.transformer.describe("transformer", parts.transformer.shape.describe()));
        rows.extend(parts.text_encoder.describe("text_encoder", parts.text_encoder.shape.describe()));
        rows.extend(parts.vae.describe("vae", parts.vae.shape.describe()));
        rows.push(("tokenizer", size(parts.tokenizer.bytes)));
        cli::table(&rows)
    }
}

impl<S> Part<S> {
    async fn read(folder: &ModelFolder, part: &str, stem: &str, shape: S) -> Result<Self> {
        let tensors = Tensors::open(folder, part, stem).await?;
        let mut types = BTreeMap::<String, Amount>::new();
        for tensor in tensors.iter() {
            let of = types.entry(tensor.dtype.to_string()).or_default();
            of.tensors += 1;
            of.parameters = of.parameters.saturating_add(tensor.elements() as u64);
            of.bytes = of.bytes.saturating_add(tensor.bytes);
        }
        let sum = |of: fn(&Amount) -> u64| types.values().map(of).fold(0, u64::saturating_add);
        Ok(Self {
            bytes: sum(|of| of.bytes),
            parameters: sum(|of| of.parameters),
            tensors: tensors.len(),
            files: tensors.files().len(),
            types: types.into_iter().map(|(name, of)| (name, of.into())).collect(),
            shape,
        })
    }

    fn describe(&self, name: &'static str, shape: String) -> Vec<(&'static str, String)> {
        let tensors = plural(self.tensors, "tensor");
        let files = plural(self.files, "file");
        let weights =
            format!("{}: {tensors} in {files}, {}", amount(self.parameters, self.bytes), types_line(&self.types));
        vec![(name, weights), ("", shape)]
    }
}
