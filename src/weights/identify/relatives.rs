//! Z-Image and the models that share its architecture, NextDiT.

use super::index::Index;
use super::kind::ControlNet;

/// Width of Lumina 2, whose blocks have the names of Z-Image's.
pub(super) const LUMINA_WIDTH: usize = 2304;

/// Additions to Z-Image, by a mark of each.
const VARIANTS: [(&str, &str); 6] = [
    ("siglip_embedder.", "a Z-Image Omni or Edit transformer, which also reads pictures"),
    ("dec_net.", "a Zeta-Chroma transformer, which draws pixels"),
    ("local_decoder.", "a Z-Image L2P transformer, which draws pixels"),
    ("clip_text_pooled_proj.", "a NewBie-image transformer, which also reads CLIP"),
    ("control_layers.", "a Z-Image transformer with a ControlNet inside"),
    ("control_all_x_embedder.", "a Z-Image transformer with a ControlNet inside"),
];

/// True if the file has the transformer of Z-Image, or of a model with additions to it. Its marks
/// are the caption's embedder, the refiner, and a modulation that is one linear layer, where that
/// of Lumina 2 begins with an activation.
pub(super) fn is_z_image(index: &Index<'_>) -> bool {
    is_next_dit(index) && index.has("layers.0.adaLN_modulation.0.weight")
}

fn is_next_dit(index: &Index<'_>) -> bool {
    index.has("cap_embedder.0.weight") && index.has("context_refiner.") && index.has("layers.0.")
}

/// The name of a model with additions to Z-Image's architecture.
pub(super) fn variant(index: &Index<'_>) -> Option<&'static str> {
    let marked = VARIANTS.iter().find(|(mark, _)| index.has(mark));
    marked.filter(|_| is_next_dit(index)).map(|(_, what)| *what)
}

/// The version of a ControlNet for Z-Image, if the file is one.
pub(super) fn controlnet(index: &Index<'_>) -> Option<ControlNet> {
    const LITE_BLOCKS: usize = 3;
    const UNION_BLOCKS: usize = 15;
    if !index.has("control_layers.0.") || index.has("layers.0.") {
        return None;
    }
    let blocks = (0..UNION_BLOCKS).take_while(|i| index.has(&format!("control_layers.{i}."))).count();
    Some(match blocks {
        UNION_BLOCKS if index.has(ControlNet::DECIDES) => ControlNet::V2,
        UNION_BLOCKS => ControlNet::V2_0,
        0..=LITE_BLOCKS => ControlNet::V2_1Lite,
        _ => ControlNet::V1,
    })
}

/// True if the file has a block of Z-Image's width.
pub(super) fn has_block(index: &Index<'_>) -> bool {
    let norm = index.ending(".attention_norm1.weight");
    norm.is_some_and(|norm| norm.shape != [LUMINA_WIDTH])
}

/// True for Lumina 2, by its modulation, which begins with an activation, or its width.
pub(super) fn is_lumina(index: &Index<'_>) -> bool {
    let width = index.size("cap_embedder.1.weight", 0);
    is_next_dit(index) && (index.has("layers.0.adaLN_modulation.1.weight") || width == Some(LUMINA_WIDTH))
}
