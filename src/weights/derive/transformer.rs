//! `transformer/config.json` from the shapes of a transformer.

use super::shapes::{Shapes, with_given};
use crate::error::Result;
use serde_json::{Map, Value, json};

/// The head dimensions that each position axis rotates, in sixteenths: frame, row and column.
const AXES: [usize; 3] = [4, 6, 6];
const SIXTEENTHS: usize = 16;
/// The published number of positions of each axis.
const AXES_LENS: [usize; 3] = [1536, 512, 512];

/// The transformer's configuration, in the layout of `transformer/config.json`.
///
/// | key | from |
/// | --- | --- |
/// | `dim` | a norm over the width |
/// | `n_heads`, `n_kv_heads` | `dim` / the length of `norm_q` |
/// | `n_layers`, `n_refiner_layers` | the numbers in names |
/// | `cap_feat_dim` | the norm of the caption |
/// | `all_patch_size`, `all_f_patch_size` | the name of the final layer, such as `2-1` |
/// | `in_channels` | the final layer's bias, patch² · channels |
/// | `axes_dims` | ¼, ⅜ and ⅜ of the head, as published |
/// | `axes_lens`, `rope_theta`, `t_scale`, `norm_eps` | the published model |
///
/// # Errors
/// [`Error::Tensor`](crate::Error::Tensor) for a tensor that is missing or does not fit the others;
/// [`Error::File`](crate::Error::File) if the head cannot be divided as published and `given` has
/// no `axes_dims`.
pub fn transformer_config(shapes: &Shapes, given: &Map<String, Value>) -> Result<Value> {
    const NORM: &str = "layers.0.attention_norm1.weight";
    const HEAD_NORM: &str = "layers.0.attention.norm_q.weight";
    let (dim, head) = (shapes.vector(NORM)?, shapes.vector(HEAD_NORM)?);
    if !dim.is_multiple_of(head) {
        return Err(shapes.wrong(HEAD_NORM, &format!("a divisor of the width {dim}"), format!("[{head}]")));
    }
    for layer in ["to_q", "to_k", "to_v"] {
        let name = format!("layers.0.attention.{layer}.weight");
        let rows = shapes.rows(&name)?;
        if rows != dim {
            let expected = format!("{dim} rows, one head of keys and values for each of the queries");
            return Err(shapes.wrong(&name, &expected, format!("{rows} rows")));
        }
    }
    let refiners = shapes.count("noise_refiner")?;
    let others = shapes.count("context_refiner")?;
    if refiners != others {
        let expected = format!("{refiners} layers, as many as noise_refiner has");
        return Err(shapes.wrong("context_refiner", &expected, format!("{others} layers")));
    }
    let [patch, frames] = patch(shapes);
    let bias = format!("all_final_layer.{patch}-{frames}.linear.bias");
    let values = shapes.vector(&bias)?;
    let pixels = patch.saturating_mul(patch).saturating_mul(frames).max(1);
    if !values.is_multiple_of(pixels) {
        return Err(shapes.wrong(
            &bias,
            &format!("a multiple of the {pixels} pixels of a patch"),
            format!("[{values}]"),
        ));
    }
    let config = json!({
        "_class_name": "ZImageTransformer2DModel",
        "all_patch_size": [patch],
        "all_f_patch_size": [frames],
        "in_channels": values / pixels,
        "dim": dim,
        "n_layers": shapes.count("layers")?,
        "n_refiner_layers": refiners,
        "n_heads": dim / head,
        "n_kv_heads": dim / head,
        "norm_eps": 1e-5,
        "qk_norm": true,
        "cap_feat_dim": shapes.vector("cap_embedder.0.weight")?,
        "rope_theta": 256.0,
        "t_scale": 1000.0,
        "axes_dims": axes_dims(head),
        "axes_lens": AXES_LENS,
    });
    if axes_dims(head).is_none() && !given.contains_key("axes_dims") {
        let problem = format!(
            "expected a config.json with axes_dims, found none: a head of {head} cannot be divided among the positions \
             in the published proportions, which take a multiple of {SIXTEENTHS}"
        );
        return Err(shapes.unknown(problem));
    }
    Ok(with_given(config, given))
}

/// The dimensions of a head that each axis rotates. Each must be even.
fn axes_dims(head: usize) -> Option<[usize; 3]> {
    head.is_multiple_of(SIXTEENTHS).then(|| AXES.map(|sixteenths| head / SIXTEENTHS * sixteenths))
}

/// The pixels and frames of a patch, from the name of the final layer.
fn patch(shapes: &Shapes) -> [usize; 2] {
    const PUBLISHED: [usize; 2] = [2, 1];
    let sizes = |name: &str| {
        let (patch, frames) = name.strip_prefix("all_final_layer.")?.split('.').next()?.split_once('-')?;
        Some([patch.parse().ok()?, frames.parse().ok()?])
    };
    shapes.names().find_map(sizes).unwrap_or(PUBLISHED)
}
