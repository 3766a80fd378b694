//! Models whose activations are past the range of F16, and whose pictures are the same.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::tensor::{DType, HostTensor};
use crate::weights::Tensors;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;

/// What weights are multiplied with: enough that values of 0.1 are past the 65504 of F16, far from the end of BF16 and
/// F32.
const FACTOR: f32 = (1 << 20) as f32;

/// `model` with some of its weights multiplied by 2²⁰, so that activations are past the range of F16 where Z-Image's own
/// are in its worst blocks and far beyond: the SwiGLU product and the output of `w2`, values and the output of the
/// attention, the middle of every resnet of the autoencoder. A norm follows each of these places and takes the factor
/// out again, so that the pictures stay what they were, but for the eps of those norms, which weighs less. The factor is
/// a power of two: not a digit of the weights changes.
///
/// | part | multiplied | taken out by |
/// | --- | --- | --- |
/// | transformer | `feed_forward.w3` | `ffn_norm2` |
/// | transformer | `attention.to_v` | `attention_norm2` |
/// | autoencoder | `resnets.*.conv1` | `resnets.*.norm2` |
///
/// A backend that keeps any of these in F16, or hands them to products as F16 without taking out a factor first, draws
/// no picture of this model. The weights are changed in memory; nothing is written.
///
/// # Errors
/// Those of the model's files.
pub async fn beyond_f16(model: &Model) -> Result<Model> {
    let scaled = |name: &str| {
        let resnet = name.contains(".resnets.") && (name.ends_with("conv1.weight") || name.ends_with("conv1.bias"));
        resnet || name.ends_with(".feed_forward.w3.weight") || name.ends_with(".attention.to_v.weight")
    };
    let mut files = Vec::new();
    for part in ["transformer", "vae"] {
        let stem = "diffusion_pytorch_model";
        let tensors = Tensors::open(model.folder(), part, stem).await?;
        let names: Vec<(String, Vec<usize>)> =
            tensors.iter().map(|listed| (listed.name.to_owned(), listed.shape.to_vec())).collect();
        let mut all = BTreeMap::new();
        for (name, shape) in names {
            let tensor = tensors.take(&name, &shape).await?;
            let tensor = if scaled(&name) { multiplied(&tensor) } else { tensor };
            all.insert(name, tensor);
        }
        // One file, also where there were shards: then it is the only one that their index names.
        let index = format!("{part}/{stem}.safetensors.index.json");
        let name = if model.folder().exists(&index).await? {
            let name = format!("{stem}-00001-of-00001.safetensors");
            let map: BTreeMap<&String, &String> = all.keys().map(|tensor| (tensor, &name)).collect();
            files.push((index, serde_json::json!({"weight_map": map}).to_string().into()));
            name
        } else {
            format!("{stem}.safetensors")
        };
        let file = format!("{part}/{name}");
        let bytes = serialized(&all).map_err(|problem| Error::file(&model.folder().path(&file), problem))?;
        files.push((file, bytes.into()));
    }
    Model::new(model.folder().with_files(&format!("{}-beyond-f16", model.name()), files)).await
}

/// A tensor times [`FACTOR`], in its own type where that has the range.
fn multiplied(tensor: &HostTensor) -> HostTensor {
    let dtype = if tensor.dtype() == DType::Bf16 { DType::Bf16 } else { DType::F32 };
    let values: Vec<f32> = tensor.to_f32().into_iter().map(|value| value * FACTOR).collect();
    HostTensor::rounded(dtype, tensor.shape(), &values)
}

fn serialized(tensors: &BTreeMap<String, HostTensor>) -> Result<Vec<u8>, String> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let dtype = match tensor.dtype() {
            DType::F16 => Dtype::F16,
            DType::Bf16 => Dtype::BF16,
            _ => Dtype::F32,
        };
        let view = TensorView::new(dtype, tensor.shape().to_vec(), tensor.bytes());
        views.push((name, view.map_err(|error| error.to_string())?));
    }
    safetensors::serialize(views, None).map_err(|error| error.to_string())
}
