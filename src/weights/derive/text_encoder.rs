//! `text_encoder/config.json` from the shapes of Qwen3.

use super::shapes::{Shapes, with_given};
use crate::error::Result;
use serde_json::{Map, Value, json};

/// The text encoder's configuration, in the layout of `text_encoder/config.json`.
///
/// | key | from |
/// | --- | --- |
/// | `hidden_size`, `head_dim` | the norms over the width and over a head |
/// | `num_attention_heads`, `num_key_value_heads` | rows of `q_proj` and `k_proj` / `head_dim` |
/// | `intermediate_size`, `vocab_size` | rows of `gate_proj` and of the table |
/// | `num_hidden_layers` | the numbers in names; one more in a file without the final norm |
/// | `rope_theta`, `rms_norm_eps` | the published Qwen3-4B |
///
/// Z-Image uses neither the last layer nor the final norm, so a file may leave out both.
///
/// # Errors
/// [`Error::Tensor`](crate::Error::Tensor) for a tensor that is missing or does not fit the others.
pub fn text_encoder_config(shapes: &Shapes, given: &Map<String, Value>) -> Result<Value> {
    let head = shapes.vector("layers.0.self_attn.q_norm.weight")?;
    let heads = |layer: &str| {
        let name = format!("layers.0.self_attn.{layer}.weight");
        let rows = shapes.rows(&name)?;
        match rows.is_multiple_of(head) {
            true => Ok(rows / head),
            false => Err(shapes.wrong(&name, &format!("a multiple of {head} rows, a head"), format!("{rows} rows"))),
        }
    };
    // Without the table, the language-model head is read in its place.
    let tied = shapes.has("embed_tokens.weight");
    let table = if tied { "embed_tokens.weight" } else { "lm_head.weight" };
    let left_out = usize::from(!shapes.has("norm.weight"));
    let config = json!({
        "model_type": "qwen3",
        "vocab_size": shapes.rows(table)?,
        "hidden_size": shapes.vector("layers.0.input_layernorm.weight")?,
        "num_hidden_layers": shapes.count("layers")? + left_out,
        "num_attention_heads": heads("q_proj")?,
        "num_key_value_heads": heads("k_proj")?,
        "head_dim": head,
        "intermediate_size": shapes.rows("layers.0.mlp.gate_proj.weight")?,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": !shapes.has("lm_head.weight") || !tied,
    });
    Ok(with_given(config, given))
}
