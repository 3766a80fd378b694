//! The published models without their files: configuration, random weights, and a byte-level
//! tokenizer.

use crate::error::{Error, Result};
use crate::future::expect_ready;
use crate::model::Model;
use crate::pipeline::prompt::PATTERN;
use crate::tensor::Format;
use crate::weights::{ModelFolder, RandomTensors};
use serde_json::{Map, Value, json};
use std::str::FromStr;

/// A published model. Both have the same three networks; schedule and request defaults differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// Z-Image-Turbo: 8 steps without guidance.
    Turbo,
    /// Z-Image: 50 steps with guidance 4.
    Base,
}

impl FromStr for Published {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "turbo" => Ok(Published::Turbo),
            "base" => Ok(Published::Base),
            _ => Err(Error::Request(format!("there is no published model {name:?}; choose turbo or base"))),
        }
    }
}

impl Published {
    /// The name that [`Published::from_str`] accepts.
    pub fn name(self) -> &'static str {
        match self {
            Published::Turbo => "turbo",
            Published::Base => "base",
        }
    }

    /// The model at its real sizes, with random weights: BF16, except that the matrices of
    /// attention and feed-forward layers may have a format of
    /// [`RANDOM_FORMATS`](crate::weights::RANDOM_FORMATS).
    ///
    /// # Errors
    /// None in practice: the built-in configuration passes the checks of a file.
    pub fn with_random_weights(self, quantized: Option<Format>) -> Result<Model> {
        let shift = match self {
            Published::Turbo => 3.0,
            Published::Base => 6.0,
        };
        let files = [
            ("scheduler/scheduler_config.json", json!({"shift": shift, "num_train_timesteps": 1000})),
            ("tokenizer/tokenizer.json", tokenizer()),
            ("text_encoder/config.json", text_encoder()),
            ("transformer/config.json", transformer()),
            ("vae/config.json", vae()),
        ];
        let files = files.map(|(path, contents)| (path.to_owned(), contents.to_string().into()));
        let random = quantized.map_or_else(RandomTensors::default, RandomTensors::quantized);
        let format = quantized.map_or_else(String::new, |format| format!(" {format}"));
        let name = format!("{} with random{format} weights", self.name());
        let folder = ModelFolder::in_memory(&name, &[]).with_files(&name, files.into()).with_random_weights(random);
        expect_ready(Model::new(folder))
    }
}

fn transformer() -> Value {
    json!({
        "_class_name": "ZImageTransformer2DModel",
        "all_patch_size": [2], "all_f_patch_size": [1], "in_channels": 16, "dim": 3840, "n_layers": 30,
        "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30, "norm_eps": 1e-5, "qk_norm": true,
        "cap_feat_dim": 2560, "rope_theta": 256.0, "t_scale": 1000.0,
        "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512],
    })
}

fn text_encoder() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu",
        "vocab_size": 151_936, "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728, "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "attention_bias": false, "use_sliding_window": false,
    })
}

fn vae() -> Value {
    json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu", "in_channels": 3, "out_channels": 3, "latent_channels": 16,
        "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32,
        "down_block_types": vec!["DownEncoderBlock2D"; 4], "up_block_types": vec!["UpDecoderBlock2D"; 4],
        "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": false, "use_post_quant_conv": false,
        "mid_block_add_attention": true,
    })
}

/// A tokenizer in Qwen's layout, with only the byte alphabet and the two tokens of the chat
/// template.
fn tokenizer() -> Value {
    // Byte-level BPE maps 188 bytes to themselves and the other 68 to characters from U+0100 on.
    let themselves = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ');
    let alphabet = themselves.chain('\u{100}'..='\u{143}').map(String::from);
    let vocabulary: Map<String, Value> = alphabet.zip(0..).map(|(symbol, id): (_, u32)| (symbol, id.into())).collect();
    let added = |content: &str| {
        json!({"id": vocabulary.len(), "content": content, "special": true, "normalized": false, "single_word": false,
               "lstrip": false, "rstrip": false})
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let split = json!({"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false});
    json!({
        "version": "1.0",
        "added_tokens": [added("<|im_start|>"), added("<|im_end|>")],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes]},
        "post_processor": null,
        "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocabulary, "merges": []},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::prompt::Tokenizer;
    use std::path::Path;

    #[test]
    fn published_models_have_their_own_defaults() {
        for (published, variant, steps, guidance) in
            [(Published::Turbo, "Turbo", 8, 0.0), (Published::Base, "base", 50, 4.0)]
        {
            let model = published.with_random_weights(None).unwrap();
            let config = model.config();
            let found = (config.variant(), config.defaults.steps, config.defaults.guidance, config.defaults.width);
            assert_eq!(found, (variant, steps, guidance, 1024));
            assert_eq!((config.transformer.ffn_dim(), config.transformer.head_dim()), (10_240, 128));
            assert_eq!(published.name().parse::<Published>().unwrap(), published);
        }
        assert!("tiny".parse::<Published>().is_err());
    }

    #[test]
    fn every_byte_is_a_token() {
        let tokenizer = Tokenizer::read(tokenizer().to_string().as_bytes(), Path::new("tokenizer.json")).unwrap();
        assert_eq!(tokenizer.vocabulary(), 258);
        let empty = tokenizer.encode("").unwrap().ids.len();
        let all: String = (1..=0x2ff).filter_map(char::from_u32).collect();
        // The characters are composed, so NFC changes none of them.
        assert_eq!(tokenizer.encode(&all).unwrap().ids.len() + tokenizer.encode(&all).unwrap().cut, empty + all.len());
    }
}
