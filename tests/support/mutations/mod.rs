//! Damaged inputs. A seed determines the input and its allowed results. The rules for the results
//! are independent of the program: the `safetensors` crate parses weights, `serde_json` parses
//! configs, and tables here list the keys that determine tensor shapes.

mod bytes;
mod json;
mod png;
mod safetensors;

pub(crate) use bytes::Rng;
use std::fs;
use std::path::{Path, PathBuf};

/// The kinds of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The weights of one network.
    Safetensors,
    /// The config of a network or of the scheduler.
    Config,
    /// `tokenizer.json` and `tokenizer_config.json`.
    Tokenizer,
    /// `model_index.json` and the shard indexes.
    Index,
    /// A picture with texts.
    Png,
}

/// The results that an input may have. An error is always allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Only an error.
    Refused,
    /// Also the picture of the good input.
    Same,
    /// Also any picture: only numbers changed, so the damaged input is another valid one.
    Any,
}

/// A damaged input.
#[derive(Debug)]
pub(crate) struct Case {
    /// The file in the model's folder, or the name of a PNG.
    pub file: &'static str,
    /// The content of the file.
    pub bytes: Vec<u8>,
    /// The allowed results.
    pub allowed: Allowed,
}

impl Kind {
    /// The name in messages and file names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Safetensors => "safetensors",
            Kind::Config => "config",
            Kind::Tokenizer => "tokenizer",
            Kind::Index => "index",
            Kind::Png => "png",
        }
    }

    /// The good model whose file is damaged.
    pub(crate) fn model(self) -> PathBuf {
        let name = if self == Kind::Index { "sharded" } else { "single" };
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
    }

    /// The files that are damaged.
    fn files(self) -> &'static [&'static str] {
        match self {
            Kind::Safetensors => &[
                "text_encoder/model.safetensors",
                "transformer/diffusion_pytorch_model.safetensors",
                "vae/diffusion_pytorch_model.safetensors",
            ],
            Kind::Config => &[
                "text_encoder/config.json",
                "transformer/config.json",
                "vae/config.json",
                "scheduler/scheduler_config.json",
            ],
            Kind::Tokenizer => {
                &["tokenizer/tokenizer.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]
            }
            Kind::Index => &[
                "text_encoder/model.safetensors.index.json",
                "transformer/diffusion_pytorch_model.safetensors.index.json",
                "model_index.json",
            ],
            Kind::Png => &["picture.png"],
        }
    }

    /// The damaged input for this seed.
    pub(crate) fn case(self, seed: u64) -> Case {
        let mut rng = Rng::new(seed ^ ((self as u64 + 1) << 56));
        let file = *rng.pick(self.files());
        let good = match self {
            Kind::Png => png::good(),
            _ => fs::read(self.model().join(file)).unwrap(),
        };
        let (bytes, allowed) = match self {
            Kind::Safetensors => {
                let other = self.model().join(rng.pick(self.files()));
                let bytes = safetensors::damage(&mut rng, &good, &other);
                let allowed = safetensors::allowed(file, &good, &bytes);
                (bytes, allowed)
            }
            Kind::Png => png::damage(&mut rng, &good),
            _ => {
                let bytes = match self {
                    Kind::Tokenizer => json::damage_tokenizer(&mut rng, file, &good),
                    _ => json::damage(&mut rng, &good),
                };
                let allowed = match self {
                    Kind::Config => json::allowed_config(file, &good, &bytes),
                    Kind::Tokenizer => json::allowed_tokenizer(file, &bytes),
                    _ => json::allowed_index(file, &good, &bytes),
                };
                (bytes, allowed)
            }
        };
        let allowed = if bytes == good { Allowed::Same } else { allowed };
        Case { file, bytes, allowed }
    }
}
