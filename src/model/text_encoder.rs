//! Qwen3 as a text encoder: token ids to the hidden states before its last block, without a final
//! norm.

use super::block::{self, Block, BlockProbe, Names, Sizes, Stack};
use super::config::TextEncoderConfig;
use super::load::Loader;
use super::rope;
use super::streaming::{NetworkBytes, Streaming, device_bytes};
use crate::backend::{Backend, Heads, RopePairs};
use crate::error::Result;
use crate::tensor::{Compute, HostTensor};
use crate::weights::{OnRead, Tensors};

const NAMES: Names = Names {
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    out: "self_attn.o_proj",
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    attention_norm: "input_layernorm",
    ffn_norm: "post_attention_layernorm",
    post_norms: None,
};

const LAYERS: &str = "layers";
const TABLE: &str = "embed_tokens.weight";

/// Blocks whose output is used.
fn blocks(config: &TextEncoderConfig) -> usize {
    config.num_hidden_layers - 1
}

fn sizes(config: &TextEncoderConfig) -> Sizes {
    let heads =
        Heads { query: config.num_attention_heads, key_value: config.num_key_value_heads, dim: config.head_dim };
    Sizes { width: config.hidden_size, hidden: config.intermediate_size, heads }
}

/// The text encoder on a device.
#[derive(Debug)]
pub struct TextEncoder<B: Backend> {
    embeddings: B::Table,
    blocks: Vec<Block<B>>,
    heads: Heads,
    eps: f32,
    theta: f32,
}

impl<B: Backend> TextEncoder<B> {
    /// True for tensors that nothing uses: the last block, the final norm and the language-model
    /// head.
    pub fn leaves(config: &TextEncoderConfig, name: &str) -> bool {
        let last = format!("layers.{}.", config.num_hidden_layers - 1);
        name == "norm.weight" || name == "lm_head.weight" || name.starts_with(&last)
    }

    /// Reads and uploads the tensors, except unused ones (see [`leaves`](Self::leaves)).
    ///
    /// # Errors
    /// Errors of the files, naming file and tensor, of the backend, and of `on_read`.
    pub async fn load(b: &B, tensors: &Tensors, config: &TextEncoderConfig, on_read: OnRead<'_>) -> Result<Self> {
        Self::load_streamed(b, tensors, config, Streaming::None, on_read).await
    }

    /// As [`TextEncoder::load`], with blocks that are streamed.
    ///
    /// # Errors
    /// As there.
    pub async fn load_streamed(
        b: &B,
        tensors: &Tensors,
        config: &TextEncoderConfig,
        streaming: Streaming,
        on_read: OnRead<'_>,
    ) -> Result<Self> {
        let load = Loader { b, tensors, on_read, streamed: streaming.source() };
        let (sizes, count) = (sizes(config), blocks(config));
        let heads = sizes.heads;
        let streamed = |i| streaming.streams(i, count);
        let blocks = Block::load_all(&load, LAYERS, count, &NAMES, sizes, streamed).await?;
        let embeddings = load.weight(TABLE, &[config.vocab_size, config.hidden_size]).await?;
        let (eps, theta) = (config.rms_norm_eps, config.rope_theta as f32);
        Ok(Self { embeddings: b.upload_table(&embeddings).await?, blocks, heads, eps, theta })
    }

    /// The bytes of its tensors on a device, without the vectors.
    pub fn bytes(b: &B, tensors: &Tensors, config: &TextEncoderConfig) -> NetworkBytes {
        let block = |i| {
            let prefix = format!("{LAYERS}.{i}.");
            NetworkBytes::of_block(b, tensors, &block::matrices(&prefix, &NAMES, sizes(config), tensors))
        };
        NetworkBytes {
            blocks: (0..blocks(config)).map(block).collect(),
            table: device_bytes(b, tensors, TABLE, &[config.vocab_size, config.hidden_size]),
            ..NetworkBytes::default()
        }
    }

    /// Hidden states `[P, tokens, hidden]` of `P` prompts, each right-padded to `tokens`. Rows past
    /// a prompt's end have finite values without a meaning.
    ///
    /// # Errors
    /// Errors of the backend; `Error::Shape` when a prompt is longer than `tokens` or empty.
    pub fn forward(&self, b: &B, prompts: &[Vec<u32>], tokens: usize, probe: BlockProbe<'_, B>) -> Result<B::Tensor> {
        let mut ids = Vec::with_capacity(prompts.len() * tokens);
        for prompt in prompts {
            if prompt.is_empty() || prompt.len() > tokens {
                let problem = format!("a prompt of {} tokens does not fit 1 to {tokens}", prompt.len());
                return Err(crate::Error::shape("text encoder", problem));
            }
            ids.extend_from_slice(prompt);
            ids.resize(ids.len() + tokens - prompt.len(), 0);
        }
        let lengths: Vec<u32> = prompts.iter().map(|prompt| prompt.len() as u32).collect();
        let ids = b.upload(&HostTensor::from_u32(&[prompts.len(), tokens], &ids))?;
        let lengths = b.upload(&HostTensor::from_u32(&[prompts.len()], &lengths))?;
        let rotation = rope::sequence(tokens, self.heads.dim, self.theta);
        let rotation = b.upload(&HostTensor::from_f32(&[1, tokens, self.heads.dim / 2, 2], &rotation))?;

        let mut x = b.gather_rows(&self.embeddings, &ids)?;
        let stack = Stack {
            heads: self.heads,
            eps: self.eps,
            head_eps: self.eps,
            rotation: &rotation,
            pairs: RopePairs::Halves,
            causal: true,
            attention_in: Compute::Native,
            lengths: Some(&lengths),
            modulation: None,
        };
        block::run(b, &self.blocks, &mut x, &stack, probe)?;
        Ok(x)
    }
}
