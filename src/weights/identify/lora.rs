//! LoRA files: the model that one is for, from the names of the layers that it changes.

use super::index::{Index, Listed};
use super::kind::{Kind, LoraFor};
use super::relatives::LUMINA_WIDTH;

/// Marks in the names of a LoRA's tensors: of LoRA in its spellings, of LoHa, LoKr and OFT.
const MARKS: [&str; 12] = [
    ".lora_A",
    ".lora_B",
    ".lora_down",
    ".lora_up",
    ".lora_mid",
    ".lora.down.",
    ".lora.up.",
    "_lora.down.",
    "_lora.up.",
    ".hada_",
    ".lokr_",
    ".oft_",
];
/// Ends of the names of full differences, and of the tensors beside a layer's matrices.
const ENDS: [&str; 4] = [".diff", ".diff_b", ".alpha", ".dora_scale"];

/// Marks of layers in the names of other models, with dots as underscores. The first that fits is
/// it.
const OTHERS: [(&[&str], &str); 13] = [
    (&["lora_te1_", "lora_te2_"], "SDXL"),
    (&["double_stream_modulation"], "FLUX.2"),
    (&["individual_token_refiner"], "HunyuanVideo"),
    (&["distilled_guidance_layer"], "Chroma"),
    (&["single_transformer_blocks_", "double_blocks_", "single_blocks_"], "FLUX or HunyuanVideo"),
    (&["joint_blocks_"], "Stable Diffusion 3"),
    (&["_img_mod_", "_img_mlp_", "_txt_mlp_"], "Qwen-Image"),
    (&["input_blocks_", "output_blocks_", "down_blocks_", "up_blocks_", "mid_block_"], "Stable Diffusion or SDXL"),
    (&["text_model_encoder"], "a CLIP text encoder"),
    (&["double_stream_blocks_"], "HiDream"),
    (&["_cross_attn_"], "Wan, Anima or Cosmos"),
    (&["transformer_blocks_"], "Qwen-Image, Stable Diffusion 3 or LTX-Video"),
    (&["SelfAttention"], "T5"),
];

/// Marks of the layers of Z-Image's transformer and of Qwen3, with dots as underscores.
const TRANSFORMER: [&str; 6] =
    ["_attention_to_", "_attention_qkv", "_attention_out", "_feed_forward_w", "adaLN_modulation", "cap_embedder"];
const STACKS: [&str; 5] = ["layers_", "noise_refiner_", "context_refiner_", "final_layer", "cap_embedder"];
const TEXT_ENCODER: [&str; 7] = [
    "_self_attn_q_proj",
    "_self_attn_k_proj",
    "_self_attn_v_proj",
    "_self_attn_o_proj",
    "_mlp_gate_proj",
    "_mlp_up_proj",
    "_mlp_down_proj",
];

/// The kind of a LoRA file; `None` for other files. A model may contain a few tensors that are
/// named like a LoRA's, so most of a LoRA's tensors have to be.
pub(super) fn kind(index: &Index<'_>) -> Option<Kind> {
    let is_lora =
        |name: &str| MARKS.iter().any(|mark| name.contains(mark)) || ENDS.iter().any(|end| name.ends_with(end));
    let loras = index.names().filter(|name| is_lora(name)).count();
    (2 * loras > index.names().count()).then(|| Kind::Lora(target(index)))
}

fn target(index: &Index<'_>) -> LoraFor {
    let [mut transformer, mut text_encoder] = [false; 2];
    let names: Vec<String> = index.names().map(|name| name.replace('.', "_")).collect();
    let has = |marks: &[&str]| names.iter().any(|name| marks.iter().any(|mark| name.contains(mark)));
    if let Some((_, model)) = OTHERS.iter().find(|(marks, _)| has(marks)) {
        return LoraFor::Other(model);
    }
    for name in &names {
        let any = |marks: &[&str]| marks.iter().any(|mark| name.contains(mark));
        transformer |= any(&TRANSFORMER) && any(&STACKS);
        text_encoder |= any(&TEXT_ENCODER);
    }
    match (transformer, text_encoder) {
        (true, _) if is_for_lumina(index) => LoraFor::Other("Lumina 2"),
        (true, true) => LoraFor::Both,
        (true, false) => LoraFor::Transformer,
        (false, true) => LoraFor::TextEncoder,
        (false, false) => LoraFor::Unknown,
    }
}

/// True for a LoRA with the width of Lumina 2, whose layers have the names of Z-Image's: the matrix
/// that reads the input is `[rank, width]`.
fn is_for_lumina(index: &Index<'_>) -> bool {
    const READ: [&str; 5] = ["attention_to_q", "attention_to_k", "attention_to_v", "attention_qkv", "feed_forward_w1"];
    let reads_width = |tensor: &Listed<'_>| {
        let layer = tensor.name.replace('.', "_");
        READ.iter().any(|inner| layer.contains(inner)) && tensor.shape.get(1) == Some(&LUMINA_WIDTH)
    };
    let down = [".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight", ".lora.down.weight"];
    down.iter().any(|end| index.all_ending(end).any(reads_width))
}
