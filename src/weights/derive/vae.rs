//! `vae/config.json` from the shapes of an autoencoder.

use super::shapes::{Shapes, with_given};
use crate::error::Result;
use serde_json::{Map, Value, json};

/// The published number of groups of a GroupNorm.
const GROUPS: usize = 32;

/// The autoencoder's configuration, in the layout of `vae/config.json`. Sizes come from the
/// decoder, because some files have no encoder.
///
/// | key | from |
/// | --- | --- |
/// | `latent_channels` | the decoder's first convolution |
/// | `block_out_channels`, `layers_per_block` | the decoder, which has a resnet more a block |
/// | `mid_block_add_attention`, `use_quant_conv`, `use_post_quant_conv` | presence |
/// | `norm_num_groups`, `scaling_factor`, `shift_factor` | the published model |
///
/// # Errors
/// [`Error::Tensor`](crate::Error::Tensor) for a tensor that is missing;
/// [`Error::File`](crate::Error::File) if the channels cannot have the published number of groups
/// and `given` has no `norm_num_groups`.
pub fn vae_config(shapes: &Shapes, given: &Map<String, Value>) -> Result<Value> {
    let blocks = shapes.count("decoder.up_blocks")?;
    let width = |i: usize| shapes.vector(&format!("decoder.up_blocks.{i}.resnets.0.conv1.bias"));
    // The decoder's first block is the last one from the picture's side.
    let channels = (0..blocks).rev().map(width).collect::<Result<Vec<usize>>>()?;
    let resnets = shapes.count("decoder.up_blocks.0.resnets")?;
    if resnets < 2 {
        let expected = "2 or more resnets, one more than the encoder has";
        return Err(shapes.wrong("decoder.up_blocks.0.resnets", expected, format!("{resnets}")));
    }
    if !given.contains_key("norm_num_groups")
        && let Some(odd) = channels.iter().find(|channels| !channels.is_multiple_of(GROUPS))
    {
        let problem = format!(
            "expected a config.json with norm_num_groups, found none: {odd} channels cannot have the {GROUPS} groups of \
             the published model"
        );
        return Err(shapes.unknown(problem));
    }
    let config = json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": vec!["DownEncoderBlock2D"; channels.len()],
        "up_block_types": vec!["UpDecoderBlock2D"; channels.len()],
        "block_out_channels": channels,
        "layers_per_block": resnets - 1,
        "latent_channels": shapes.channels_in("decoder.conv_in.weight")?,
        "norm_num_groups": GROUPS,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": shapes.has("quant_conv.weight"),
        "use_post_quant_conv": shapes.has("post_quant_conv.weight"),
        "mid_block_add_attention": shapes.has("decoder.mid_block.attentions.0.to_q.weight"),
    });
    Ok(with_given(config, given))
}
