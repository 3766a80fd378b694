//! The flags that say where a model comes from, shared by every subcommand that draws.

use super::{kinds, pull};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::path::PathBuf;
use std::str::FromStr;
use zimage::tensor::Format;
use zimage::weights::hub::{Hub, HubName};
use zimage::weights::{Lora, Sources, Unused, WeightFormat};
use zimage::{Model, Result};

/// The published model whose other parts every Z-Image transformer fits.
const PUBLISHED: &str = "Tongyi-MAI/Z-Image-Turbo";

/// The flags of the parts that come from files with weights.
const FLAGS: [&str; 3] = ["--model", "--text-encoder", "--vae"];

/// The model and its parts.
#[derive(Debug, clap::Args)]
// Its group would have the name of that of the subcommand's arguments.
#[group(skip)]
pub(super) struct Args {
    /// The model: a diffusers folder or its transformer's; a .safetensors, .sft or .gguf file with
    /// a transformer or with the whole model; or a name on the Hugging Face hub, which is
    /// downloaded, such as Tongyi-MAI/Z-Image-Turbo[@REVISION][/FILE] [default: the small model
    /// inside this program]
    #[arg(short, long, value_name = "PATH|NAME")]
    model: Option<String>,

    /// The text encoder: a file, its folder, a diffusers folder, or a name on the hub [default: the
    /// model's; else the only one next to its file or in ComfyUI's text_encoders beside it; else
    /// that of Z-Image-Turbo in the hub's cache]
    #[arg(long, value_name = "PATH|NAME", requires = "model")]
    text_encoder: Option<String>,

    /// The VAE: a file, its folder, a diffusers folder, or a name on the hub [default: as for the
    /// text encoder, with ComfyUI's folder vae]
    #[arg(long, value_name = "PATH|NAME", requires = "model")]
    vae: Option<String>,

    /// The tokenizer: a tokenizer.json, its folder, a diffusers folder, a GGUF text encoder, or a
    /// name on the hub [default: the model's; else the one inside a GGUF text encoder; else one
    /// next to the files; else that of Z-Image-Turbo in the hub's cache]
    #[arg(long, value_name = "PATH|NAME", requires = "model")]
    tokenizer: Option<String>,

    /// The schedule's shift [default: the model's, or 3 for a model without a scheduler's file;
    /// such a model has 8 steps and guidance 0 for 3, else 50 steps and guidance 4]
    #[arg(long, value_name = "S", value_parser = super::number::<f64>, allow_hyphen_values = true)]
    shift: Option<f64>,

    /// The storage on the device of the matrices of attention and feed-forward layers; as-is is
    /// that of the files, and fp8 has a scale for each row
    #[arg(long, value_name = "FORMAT", value_parser = weights(), default_value_t, allow_hyphen_values = true)]
    weights: WeightFormat,

    /// A LoRA, LoKr, LoHa or DoRA file, or a name on the hub, with its strength; once for each, and
    /// added in this order; a strength of 0 changes nothing [default strength: 1]
    #[arg(long, value_name = "FILE[:STRENGTH]", value_parser = Strength::from_str)]
    lora: Vec<Strength>,

    /// Tensors of a LoRA that do not fit the model are a warning, not an error
    #[arg(long, requires = "lora")]
    lora_allow_unused: bool,
}

/// A LoRA and its strength as they are on the command line.
#[derive(Debug, Clone, PartialEq)]
struct Strength {
    file: String,
    strength: f32,
}

impl FromStr for Strength {
    type Err = String;

    /// The strength is the number after the last colon, if there is a number.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (file, strength) = match text.rsplit_once(':').map(|(file, number)| (file, number.parse::<f32>())) {
            Some((file, Ok(strength))) if strength.is_finite() => (file, strength),
            Some((_, Ok(strength))) => return Err(format!("expected a finite strength, found {strength}")),
            _ => (text, 1.0),
        };
        match file.is_empty() {
            true => Err("expected a file before the strength".to_owned()),
            false => Ok(Self { file: file.to_owned(), strength }),
        }
    }
}

