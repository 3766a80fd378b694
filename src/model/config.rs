//! A model's config files: every size of the three networks, the schedule, and the defaults of a
//! request.
//!
//! Keys without a meaning here are ignored. Keys that request an unimplemented feature are refused,
//! because a wrong picture is worse than no picture. The default of a missing key is that of the
//! reference implementation's class. All sizes are bounded, so a hostile file cannot cause
//! unbounded allocations.

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

/// The schedule shift of the published Z-Image-Turbo.
const TURBO_SHIFT: f64 = 3.0;
/// The schedule shift of the published base model.
const BASE_SHIFT: f64 = 6.0;
/// The native size of both published models, in pixels.
const NATIVE_SIZE: usize = 1024;
/// Maximum number of sizes that a model may list.
const MOST_SIZES: usize = 64;

/// The contents of a model's config files.
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
    /// The defaults of a request.
    pub defaults: Defaults,
    variant: &'static str,
}

/// The defaults of a request. The model's own file `zimage.json`, next to `model_index.json`, may
/// set each of them; else the schedule's shift distinguishes the published models.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// Denoising steps: 8 for Turbo, else 50. The base model's authors recommend 28 to 50.
    pub steps: usize,
    /// Guidance as diffusers counts it, 0 meaning off: 0 for Turbo, else 4. The authors recommend 3
    /// to 5.
    pub guidance: f32,
    /// Width in pixels: the first of `sizes`, else 1024 or the maximum of the model's positions.
    pub width: usize,
    /// Height in pixels, chosen like the width.
    pub height: usize,
    /// The sizes `[width, height]` that the model was trained for, best first. Empty if the file
    /// lists none.
    pub sizes: Vec<[usize; 2]>,
}

impl ModelConfig {
    /// Reads and checks the config files of all parts except the tokenizer.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::File`]; the latter names the file, the key, the expected and the
    /// found value. Read errors.
    pub async fn read(folder: &ModelFolder) -> Result<Self> {
        let transformer = TransformerConfig::of(folder).await?;
        let text_encoder = TextEncoderConfig::of(folder).await?;
        let vae = VaeConfig::of(folder).await?;
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

    /// The model's variant, for display: `Turbo` or `base` by the schedule's shift, or `custom` for
    /// a model with another shift or with its own `zimage.json`.
    pub fn variant(&self) -> &'static str {
        self.variant
    }

    /// Width and height of a picture are multiples of this: the pixels of one token, 16 for
    /// Z-Image.
    pub fn size_multiple(&self) -> usize {
        size_multiple(&self.transformer, &self.vae)
    }

    /// The largest `[height, width]` in pixels within the transformer's positions.
    pub fn largest_size(&self) -> [usize; 2] {
        largest_size(&self.transformer, &self.vae)
    }
}

impl TransformerConfig {
    /// Reads and checks `transformer/config.json`.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub async fn of(folder: &ModelFolder) -> Result<Self> {
        Self::read(&Keys::read(folder, TRANSFORMER).await?)
    }
}

impl TextEncoderConfig {
    /// Reads and checks `text_encoder/config.json`.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub async fn of(folder: &ModelFolder) -> Result<Self> {
        Self::read(&Keys::read(folder, TEXT_ENCODER).await?)
    }
}

impl VaeConfig {
    /// Reads and checks `vae/config.json`.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub async fn of(folder: &ModelFolder) -> Result<Self> {
        Self::read(&Keys::read(folder, VAE).await?)
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
        // 1024 is not a multiple of very large tokens.
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

/// Checks that a size of the transformer, given with its key, equals the one in another part's
/// file.
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
