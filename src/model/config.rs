//! What a model's config files say: every size of the three networks, the schedule, and what to do
//! when the user does not say.
//!
//! Keys that mean nothing here are ignored; keys that ask for something this crate does not do are
//! refused, because a wrong picture is worse than none. Where a key is missing, the default is the
//! one of the reference implementation's class. All sizes are bounded, so that a hostile file
//! cannot make us allocate without bound.

mod keys;
mod parts;
mod scheduler;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::weights::ModelFolder;
use keys::Keys;
pub use parts::{TextEncoderConfig, TransformerConfig, VaeConfig};
pub use scheduler::{DynamicShift, SchedulerConfig, Spacing, TimeShift};

const DEFAULTS: &str = "zimage.json";
const SCHEDULER: &str = "scheduler/scheduler_config.json";
const TEXT_ENCODER: &str = "text_encoder/config.json";
const TRANSFORMER: &str = "transformer/config.json";
const VAE: &str = "vae/config.json";

/// The schedule shift that Z-Image-Turbo is published with.
const TURBO_SHIFT: f64 = 3.0;
/// The schedule shift that the base model is published with.
const BASE_SHIFT: f64 = 6.0;
/// The size that both published models are made for, in pixels.
const NATIVE_SIZE: usize = 1024;
/// The most sizes that a model may name.
const MOST_SIZES: usize = 64;

/// Everything that the config files of one model say.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The image transformer.
    pub transformer: TransformerConfig,
    /// The text encoder.
    pub text_encoder: TextEncoderConfig,
    /// The autoencoder.
    pub vae: VaeConfig,
    /// The denoising schedule.
    pub scheduler: SchedulerConfig,
    /// What a request means that does not say otherwise.
    pub defaults: Defaults,
    variant: &'static str,
}

/// What a request means that does not say otherwise. The model's own file `zimage.json`, beside
/// `model_index.json`, may set each of them; else the schedule's shift tells the published models
/// apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// Denoising steps: 8 for Turbo; 50 else, of the 28 to 50 that the base model's authors
    /// recommend.
    pub steps: usize,
    /// Guidance as diffusers counts it, 0 being none: 0 for Turbo; 4 else, of the 3 to 5 that are
    /// recommended.
    pub guidance: f32,
    /// Width in pixels: that of the first of `sizes`, else 1024 or the most that the model has
    /// positions for.
    pub width: usize,
    /// Height in pixels, chosen like the width.
    pub height: usize,
    /// The sizes `[width, height]` that the model was trained for, the best first. Empty where the
    /// file does not say.
    pub sizes: Vec<[usize; 2]>,
}

impl ModelConfig {
    /// Reads and checks the config files of all parts but the tokenizer.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::File`]; the latter names the file, the key, what was expected and
    /// what was found. Those of reading.
    pub async fn read(folder: &ModelFolder) -> Result<Self> {
        let transformer = TransformerConfig::read(&Keys::read(folder, TRANSFORMER).await?)?;
        let text_encoder = TextEncoderConfig::read(&Keys::read(folder, TEXT_ENCODER).await?)?;
        let vae = VaeConfig::read(&Keys::read(folder, VAE).await?)?;
        let scheduler = SchedulerConfig::read(&Keys::read(folder, SCHEDULER).await?)?;
        let (width, channels) = (transformer.cap_feat_dim, transformer.in_channels);
        agree(folder, ("cap_feat_dim", width), TEXT_ENCODER, ("hidden_size", text_encoder.hidden_size))?;
        agree(folder, ("in_channels", channels), VAE, ("latent_channels", vae.latent_channels))?;
        let own = match folder.exists(DEFAULTS).await? {
            true => Some(Keys::read(folder, DEFAULTS).await?),
            false => None,
        };
        let variant = match own {
            None if scheduler.shift == TURBO_SHIFT => "Turbo",
            None if scheduler.shift == BASE_SHIFT => "base",
            _ => "custom",
        };
        let keys = own.unwrap_or(Keys::empty(folder, DEFAULTS));
        let defaults = Defaults::read(&keys, &transformer, &vae, &scheduler)?;
        Ok(Self { transformer, text_encoder, vae, scheduler, defaults, variant })
    }

    /// Which model this is, for display: `Turbo` or `base` by the schedule's shift, or `custom` for
    /// a model with another shift or with its own `zimage.json`.
    pub fn variant(&self) -> &'static str {
        self.variant
    }

    /// What the width and the height of a picture have to be multiples of: one token's pixels, 16
    /// for Z-Image.
    pub fn size_multiple(&self) -> usize {
        size_multiple(&self.transformer, &self.vae)
    }

    /// The largest `[height, width]` in pixels that the transformer has positions for.
    pub fn largest_size(&self) -> [usize; 2] {
        largest_size(&self.transformer, &self.vae)
    }
}

fn size_multiple(transformer: &TransformerConfig, vae: &VaeConfig) -> usize {
    vae.scale_factor() * transformer.patch_size
}

fn largest_size(transformer: &TransformerConfig, vae: &VaeConfig) -> [usize; 2] {
    let [_, rows, columns] = transformer.axes_lens;
    [rows, columns].map(|n| n * size_multiple(transformer, vae))
}

impl Defaults {
    fn read(
        keys: &Keys,
        transformer: &TransformerConfig,
        vae: &VaeConfig,
        scheduler: &SchedulerConfig,
    ) -> Result<Self> {
        let (steps, guidance) = if scheduler.shift == TURBO_SHIFT { (8, 0.0) } else { (50, 4.0) };
        let multiple = size_multiple(transformer, vae);
        let [highest, widest] = largest_size(transformer, vae);
        let sizes = keys.pairs("sizes", MOST_SIZES)?;
        if sizes.iter().flatten().any(|side| !side.is_multiple_of(multiple))
            || sizes.iter().any(|[width, height]| *width > widest || *height > highest)
        {
            let expected = format!("widths and heights that are multiples of {multiple} up to {widest} and {highest}");
            return Err(keys.wrong("sizes", &expected));
        }
        // 1024 is no multiple of very large tokens.
        let native = NATIVE_SIZE.next_multiple_of(multiple);
        let native = sizes.first().copied().unwrap_or([native.min(widest), native.min(highest)]);
        let size = |key: &str, default: usize, most: usize| {
            let size = keys.count(key, Some(default), multiple..=most)?;
            if size.is_multiple_of(multiple) {
                return Ok(size);
            }
            Err(keys.fault(key, &format!("a multiple of {multiple}"), size))
        };
        Ok(Self {
            steps: keys.count("steps", Some(steps), 1..=1000)?,
            guidance: keys.real("guidance", Some(guidance), 0.0..=1000.0)? as f32,
            width: size("width", native[0], widest)?,
            height: size("height", native[1], highest)?,
            sizes,
        })
    }
}

/// Checks that a size of the transformer, by its key, is the one in another part's file.
fn agree(folder: &ModelFolder, own: (&str, usize), file: &str, other: (&str, usize)) -> Result<()> {
    if own.1 == other.1 {
        return Ok(());
    }
    let transformer = folder.path(TRANSFORMER);
    let problem = format!(
        "{}: expected {}, the {} of {}, found {}: the parts are of different models",
        other.0,
        own.1,
        own.0,
        transformer.display(),
        other.1
    );
    Err(Error::file(&folder.path(file), problem))
}
