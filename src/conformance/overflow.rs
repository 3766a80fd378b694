//! Models whose activations are past the range of F16, and whose pictures are the same.

use crate::error::Result;
use crate::model::Model;
use crate::tensor::{DType, HostTensor};
use crate::weights::Transform;
use std::sync::Arc;

/// The factor of the weights: enough that values of 0.1 are past the 65504 of F16, far from the end
/// of BF16 and F32.
const FACTOR: f32 = (1 << 20) as f32;

/// `model` with some of its weights multiplied by 2²⁰, so that activations are past the range of
/// F16 where Z-Image's own are in its worst blocks and far beyond: the SwiGLU product and the
/// output of `w2`, values and the output of the attention, the middle of every resnet of the
/// autoencoder. A norm follows each of these places and takes the factor out again, so that the
/// pictures stay the same, except that the eps of those norms weighs less. The factor is a power of
/// two, so that no digit of the weights changes.
///
/// | part | multiplied | taken out by |
/// | --- | --- | --- |
/// | transformer | `feed_forward.w3` | `ffn_norm2` |
/// | transformer | `attention.to_v` | `attention_norm2` |
/// | autoencoder | `resnets.*.conv1` | `resnets.*.norm2` |
///
/// A backend that keeps any of these in F16, or hands them to products as F16 without taking out a
/// factor first, draws no picture of this model. The weights are changed as they are read; nothing
/// is written.
///
/// # Errors
/// Those of the model's files.
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

    /// The product with [`FACTOR`], in the tensor's own type where that has the range.
    fn apply(&self, _: &str, tensor: HostTensor) -> HostTensor {
        let dtype = if tensor.dtype() == DType::Bf16 { DType::Bf16 } else { DType::F32 };
        let values: Vec<f32> = tensor.to_f32().into_iter().map(|value| value * FACTOR).collect();
        HostTensor::rounded(dtype, tensor.shape(), &values)
    }
}
