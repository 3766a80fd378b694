//! The autoencoder's names in the spellings of diffusers and of the latent-diffusion code, which
//! FLUX's `ae.safetensors` keeps.
//!
//! The latent-diffusion decoder counts its levels from the picture, `up.0` being the largest, and
//! diffusers counts them from the latents. Its attention has 1×1 convolutions for matrices.

use super::library::OLD_ATTENTION;
use super::target::{Target, layer_and_tail, numbered};

/// Prefixes of the autoencoder in files of several parts.
pub(super) const PREFIXES: [&str; 3] = ["vae.", "first_stage_model.", ""];

const CODERS: [&str; 2] = ["encoder.", "decoder."];
/// The levels of the latent-diffusion decoder.
const UP: &str = "decoder.up.";

/// Layers of a resnet in the latent-diffusion spelling and in that of diffusers.
const RESNET: [(&str, &str); 5] =
    [("norm1", "norm1"), ("conv1", "conv1"), ("norm2", "norm2"), ("conv2", "conv2"), ("nin_shortcut", "conv_shortcut")];
/// The same for the attention, without its norm.
const ATTENTION: [(&str, &str); 4] = [("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")];
/// The same for both ends of a coder.
const ENDS: [(&str, &str); 3] = [("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out")];

/// The number of levels of a latent-diffusion decoder, from a name without its prefix; 0 from any
/// other name.
pub(super) fn levels(name: &str) -> usize {
    let level = name.strip_prefix(UP).and_then(numbered).and_then(|(level, _)| level.parse::<usize>().ok());
    level.map_or(0, |level| level + 1)
}

/// The targets of a name without its prefix; none if an autoencoder has no such tensor. `levels` is
/// the maximum of [`levels`] over the file's names.
pub(super) fn targets(name: &str, levels: usize) -> Vec<Target> {
    mapped(name, levels).into_iter().collect()
}

fn mapped(name: &str, levels: usize) -> Option<Target> {
    let (layer, tail) = layer_and_tail(name)?;
    if ["quant_conv", "post_quant_conv"].contains(&layer) {
        return Some(Target::whole(name));
    }
    let (coder, inner) = CODERS.iter().find_map(|coder| Some((*coder, layer.strip_prefix(coder)?)))?;
    let target = |inner: &str| Target::whole(format!("{coder}{inner}.{tail}"));
    if let Some(end) = renamed(&ENDS, inner) {
        return Some(target(end));
    }
    if let Some(middle) = inner.strip_prefix("mid.") {
        let (part, layer) = middle.split_once('.')?;
        return match (part, renamed(&RESNET, layer), renamed(&ATTENTION, layer)) {
            ("block_1", Some(layer), _) => Some(target(&format!("mid_block.resnets.0.{layer}"))),
            ("block_2", Some(layer), _) => Some(target(&format!("mid_block.resnets.1.{layer}"))),
            ("attn_1", _, Some(layer)) => Some(Target::matrix(format!("{coder}mid_block.attentions.0.{layer}.{tail}"))),
            ("attn_1", _, None) if layer == "norm" => Some(target("mid_block.attentions.0.group_norm")),
            _ => None,
        };
    }
    if let Some(middle) = inner.strip_prefix("mid_block.") {
        return known_middle(middle).map(|middle| target(&format!("mid_block.{middle}")));
    }
    let (down, up) = (inner.strip_prefix("down."), inner.strip_prefix("up."));
    if let Some((level, layer)) = down.or(up).and_then(numbered) {
        let level = level.parse::<usize>().ok()?;
        let (level, blocks, resample) = match up {
            None => (level, "down_blocks", ("downsample", "downsamplers")),
            Some(_) => (levels.checked_sub(level + 1)?, "up_blocks", ("upsample", "upsamplers")),
        };
        let layer = match layer.strip_prefix("block.").and_then(numbered) {
            Some((block, layer)) => format!("resnets.{block}.{}", renamed(&RESNET, layer)?),
            None if layer.strip_suffix(".conv") == Some(resample.0) => format!("{}.0.conv", resample.1),
            None => return None,
        };
        return Some(target(&format!("{blocks}.{level}.{layer}")));
    }
    let (down, up) = (inner.strip_prefix("down_blocks."), inner.strip_prefix("up_blocks."));
    let (_, layer) = down.or(up).and_then(numbered)?;
    let resample = if up.is_some() { "upsamplers.0.conv" } else { "downsamplers.0.conv" };
    (layer == resample || is_resnet(layer)).then(|| Target::whole(name))
}

/// The name in diffusers of a layer in the middle, from a name in diffusers, old or new.
fn known_middle(middle: &str) -> Option<String> {
    if is_resnet(middle) {
        return Some(middle.to_owned());
    }
    let layer = middle.strip_prefix("attentions.0.")?;
    let new = renamed(&OLD_ATTENTION, layer).unwrap_or(layer);
    let known = new == "group_norm" || ATTENTION.iter().any(|(_, name)| *name == new);
    known.then(|| format!("attentions.0.{new}"))
}

/// True for a layer of a resnet in the spelling of diffusers, such as `resnets.0.conv1`.
fn is_resnet(layer: &str) -> bool {
    let inner = layer.strip_prefix("resnets.").and_then(numbered);
    inner.is_some_and(|(_, layer)| RESNET.iter().any(|(_, name)| *name == layer))
}

/// The second name of a pair whose names include this one.
fn renamed(pairs: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    pairs.iter().find(|(old, _)| *old == name).map(|(_, new)| *new)
}
