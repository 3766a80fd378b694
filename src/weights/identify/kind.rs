//! The kinds of files, and one sentence about each.

use crate::weights::names::Part;

/// The kind of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The image transformer of Z-Image or Z-Image-Turbo, which have the same tensors.
    Transformer,
    /// Qwen3 of a size that no other published text encoder has, Qwen3-4B in the published model.
    TextEncoder,
    /// The autoencoder of FLUX.1 (`AutoencoderKL` with 16 latent channels). That of Stable
    /// Diffusion 3 has the same shapes.
    Vae,
    /// Several parts of a Z-Image model.
    AllInOne(Vec<Part>),
    /// Some tensors of a part: one of several files.
    Piece(Part),
    /// Changes of weights: LoRA, LoKr, LoHa, DoRA or full differences.
    Lora(LoraFor),
    /// A ControlNet for Z-Image.
    ControlNet(ControlNet),
    /// A model with the architecture of Z-Image and additions, by name.
    Variant(&'static str),
    /// A file whose weights are in a format that is not supported, by the format's name.
    Quantised(&'static str),
    /// Another model or a part of one, by name.
    Other(&'static str),
    /// A file that has the marks of no known model.
    Unknown,
}

/// The model that a LoRA changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoraFor {
    /// The image transformer of Z-Image.
    Transformer,
    /// Qwen3.
    TextEncoder,
    /// Both.
    Both,
    /// Another model, by name.
    Other(&'static str),
    /// A model that its names do not tell.
    Unknown,
}

/// The versions of Z-Image(-Turbo)-Fun-Controlnet-Union.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlNet {
    /// 1.0: 6 control blocks, 16 control channels.
    V1,
    /// 2.0: 15 control blocks, 33 control channels, no refiner of its own.
    V2_0,
    /// 2.1: as 2.0, with a refiner.
    V2_1,
    /// 2.1 lite: as 2.1, with 3 control blocks.
    V2_1Lite,
    /// 2.0 or 2.1: [`ControlNet::settled`] decides.
    V2,
}

impl ControlNet {
    /// The tensor whose values tell 2.0, where all are zero, from 2.1.
    pub const DECIDES: &str = "control_noise_refiner.0.before_proj.weight";

    /// The version, given whether [`ControlNet::DECIDES`] is all zero.
    pub fn settled(self, zero: bool) -> Self {
        match (self, zero) {
            (ControlNet::V2, true) => ControlNet::V2_0,
            (ControlNet::V2, false) => ControlNet::V2_1,
            (version, _) => version,
        }
    }

    fn name(self) -> &'static str {
        match self {
            ControlNet::V1 => "1.0",
            ControlNet::V2_0 => "2.0",
            ControlNet::V2_1 => "2.1",
            ControlNet::V2_1Lite => "2.1 lite",
            ControlNet::V2 => "2.0 or 2.1",
        }
    }
}

impl Kind {
    /// A short identifier for programs, such as `transformer` or `lora`.
    pub fn id(&self) -> &'static str {
        match self {
            Kind::Transformer => "transformer",
            Kind::TextEncoder => "text_encoder",
            Kind::Vae => "vae",
            Kind::AllInOne(_) => "checkpoint",
            Kind::Piece(_) => "piece",
            Kind::Lora(_) => "lora",
            Kind::ControlNet(_) => "controlnet",
            Kind::Variant(_) => "variant",
            Kind::Quantised(_) => "unread_format",
            Kind::Other(_) => "other",
            Kind::Unknown => "unknown",
        }
    }

    /// The parts of a Z-Image model that such a file has.
    pub fn parts(&self) -> &[Part] {
        match self {
            Kind::Transformer => &[Part::Transformer],
            Kind::TextEncoder => &[Part::TextEncoder],
            Kind::Vae => &[Part::Vae],
            Kind::AllInOne(parts) => parts,
            _ => &[],
        }
    }

    /// The kind's name with an article, such as `a Z-Image transformer`.
    pub fn name(&self) -> String {
        match self {
            Kind::Transformer => "a Z-Image transformer".to_owned(),
            Kind::TextEncoder => "a Qwen3 text encoder".to_owned(),
            Kind::Vae => "a FLUX.1 VAE, which Z-Image shares".to_owned(),
            Kind::AllInOne(parts) => {
                format!("a Z-Image checkpoint with {}", list(parts.iter().map(|part| part.name())))
            }
            Kind::Piece(Part::TextEncoder) => "one file of a Qwen3 text encoder in several".to_owned(),
            Kind::Piece(part) => format!("one file of a Z-Image {} in several", part.name()),
            Kind::Lora(LoraFor::Transformer) => "a LoRA for the transformer of Z-Image".to_owned(),
            Kind::Lora(LoraFor::TextEncoder) => "a LoRA for the text encoder of Z-Image".to_owned(),
            Kind::Lora(LoraFor::Both) => "a LoRA for the transformer and the text encoder of Z-Image".to_owned(),
            Kind::Lora(LoraFor::Other(model)) => format!("a LoRA for {model}"),
            Kind::Lora(LoraFor::Unknown) => "a LoRA whose names are those of no known model".to_owned(),
            Kind::ControlNet(version) => {
                format!("the Z-Image-Fun ControlNet {}, and ControlNets are not supported", version.name())
            }
            Kind::Variant(what) | Kind::Other(what) => (*what).to_owned(),
            Kind::Quantised(format) => format!("a file with {format}, which is not supported"),
            Kind::Unknown => "a file with the tensors of no known model".to_owned(),
        }
    }

    /// One sentence that says what the file is, and what it lacks or why it cannot be used. It
    /// begins with `this is`, after a path and a colon.
    pub fn explain(&self) -> String {
        match needs(self.parts(), false).as_slice() {
            [] => self.refuse(),
            needs => format!("{}; drawing also needs {}", self.refuse(), list(needs.iter().copied())),
        }
    }

    /// As [`Kind::explain`], for a file in the wrong place: without the parts that it lacks.
    pub(in crate::weights) fn refuse(&self) -> String {
        let advice = match self {
            Kind::Piece(_) => "; the others belong to it",
            Kind::Variant(_) => "; its additions to the architecture of Z-Image are not supported",
            Kind::Quantised(_) => "; use the model's BF16, FP8, NVFP4, INT8 or GGUF file",
            Kind::Lora(LoraFor::Other(_) | LoraFor::Unknown) | Kind::Other(_) | Kind::Unknown => {
                "; zimage draws with Z-Image models only"
            }
            _ => "",
        };
        format!("this is {}{advice}", self.name())
    }
}

/// The names of the parts that a model needs besides these, with or without a tokenizer; none
/// besides no part.
pub(in crate::weights) fn needs(parts: &[Part], has_tokenizer: bool) -> Vec<&'static str> {
    if parts.is_empty() {
        return Vec::new();
    }
    let others = Part::ALL.into_iter().filter(|part| !parts.contains(part)).map(Part::name);
    others.chain((!has_tokenizer).then_some("tokenizer")).collect()
}

/// Names with articles, joined by commas and `and`.
fn list<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<String> = names.map(|name| format!("a {name}")).collect();
    match names.as_slice() {
        [] => String::new(),
        [name] => name.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
