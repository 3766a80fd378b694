//! The files of other models, by the names of tensors that only they have.

use super::index::Index;
use super::relatives;
use serde_json::{Map, Value};

/// A model, and the marks that are all in its files: names of tensors, or what they begin with.
type Signature = (&'static [&'static str], &'static str);

/// Diffusion models. The first that fits is it, so models come before those that share their marks.
const MODELS: &[Signature] = &[
    (&["joint_blocks.0.context_block."], "a Stable Diffusion 3 model"),
    (&["pos_embed.proj.weight", "transformer_blocks.0.attn.add_q_proj.weight"], "a Stable Diffusion 3 transformer"),
    (&["nerf_blocks."], "a Chroma Radiance transformer"),
    (&["nerf_final_layer_conv."], "a Chroma Radiance transformer"),
    (&["distilled_guidance_layer."], "a Chroma transformer"),
    (&["double_stream_modulation_img.lin.weight"], "a FLUX.2 transformer"),
    (&["double_stream_modulation_img.linear.weight"], "a FLUX.2 transformer"),
    (&["txt_in.individual_token_refiner."], "a HunyuanVideo transformer"),
    (&["context_embedder.token_refiner."], "a HunyuanVideo transformer"),
    (&["double_blocks.0.img_mlp.gate_proj.weight"], "an Ovis-Image transformer"),
    (&["double_blocks.0.img_attn."], "a FLUX.1 transformer"),
    (&["single_transformer_blocks.0.", "x_embedder.weight", "context_embedder.weight"], "a FLUX.1 transformer"),
    (&["transformer_blocks.0.img_mod.1.weight"], "a Qwen-Image transformer"),
    (&["vace_blocks."], "a Wan VACE transformer"),
    (&["head.modulation", "blocks.0.cross_attn."], "a Wan transformer"),
    (&["condition_embedder.time_embedder.linear_1.weight"], "a Wan transformer"),
    (&["time_caption_embed."], "an OmniGen2 transformer"),
    (&["double_stream_layers.0.img_instruct_attn."], "a Boogu-Image transformer"),
    (&["double_stream_blocks.0.block."], "a HiDream transformer"),
    (&["double_layers.0.attn.w1q.weight"], "an AuraFlow transformer"),
    (&["joint_transformer_blocks.0."], "an AuraFlow transformer"),
    (&["patchify_proj.weight"], "an LTX-Video transformer"),
    (&["adaln_single.", "pos_embed.proj.weight"], "a PixArt transformer"),
    (&["mlp_t5.0.weight"], "a Hunyuan-DiT transformer"),
    (&["t5_yproj.weight"], "a Mochi transformer"),
    (&["llm_adapter.blocks.0."], "an Anima transformer"),
    (&["x_embedder.proj.1.weight"], "a Cosmos transformer"),
    (&["layers.0.adaLN_sa_ln.weight"], "an ERNIE-Image transformer"),
    (&["txtfusion."], "a Krea 2 transformer"),
    (&["text_fusion."], "a Krea 2 transformer"),
    (&["embed_image_indicator.weight"], "an Ideogram 4 transformer"),
    (&["lq_proj.latent_proj.0.weight"], "a PiD decoder"),
    (&["blocks.0.cross_attn.q_linear.weight", "y_embedder.y_proj.fc1.weight"], "a PixArt or Sana transformer"),
    (&["clf.1.weight", "clip_txt_mapper.weight"], "a Stable Cascade model"),
    (&["control_model."], "a ControlNet for Stable Diffusion"),
    (&["controlnet_cond_embedding."], "a ControlNet for Stable Diffusion"),
    (&["controlnet_x_embedder."], "a ControlNet for FLUX.1"),
];

/// Language models that may have the tensors of Qwen3, and more.
const LIKE_QWEN3: &[Signature] = &[
    (&["visual.patch_embed.proj.weight"], "a Qwen-VL model"),
    (&["layers.0.mlp.experts."], "a Qwen3 language model with experts"),
    (&["blk.0.ffn_gate_exps.weight"], "a language model with experts"),
    (&["layers.0.linear_attn."], "a Qwen3.5 language model"),
    (&["layers.0.post_feedforward_layernorm.weight"], "a Gemma language model"),
    (&["blk.0.post_ffw_norm.weight"], "a Gemma language model"),
    (&["layers.0.self_attn.q_proj.bias"], "a Qwen2 language model"),
    (&["blk.0.attn_q.bias"], "a Qwen2 language model"),
];

/// Text encoders and autoencoders of other models.
const PARTS: &[Signature] = &[
    (&["layers.0.self_attn.q_proj.weight"], "a Llama or Mistral language model"),
    (&["blk.0.attn_q.weight"], "a Llama or Mistral language model"),
    (&["encoder.block.0.layer.0.SelfAttention.q.weight"], "a T5 text encoder"),
    (&["enc.blk.0.attn_q.weight"], "a T5 text encoder"),
    (&["text_model.encoder.layers.0."], "a CLIP text encoder"),
    (&["resblocks.0.attn.in_proj_weight"], "a CLIP text encoder"),
    (&["vision_model.encoder.layers.0."], "a CLIP or SigLIP vision encoder"),
    (&["decoder.middle.0.residual.0.gamma"], "a Wan or Qwen-Image VAE"),
    (&["decoder.mid_block.resnets.0.norm1.gamma"], "a Wan or Qwen-Image VAE"),
    (&["decoder.conv_in.conv.weight"], "the VAE of a video model"),
    (&["decoder.stages.1."], "a DC-AE autoencoder"),
];

