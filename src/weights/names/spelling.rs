//! The spelling of one part in one file: its prefix, and the map of its names.

use super::target::{Rows, Target};
use super::{text_encoder, transformer, vae};

/// One of the three networks of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The image transformer.
    Transformer,
    /// Qwen3.
    TextEncoder,
    /// The autoencoder.
    Vae,
}

impl Part {
    /// The three parts.
    pub const ALL: [Part; 3] = [Part::Transformer, Part::TextEncoder, Part::Vae];

    /// The part's name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Part::Transformer => "transformer",
            Part::TextEncoder => "text encoder",
            Part::Vae => "VAE",
        }
    }

    /// The part's folder in a diffusers folder.
    pub fn folder(self) -> &'static str {
        match self {
            Part::Transformer => "transformer",
            Part::TextEncoder => "text_encoder",
            Part::Vae => "vae",
        }
    }

    /// The name of its weights in a diffusers folder, without an extension.
    pub fn stem(self) -> &'static str {
        match self {
            Part::Transformer | Part::Vae => "diffusion_pytorch_model",
            Part::TextEncoder => "model",
        }
    }

    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Part::Transformer => &transformer::PREFIXES,
            Part::TextEncoder => &text_encoder::PREFIXES,
            Part::Vae => &vae::PREFIXES,
        }
    }

    /// The name that a GGUF file has for a tensor of the part, ComfyUI's or llama.cpp's, and its
    /// rows there; `None` if the part has no such tensor. No VAE is written.
    pub(in crate::weights) fn gguf_name(self, name: &str) -> Option<(String, Rows)> {
        match self {
            Part::Transformer => transformer::comfy(name),
            Part::TextEncoder => text_encoder::llama(name).map(|name| (name, Rows::All)),
            Part::Vae => None,
        }
    }

    /// The targets of a name without its prefix; none if the part has no such tensor.
    fn known(self, name: &str, levels: usize) -> Vec<Target> {
        match self {
            Part::Transformer => transformer::targets(name),
            Part::TextEncoder => text_encoder::targets(name),
            Part::Vae => vae::targets(name, levels),
        }
    }
}

/// The spelling of a part's names in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelling {
    part: Part,
    prefix: &'static str,
    /// Levels of a latent-diffusion decoder, which counts them in the other direction.
    levels: usize,
    /// Number of names that the part has.
    known: usize,
}

impl Spelling {
    /// The spelling of `part` in a file with these names: the prefix with which most names are
    /// those of the part. `None` if the file has nothing of the part.
    pub fn of<'n>(part: Part, names: impl Iterator<Item = &'n str> + Clone) -> Option<Self> {
        let spellings = part.prefixes().iter().map(|&prefix| {
            let inside = names.clone().filter_map(move |name| name.strip_prefix(prefix));
            let levels = match part {
                Part::Vae => inside.clone().map(vae::levels).max().unwrap_or(0),
                _ => 0,
            };
            let known = inside.filter(|name| !part.known(name, levels).is_empty()).count();
            Self { part, prefix, levels, known }
        });
        // The last of equal ones wins, and the most specific prefixes come first.
        spellings.rev().max_by_key(|spelling| spelling.known).filter(|spelling| spelling.known > 0)
    }

    /// The part.
    pub fn part(&self) -> Part {
        self.part
    }

    /// The prefix of every name of the part; empty if the file has none.
    pub fn prefix(&self) -> &'static str {
        self.prefix
    }

    /// The number of tensors in the file that the part has.
    pub fn known(&self) -> usize {
        self.known
    }

    /// The names under which the model's code asks for the stored tensor. A tensor of the part that
    /// the map does not have keeps its name without the prefix, so that it can be reported; a
    /// tensor of another part has no target.
    pub fn targets(&self, stored: &str) -> Vec<Target> {
        let Some(name) = stored.strip_prefix(self.prefix) else { return Vec::new() };
        if self.prefix.is_empty() && is_foreign(self.part, name) {
            return Vec::new();
        }
        let known = self.part.known(name, self.levels);
        if !known.is_empty() {
            return known;
        }
        let name = if self.part == Part::TextEncoder { text_encoder::body(name) } else { name };
        vec![Target::whole(name)]
    }

    /// True for a tensor that files contain without a use: the marker of old FP8 files, the final
    /// norm of Lumina that ComfyUI writes although Z-Image has none, and the weights of the
    /// training loss.
    pub fn is_unused(&self, stored: &str) -> bool {
        let Some(name) = stored.strip_prefix(self.prefix) else { return false };
        match self.part {
            Part::Transformer => ["norm_final.weight", "scaled_fp8"].contains(&name),
            Part::TextEncoder => ["scaled_fp8", "logit_scale"].contains(&name),
            Part::Vae => name.starts_with("loss.") || name.starts_with("model_ema."),
        }
    }
}

/// True for a name that begins like those of another part in a file of several parts.
fn is_foreign(part: Part, name: &str) -> bool {
    let others = Part::ALL.into_iter().filter(|other| *other != part).flat_map(Part::prefixes);
    // A text encoder's own names may begin with `model.`.
    let mut others = others.filter(|prefix| !["", "model."].contains(prefix));
    others.any(|prefix| name.starts_with(prefix))
}
