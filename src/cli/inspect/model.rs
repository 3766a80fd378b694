//! The parts of a model's folder, from its config files and the headers of its weights; no weight
//! is read.

use crate::cli;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use zimage::Result;
use zimage::model::config::{ModelConfig, TextEncoderConfig, TransformerConfig, VaeConfig};
use zimage::pipeline::prompt;
use zimage::weights::{ModelFolder, Tensors};

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
    types: BTreeMap<String, Stored>,
    shape: S,
}

/// The tensors of one element type.
#[derive(Default, Serialize)]
struct Stored {
    tensors: usize,
    parameters: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct TransformerShape {
    dim: usize,
    layers: usize,
    refiner_layers: usize,
    heads: usize,
    head_dim: usize,
    feed_forward_dim: usize,
    caption_dim: usize,
    latent_channels: usize,
    patch_size: usize,
}

#[derive(Serialize)]
struct TextEncoderShape {
    dim: usize,
    layers: usize,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    feed_forward_dim: usize,
    vocabulary: usize,
}

#[derive(Serialize)]
struct VaeShape {
    channels: Vec<usize>,
    layers_per_block: usize,
    latent_channels: usize,
    /// Pixels along each side of a latent pixel.
    scale_factor: usize,
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
        let shape = &parts.transformer.shape;
        rows.extend(parts.transformer.describe(
            "transformer",
            format!(
                "{} layers and {} + {} refiners, width {}, {} heads of {}, feed-forward {}",
                shape.layers,
                shape.refiner_layers,
                shape.refiner_layers,
                shape.dim,
                shape.heads,
                shape.head_dim,
                shape.feed_forward_dim,
            ),
        ));
        let shape = &parts.text_encoder.shape;
        rows.extend(parts.text_encoder.describe(
            "text_encoder",
            format!(
                "{} layers, width {}, {} query and {} key-value heads of {}, feed-forward {}, vocabulary {}",
                shape.layers,
                shape.dim,
                shape.heads,
                shape.key_value_heads,
                shape.head_dim,
                shape.feed_forward_dim,
                grouped(shape.vocabulary as u64),
            ),
        ));
        let shape = &parts.vae.shape;
        let channels: Vec<_> = shape.channels.iter().map(usize::to_string).collect();
        rows.extend(parts.vae.describe(
            "vae",
            format!(
                "blocks of {} channels, {} each, {} latent channels at 1/{} of the size",
                channels.join(", "),
                plural(shape.layers_per_block, "layer"),
                shape.latent_channels,
                shape.scale_factor,
            ),
        ));
        rows.push(("tokenizer", size(parts.tokenizer.bytes)));
        cli::table(&rows)
    }
}

impl<S> Part<S> {
    async fn read(folder: &ModelFolder, part: &str, stem: &str, shape: S) -> Result<Self> {
        let tensors = Tensors::open(folder, part, stem).await?;
        let mut types = BTreeMap::<String, Stored>::new();
        for tensor in tensors.iter() {
            let of = types.entry(format!("{:?}", tensor.dtype)).or_default();
            of.tensors += 1;
            of.parameters = of.parameters.saturating_add(tensor.elements() as u64);
            of.bytes = of.bytes.saturating_add(tensor.bytes);
        }
        let sum = |of: fn(&Stored) -> u64| types.values().map(of).fold(0, u64::saturating_add);
        Ok(Self {
            bytes: sum(|of| of.bytes),
            parameters: sum(|of| of.parameters),
            tensors: tensors.len(),
            files: tensors.files().len(),
            types,
            shape,
        })
    }

    fn describe(&self, name: &'static str, shape: String) -> Vec<(&'static str, String)> {
        let types: Vec<_> = match self.types.len() {
            1 => self.types.keys().cloned().collect(),
            _ => self.types.iter().map(|(name, of)| format!("{name} {}", amount(of.parameters, of.bytes))).collect(),
        };
        let tensors = plural(self.tensors, "tensor");
        let files = plural(self.files, "file");
        let weights = format!("{}: {tensors} in {files}, {}", amount(self.parameters, self.bytes), types.join("; "));
        vec![(name, weights), ("", shape)]
    }
}

impl From<&TransformerConfig> for TransformerShape {
    fn from(config: &TransformerConfig) -> Self {
        Self {
            dim: config.dim,
            layers: config.n_layers,
            refiner_layers: config.n_refiner_layers,
            heads: config.n_heads,
            head_dim: config.head_dim(),
            feed_forward_dim: config.ffn_dim(),
            caption_dim: config.cap_feat_dim,
            latent_channels: config.in_channels,
            patch_size: config.patch_size,
        }
    }
}

impl From<&TextEncoderConfig> for TextEncoderShape {
    fn from(config: &TextEncoderConfig) -> Self {
        Self {
            dim: config.hidden_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            feed_forward_dim: config.intermediate_size,
            vocabulary: config.vocab_size,
        }
    }
}

impl From<&VaeConfig> for VaeShape {
    fn from(config: &VaeConfig) -> Self {
        Self {
            channels: config.block_out_channels.clone(),
            layers_per_block: config.layers_per_block,
            latent_channels: config.latent_channels,
            scale_factor: config.scale_factor(),
        }
    }
}

fn amount(parameters: u64, bytes: u64) -> String {
    format!("{} parameters, {}", grouped(parameters), size(bytes))
}

fn plural(count: usize, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count as u64), if count == 1 { "" } else { "s" })
}

/// `12,345,678`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the decimal units that disks and download pages use.
fn size(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (6_154_908_736, "6,154,908,736")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(plural(1, "file") + ", " + &plural(1521, "tensor"), "1 file, 1,521 tensors");
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        for (bytes, text) in [(0, "0 bytes"), (1000, "1.0 kB"), (24_690_000, "24.7 MB"), (12_309_817_472, "12.31 GB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
