//! Qwen3's names in the spellings of transformers and of llama.cpp.

use super::target::{Target, layer_and_tail, numbered};

/// Prefixes of the text encoder in files of several parts: those of ComfyUI, of
/// stable-diffusion.cpp, and of exports without either.
pub(super) const PREFIXES: [&str; 7] = [
    "text_encoders.qwen3_4b.transformer.",
    "text_encoders.qwen3_4b.",
    "text_encoders.llm.",
    "text_encoder.",
    "qwen3_4b.transformer.",
    "qwen3_4b.",
    "",
];

/// The body of a language model inside the model with a head.
const BODY: &str = "model.";

/// Layers outside of the blocks in llama.cpp's spelling and in that of transformers.
const OUTER: [(&str, &str); 3] = [("token_embd", "embed_tokens"), ("output_norm", "norm"), ("output", "lm_head")];

/// Layers of a block in llama.cpp's spelling and in that of transformers. Unlike Llama's, the rows
/// of Qwen3's queries and keys keep their order.
const BLOCK: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The targets of a name without its prefix; none if Qwen3 has no such tensor.
pub(super) fn targets(name: &str) -> Vec<Target> {
    mapped(name).map(Target::whole).into_iter().collect()
}

/// The name in llama.cpp's files of a tensor of transformers, without the prefix of a model with a
/// head; `None` if Qwen3 has no such tensor.
pub(super) fn llama(name: &str) -> Option<String> {
    let (layer, tail) = layer_and_tail(name)?;
    if let Some((number, inner)) = layer.strip_prefix("layers.").and_then(numbered) {
        let (llama, _) = BLOCK.iter().find(|(_, ours)| *ours == inner)?;
        return Some(format!("blk.{number}.{llama}.{tail}"));
    }
    let (llama, _) = OUTER.iter().find(|(_, ours)| *ours == layer)?;
    Some(format!("{llama}.{tail}"))
}

/// A name without the prefix of a model with a head.
pub(super) fn body(name: &str) -> &str {
    name.strip_prefix(BODY).unwrap_or(name)
}

fn mapped(name: &str) -> Option<String> {
    let (layer, tail) = layer_and_tail(body(name))?;
    let from_llama = layer.strip_prefix("blk.").and_then(numbered);
    if let Some((number, inner)) = from_llama.or(layer.strip_prefix("layers.").and_then(numbered)) {
        let same = |(llama, ours): &&(&str, &str)| inner == if from_llama.is_some() { *llama } else { *ours };
        return BLOCK.iter().find(same).map(|(_, ours)| format!("layers.{number}.{ours}.{tail}"));
    }
    let (_, ours) = OUTER.iter().find(|(llama, ours)| [*llama, *ours].contains(&layer))?;
    Some(format!("{ours}.{tail}"))
}