/// A model, and what became of its LoRA files.
pub(super) struct Opened {
    pub(super) model: Model,
    /// A sentence for each LoRA.
    pub(super) reports: Vec<String>,
    /// Tensors that were not used.
    pub(super) warnings: Vec<String>,
}

fn weights() -> impl TypedValueParser<Value = WeightFormat> {
    PossibleValuesParser::new(WeightFormat::NAMES.map(|(name, _)| name)).try_map(|name| name.parse::<WeightFormat>())
}

impl Args {
    /// The format of random matrices in place of the model's; `None` is BF16.
    pub(super) fn random_format(&self) -> Option<Format> {
        match self.weights {
            WeightFormat::Fp8 => Some(Format::F8E4m3),
            WeightFormat::Format(format) if format != Format::Bf16 => Some(format),
            _ => None,
        }
    }

    /// Opens the model. A name on the hub is downloaded if the cache does not have it.
    pub(super) fn open(&self) -> Result<Opened> {
        let resolve = |value: &Option<String>| value.as_deref().map(pull::resolve).transpose();
        let model = match &self.model {
            Some(model) => {
                let sources = Sources {
                    model: pull::resolve(model)?,
                    text_encoder: resolve(&self.text_encoder)?,
                    vae: resolve(&self.vae)?,
                    tokenizer: resolve(&self.tokenizer)?,
                    fallbacks: cached().into_iter().collect(),
                    shift: self.shift,
                };
                let own = [Some(&sources.model), sources.text_encoder.as_ref(), sources.vae.as_ref()];
                let given: Vec<_> = FLAGS.into_iter().zip(own).filter_map(|(flag, path)| Some((flag, path?))).collect();
                Model::from_sources(&sources).map_err(|error| kinds::advise(error, &given))?
            }
            None => Model::embedded()?.with_shift(self.shift)?,
        };
        let model = model.with_weights(self.weights);
        if self.lora.is_empty() {
            return Ok(Opened { model, reports: Vec::new(), warnings: Vec::new() });
        }
        let open = |lora: &Strength| {
            let path: PathBuf = pull::resolve(&lora.file)?;
            let opened = pollster::block_on(Lora::open(&path));
            Ok((opened.map_err(|error| kinds::advise(error, &[("--lora", &path)]))?, lora.strength))
        };
        let loras = self.lora.iter().map(open).collect::<Result<Vec<_>>>()?;
        let unused = if self.lora_allow_unused { Unused::Allow } else { Unused::Refuse };
        let (model, reports) = pollster::block_on(model.with_loras(&loras, unused))?;
        let warnings = reports.iter().filter_map(|report| Some(format!("{}: {}", report.file, report.complaint()?)));
        let warnings = warnings.collect();
        Ok(Opened { model, reports: reports.iter().map(ToString::to_string).collect(), warnings })
    }
}

/// The model that one value names: a path, or a name on the hub.
pub(super) fn named(value: &str) -> Result<Model> {
    let fallbacks = cached().into_iter().collect();
    Model::from_sources(&Sources { fallbacks, ..Sources::of(pull::resolve(value)?) })
}

/// The published model in the hub's cache, if it is there. Nothing is downloaded.
fn cached() -> Option<PathBuf> {
    Hub::from_env().ok()?.cached(&HubName::parse(PUBLISHED).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_after_the_last_colon_is_the_strength() {
        let parsed = |text: &str| Strength::from_str(text).map(|parsed| (parsed.file, parsed.strength));
        let file = |file: &str, strength| Ok((file.to_owned(), strength));
        assert_eq!(parsed("a.safetensors"), file("a.safetensors", 1.0));
        assert_eq!(parsed("a.safetensors:0.8"), file("a.safetensors", 0.8));
        assert_eq!(parsed("a:-1"), file("a", -1.0));
        assert_eq!(parsed("C:\\loras\\a.safetensors"), file("C:\\loras\\a.safetensors", 1.0));
        assert_eq!(parsed("https://a/b.safetensors:2"), file("https://a/b.safetensors", 2.0));
        for wrong in [":1", "", "a:nan", "a:inf"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
