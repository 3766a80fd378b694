//! The kind of a file, from the names and shapes of its tensors: a part of a Z-Image model, a LoRA,
//! a ControlNet, or the file of another model, by that model's name.
//!
//! The marks of other models are facts that ComfyUI's `model_detection.py`, diffusers'
//! `single_file_utils.py` and stable-diffusion.cpp's `model_loader.cpp` detect them by.

mod index;
mod kind;
mod lora;
mod others;
mod quantised;
mod relatives;
#[cfg(test)]
mod tests;

use crate::weights::names::{Part, Spelling};
use index::Index;
pub use index::Listed;
pub use kind::{ControlNet, Kind, LoraFor};
use serde_json::{Map, Value};

/// The kind of a file with these tensors. `metadata` are the values of a GGUF file or the texts of a
/// safetensors file; they only decide where the tensors do not.
pub fn identify(listed: &[Listed<'_>], metadata: &Map<String, Value>) -> Kind {
    let index = Index::new(listed);
    if let Some(kind) = lora::kind(&index) {
        return kind;
    }
    if let Some(controlnet) = relatives::controlnet(&index) {
        return Kind::ControlNet(controlnet);
    }
    if let Some(what) = relatives::variant(&index) {
        return Kind::Variant(what);
    }
    let parts = parts(&index);
    // The other two parts do not tell a model: FLUX has the same autoencoder.
    if !parts.contains(&Part::Transformer)
        && let Some(what) = others::model(&index)
    {
        return Kind::Other(what);
    }
    if let Some(format) = quantised::format(&index) {
        return Kind::Quantised(format);
    }
    match parts.as_slice() {
        [] => others::part(&index).or(others::architecture(metadata)).map_or(Kind::Unknown, Kind::Other),
        [Part::Transformer] => Kind::Transformer,
        [Part::TextEncoder] => others::text_encoder(&index).map_or(Kind::TextEncoder, Kind::Other),
        [Part::Vae] => others::vae(&index).map_or(Kind::Vae, Kind::Other),
        _ => Kind::AllInOne(parts),
    }
}

/// The parts of a Z-Image model that the file has: each by the tensors that no other network has.
fn parts(index: &Index<'_>) -> Vec<Part> {
    Part::ALL.into_iter().filter(|part| has(index, *part)).collect()
}

fn has(index: &Index<'_>, part: Part) -> bool {
    let Some(spelling) = Spelling::of(part, index.names()) else { return false };
    let targets =
        |name: &str| index.names().any(|stored| spelling.targets(stored).iter().any(|target| target.name == name));
    match part {
        Part::Transformer => relatives::is_z_image(index),
        // The norm of the queries tells Qwen3 from Qwen2 and Llama.
        Part::TextEncoder => targets("layers.0.self_attn.q_norm.weight") && targets("layers.0.input_layernorm.weight"),
        Part::Vae => targets("decoder.conv_in.weight") && targets("decoder.mid_block.resnets.0.conv1.weight"),
    }
}
