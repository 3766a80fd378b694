//! The transformer's names in the spellings of diffusers and of ComfyUI, which keeps those of the
//! original code.
//!
//! ComfyUI's blocks have `attention.qkv`, the rows of the queries, then of the keys, then of the
//! values. There are as many key heads as query heads, so each has a third of the rows.

use super::target::{Rows, Target, layer_and_tail, numbered};

/// Prefixes of the transformer in files of several parts, most specific first.
pub(super) const PREFIXES: [&str; 5] = ["model.diffusion_model.", "diffusion_model.", "transformer.", "model.", ""];

const STACKS: [&str; 3] = ["layers.", "noise_refiner.", "context_refiner."];

/// Layers of a block that have one name in both spellings.
const SHARED: [&str; 8] = [
    "feed_forward.w1",
    "feed_forward.w2",
    "feed_forward.w3",
    "attention_norm1",
    "attention_norm2",
    "ffn_norm1",
    "ffn_norm2",
    "adaLN_modulation.0",
];

/// Layers of a block in ComfyUI's spelling and in that of diffusers.
const RENAMED: [(&str, &str); 3] = [
    ("attention.out", "attention.to_out.0"),
    ("attention.q_norm", "attention.norm_q"),
    ("attention.k_norm", "attention.norm_k"),
];

const FUSED: &str = "attention.qkv";
const SEPARATE: [&str; 3] = ["attention.to_q", "attention.to_k", "attention.to_v"];

/// Layers outside of the blocks that have one name in both spellings.
const EMBEDDERS: [&str; 4] = ["t_embedder.mlp.0", "t_embedder.mlp.2", "cap_embedder.0", "cap_embedder.1"];

/// Layers of each patch size. ComfyUI has one size, 2×2 pixels of one frame.
const EMBED: &str = "x_embedder";
const FINAL: [&str; 2] = ["final_layer.linear", "final_layer.adaLN_modulation.1"];
const PATCH: &str = "2-1";

/// The targets of a name without its prefix; none if the transformer has no such tensor.
pub(super) fn targets(name: &str) -> Vec<Target> {
    if ["x_pad_token", "cap_pad_token"].contains(&name) {
        return vec![Target::row(name)];
    }
    let Some((layer, tail)) = layer_and_tail(name) else { return Vec::new() };
    for stack in STACKS {
        if let Some((number, inner)) = layer.strip_prefix(stack).and_then(numbered) {
            let full = |inner: &str| format!("{stack}{number}.{inner}.{tail}");
            if inner == FUSED {
                return SEPARATE.iter().enumerate().map(|(i, inner)| Target::third(full(inner), i)).collect();
            }
            return block(inner).map(|inner| Target::whole(full(inner))).into_iter().collect();
        }
    }
    outer(layer).map(|layer| Target::whole(format!("{layer}.{tail}"))).into_iter().collect()
}

/// The name in ComfyUI's files of a tensor of diffusers, and its rows there; `None` if the
/// transformer has no such tensor. A patch size other than ComfyUI's keeps its name.
pub(super) fn comfy(name: &str) -> Option<(String, Rows)> {
    let whole = |name: String| Some((name, Rows::All));
    if targets(name).is_empty() {
        return None;
    }
    let Some((layer, tail)) = layer_and_tail(name) else { return whole(name.to_owned()) };
    for stack in STACKS {
        if let Some((number, inner)) = layer.strip_prefix(stack).and_then(numbered) {
            let full = |inner: &str| format!("{stack}{number}.{inner}.{tail}");
            if let Some(third) = SEPARATE.iter().position(|separate| *separate == inner) {
                return Some((full(FUSED), Rows::Third(third)));
            }
            let old = RENAMED.iter().find(|(_, new)| *new == inner).map_or(inner, |(old, _)| old);
            return whole(full(old));
        }
    }
    if layer == format!("all_{EMBED}.{PATCH}") {
        return whole(format!("{EMBED}.{tail}"));
    }
    match layer.strip_prefix(&format!("all_final_layer.{PATCH}.")) {
        Some(inner) => whole(format!("final_layer.{inner}.{tail}")),
        None => whole(name.to_owned()),
    }
}

/// The name in diffusers of a layer in a block.
fn block(inner: &str) -> Option<&str> {
    if let Some((_, new)) = RENAMED.iter().find(|(old, _)| *old == inner) {
        return Some(new);
    }
    let known = SHARED.contains(&inner) || SEPARATE.contains(&inner) || RENAMED.iter().any(|(_, new)| *new == inner);
    known.then_some(inner)
}

/// The name in diffusers of a layer outside of the blocks.
fn outer(layer: &str) -> Option<String> {
    if layer == EMBED {
        return Some(format!("all_{EMBED}.{PATCH}"));
    }
    if FINAL.contains(&layer) {
        return layer.strip_prefix("final_layer.").map(|inner| format!("all_final_layer.{PATCH}.{inner}"));
    }
    if EMBEDDERS.contains(&layer) {
        return Some(layer.to_owned());
    }
    let of_patch = match layer.strip_prefix("all_")?.split_once('.') {
        Some(("x_embedder", patch)) => !patch.contains('.'),
        Some(("final_layer", rest)) => {
            rest.split_once('.').is_some_and(|(_, inner)| FINAL.contains(&&*format!("final_layer.{inner}")))
        }
        _ => false,
    };
    of_patch.then(|| layer.to_owned())
}