/// Published sizes of Qwen3 that other models use: width, width inside the MLP, layers.
const QWEN3: [([usize; 3], &str); 5] = [
    ([1024, 3072, 28], "a Qwen3-0.6B text encoder, where Z-Image has Qwen3-4B"),
    ([2048, 6144, 28], "a Qwen3-1.7B text encoder, where Z-Image has Qwen3-4B"),
    ([4096, 12288, 36], "a Qwen3-8B text encoder, where Z-Image has Qwen3-4B"),
    ([5120, 17408, 40], "a Qwen3-14B text encoder, where Z-Image has Qwen3-4B"),
    ([5120, 25600, 64], "a Qwen3-32B text encoder, where Z-Image has Qwen3-4B"),
];

/// Architectures that GGUF files name, where their tensors do not tell.
const ARCHITECTURES: [(&str, &str); 12] = [
    ("flux", "a FLUX transformer"),
    ("sd1", "a Stable Diffusion 1 model"),
    ("sd3", "a Stable Diffusion 3 model"),
    ("sdxl", "an SDXL model"),
    ("wan", "a Wan transformer"),
    ("qwen_image", "a Qwen-Image transformer"),
    ("hyvid", "a HunyuanVideo transformer"),
    ("ltxv", "an LTX-Video transformer"),
    ("hidream", "a HiDream transformer"),
    ("t5encoder", "a T5 text encoder"),
    ("clip", "the vision encoder of a language model"),
    ("llama", "a Llama or Mistral language model"),
];

/// The name of another diffusion model.
pub(super) fn model(index: &Index<'_>) -> Option<&'static str> {
    if relatives::is_lumina(index) {
        return Some("a Lumina 2 transformer");
    }
    first(MODELS, index).or_else(|| unet(index))
}

/// The name of another model's text encoder or autoencoder.
pub(super) fn part(index: &Index<'_>) -> Option<&'static str> {
    first(LIKE_QWEN3, index).or_else(|| first(PARTS, index)).or_else(|| tiny_autoencoder(index))
}

/// The name of a language model that has the tensors of Qwen3 and more, or another published size.
pub(super) fn text_encoder(index: &Index<'_>) -> Option<&'static str> {
    first(LIKE_QWEN3, index).or_else(|| {
        let size = |transformers: &str, llama: &str| index.size(transformers, 0).or(index.size(llama, 0));
        let width = size("layers.0.input_layernorm.weight", "blk.0.attn_norm.weight")?;
        let hidden = size("layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight")?;
        let has = |i: usize| index.has(&format!("layers.{i}.")) || index.has(&format!("blk.{i}."));
        let fits = |[w, h, layers]: [usize; 3]| w == width && h == hidden && has(layers - 1) && !has(layers);
        QWEN3.into_iter().find(|(published, _)| fits(*published)).map(|(_, what)| what)
    })
}

/// The name of an autoencoder that has the tensors of FLUX.1's and other latents.
pub(super) fn vae(index: &Index<'_>) -> Option<&'static str> {
    match index.ending("decoder.conv_in.weight")?.shape {
        [512, 4, 3, 3] => Some("a Stable Diffusion 1, 2 or XL VAE, which has 4 latent channels"),
        [_, 32, 3, 3] => Some("a FLUX.2 VAE, which has 32 latent channels"),
        [_, _, _, _, _] => Some("the VAE of a video model"),
        _ => None,
    }
}

/// The architecture in a file's metadata.
pub(super) fn architecture(metadata: &Map<String, Value>) -> Option<&'static str> {
    let named = metadata.get("general.architecture").and_then(Value::as_str)?;
    ARCHITECTURES.into_iter().find(|(name, _)| *name == named).map(|(_, what)| what)
}

fn first(signatures: &[Signature], index: &Index<'_>) -> Option<&'static str> {
    signatures.iter().find(|(marks, _)| index.has_all(marks)).map(|(_, what)| *what)
}

/// The Stable Diffusion model of a U-Net, by the width of its text features.
fn unet(index: &Index<'_>) -> Option<&'static str> {
    let diffusers = index.has("conv_in.weight") && index.has("time_embedding.linear_1.weight");
    if !index.has("input_blocks.0.0.weight") && !diffusers {
        return None;
    }
    let width = index.ending(".attn2.to_k.weight").and_then(|tensor| tensor.shape.get(1));
    Some(match width {
        Some(768) => "a Stable Diffusion 1 model",
        Some(1024) => "a Stable Diffusion 2 model",
        Some(1280) => "an SDXL refiner",
        Some(2048) => "an SDXL model",
        _ => "the U-Net of a diffusion model",
    })
}

/// The tiny autoencoders for previews: the model's latents are the input of the first convolution.
fn tiny_autoencoder(index: &Index<'_>) -> Option<&'static str> {
    let names = ["decoder.layers.0.weight", "decoder.1.weight", "1.weight", "decoder.layers.1.weight"];
    match names.iter().find_map(|name| index.shape(name))? {
        [64, 16, 3, 3] => Some("TAEF1 or TAESD3, a tiny autoencoder for previews"),
        [64, 4, 3, 3] => Some("TAESD, a tiny autoencoder for previews"),
        _ => None,
    }
}
