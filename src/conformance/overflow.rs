//! Models whose activations exceed the range of F16 while their pictures stay the same.

use crate::error::Result;
use crate::model::Model;
use crate::tensor::{RowChange, Weight};
use crate::weights::{BoxFuture, Transform};
use std::future::ready;
use std::sync::Arc;

/// The factor of the weights: values of 0.1 exceed the 65504 of F16 and stay far inside BF16 and
/// F32.
const FACTOR: f32 = (1 << 20) as f32;

/// `model` with some weights multiplied by 2²⁰. Activations then exceed the range of F16 at the
/// places where Z-Image's worst blocks exceed it, by far: the SwiGLU output and the output of `w2`,
/// the values and the output of the attention, the middle of every resnet of the autoencoder. A
/// norm follows each of these places and cancels the factor, so the pictures stay the same, except
/// that the eps of those norms has less weight. The factor is a power of two, so no mantissa bit of
/// the weights changes.
///
/// | part | multiplied | taken out by |
/// | --- | --- | --- |
/// | transformer | `feed_forward.w3` | `ffn_norm2` |
/// | transformer | `attention.to_v` | `attention_norm2` |
/// | autoencoder | `resnets.*.conv1` | `resnets.*.norm2` |
///
/// A backend that stores any of these in F16, or passes them to a gemm as F16 without rescaling,
/// draws no picture of this model. The weights are changed as they are read; nothing is written.
///
/// # Errors
/// Errors of the model's files.
pub async fn beyond_f16(model: &Model) -> Result<Model> {
    let name = format!("{}-beyond-f16", model.name());
    Model::new(model.folder().with_transform(&name, Arc::new(BeyondF16))).await
}

/// The change of [`beyond_f16`].
#[derive(Debug)]
struct BeyondF16;

impl Transform for BeyondF16 {
    fn changes(&self, name: &str) -> bool {
        let resnet = name.contains(".resnets.") && (name.ends_with("conv1.weight") || name.ends_with("conv1.bias"));
        resnet || name.ends_with(".feed_forward.w3.weight") || name.ends_with(".attention.to_v.weight")
    }

    fn open<'f, 't: 'f>(&'t self, _: &'f str, _: &'f Weight<'_>) -> BoxFuture<'f, Box<dyn RowChange + 't>> {
        Box::pin(ready(Ok(Box::new(BeyondF16) as Box<dyn RowChange>)))
    }
}

impl RowChange for BeyondF16 {
    /// Multiplies by [`FACTOR`].
    fn apply(&self, _: usize, rows: &mut [f32]) -> Result<()> {
        rows.iter_mut().for_each(|value| *value *= FACTOR);
        Ok(())
    }

    fn keeps_bf16(&self) -> bool {
        true
    }
}
