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
pub(super) use kind::needs;
pub use kind::{ControlNet, Kind, LoraFor};
use serde_json::{Map, Value};

/// The kind of a file with these tensors. `metadata` are the values of a GGUF file or the texts of
/// a safetensors file; they only decide where the tensors do not.
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
    let spellings = Part::ALL.map(|part| Spelling::of(part, index.names()));
    let spellings: Vec<&Spelling> = spellings.iter().flatten().collect();
    let whole = spellings.iter().filter(|spelling| is_whole(&index, spelling));
    let parts: Vec<Part> = whole.map(|spelling| spelling.part()).collect();
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
        [] => match others::part(&index).or_else(|| others::architecture(metadata)) {
            Some(what) => Kind::Other(what),
            None => piece(&index, &spellings).map_or(Kind::Unknown, Kind::Piece),
        },
        [Part::Transformer] => Kind::Transformer,
        [Part::TextEncoder] => others::text_encoder(&index).map_or(Kind::TextEncoder, Kind::Other),
        [Part::Vae] => others::vae(&index).map_or(Kind::Vae, Kind::Other),
        _ => Kind::AllInOne(parts),
    }
}

/// True if the file has the tensors of the spelling's part that no other network has.
fn is_whole(index: &Index<'_>, spelling: &Spelling) -> bool {
    let targets =
        |name: &str| index.names().any(|stored| spelling.targets(stored).iter().any(|target| target.name == name));
    match spelling.part() {
        Part::Transformer => relatives::is_z_image(index),
        // The norm of the queries tells Qwen3 from Qwen2 and Llama.
        Part::TextEncoder => targets("layers.0.self_attn.q_norm.weight") && targets("layers.0.input_layernorm.weight"),
        Part::Vae => targets("decoder.conv_in.weight") && targets("decoder.mid_block.resnets.0.conv1.weight"),
    }
}

/// The part that most of the names are of, in a file that lacks the part's marks.
fn piece(index: &Index<'_>, spellings: &[&Spelling]) -> Option<Part> {
    let is_piece = |spelling: &&&Spelling| {
        let marked = match spelling.part() {
            Part::Transformer => relatives::has_block(index),
            Part::TextEncoder => index.ending("q_norm.weight").is_some(),
            Part::Vae => true,
        };
        marked && 2 * spelling.known() > index.names().count()
    };
    spellings.iter().find(is_piece).map(|spelling| spelling.part())
}
