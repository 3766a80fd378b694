//! Infinite values and NaN in weights, as a broken merge or an overflow in f16 leaves them: each
//! ends in an error that names the network and the tensor. A non-finite tensor that no picture
//! depends on changes nothing.

#[path = "support/folder.rs"]
mod folder;

use folder::copy_of;
use half::{bf16, f16};
use pollster::block_on;
use safetensors::tensor::{Metadata, TensorView};
use safetensors::{Dtype, SafeTensors};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use zimage::backend::cpu::Cpu;
use zimage::conformance::stages::{self, Inputs};
use zimage::model::config::ModelConfig;
use zimage::pipeline::Pipeline;
use zimage::{BackendChoice, Error, ErrorKind, Model, Offload, Request, Result};

const TRANSFORMER: &str = "transformer/diffusion_pytorch_model.safetensors";
const TEXT_ENCODER: &str = "text_encoder/model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
const PARTS: [(&str, &str); 3] = [(TEXT_ENCODER, "text encoder"), (TRANSFORMER, "transformer"), (VAE, "VAE")];

/// The names of a file's tensors, each with its dtype and the byte range of its data.
fn tensors(file: &[u8]) -> Vec<(String, Dtype, std::ops::Range<usize>)> {
    let (header, metadata): (usize, Metadata) = SafeTensors::read_metadata(file).unwrap();
    let all = metadata.tensors();
    let mut list: Vec<_> = all
        .iter()
        .map(|(name, info)| {
            let (start, end) = info.data_offsets;
            (name.clone(), info.dtype, start + header + 8..end + header + 8)
        })
        .collect();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    list
}

/// Writes `value` over every element of `range`.
fn fill(file: &mut [u8], dtype: Dtype, range: std::ops::Range<usize>, value: f32) {
    let bytes = match dtype {
        Dtype::F32 => value.to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        other => panic!("{other}"),
    };
    file[range].chunks_exact_mut(bytes.len()).for_each(|element| element.copy_from_slice(&bytes));
}

fn request() -> Request {
    // 15 image tokens, so that there is padding.
    let (width, height, steps) = (Some(80), Some(48), Some(1));
    Request { width, height, steps, guidance: Some(0.0), seed: 5, ..Request::new("a fox") }
}

fn draw(folder: &Path, offload: Offload) -> Result<Vec<u8>> {
    let silent = &mut |_| ControlFlow::Continue(());
    let model = Model::open(folder)?;
    let pipeline = block_on(Pipeline::load_with(Cpu::new(), &model, offload, silent))?;
    let (pictures, _) = block_on(pipeline.generate(&request().check(model.config())?, silent))?;
    Ok(pictures[0].bytes().to_vec())
}

/// True for a tensor that does not affect any picture.
fn unused(config: &ModelConfig, name: &str) -> bool {
    let last = format!("layers.{}.", config.text_encoder.num_hidden_layers - 1);
    let name = name.strip_prefix("model.").unwrap_or(name);
    name.starts_with("encoder.") || ["norm.weight", "lm_head.weight"].contains(&name) || name.starts_with(&last)
}

#[track_caller]
fn blames(error: Error, file: &Path, network: &str, tensor: &str) {
    assert_eq!(error.kind(), ErrorKind::Files, "{error}");
    let expected = format!("{}: tensor {tensor}: expected finite values", file.display());
    let sentence = error.to_string();
    assert!(sentence.starts_with(&expected) && sentence.contains(&format!("the {network} computes")), "{sentence}");
    assert!(!sentence.contains("to_rgb8"), "{sentence}");
}

#[test]
fn every_used_tensor_is_named() {
    let folder = copy_of("goldens/single");
    let sound = draw(folder.path(), Offload::None).unwrap();
    let config = Model::open(folder.path()).unwrap().config().clone();
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let (mut named, mut harmless) = (0, 0);
    for (part, network) in PARTS {
        let path = folder.path().join(part);
        let original = fs::read(&path).unwrap();
        for (i, (name, dtype, range)) in tensors(&original).into_iter().enumerate() {
            let mut broken = original.clone();
            let size = dtype.bitsize() / 8;
            // One element suffices, except in embedding tables, where most rows belong to other
            // tokens.
            let one = range.start + size * (5 % (range.len() / size));
            let elements = if name.ends_with("embed_tokens.weight") { range } else { one..one + size };
            fill(&mut broken, dtype, elements, values[i % 3]);
            fs::write(&path, broken).unwrap();
            match draw(folder.path(), Offload::None) {
                Ok(picture) => {
                    let harmless_here = network != "transformer" && unused(&config, &name);
                    assert!(harmless_here && picture == sound, "{part}: {name} with {} passes", values[i % 3]);
                    harmless += 1;
                }
                Err(error) => {
                    blames(error, &path, network, &name);
                    named += 1;
                }
            }
        }
        fs::write(&path, original).unwrap();
    }
    assert!(named > 150 && harmless > 20, "{named} named, {harmless} harmless");
}

/// A copy of a model with one non-finite element in `tensor`.
fn broken(part: &str, tensor: &str, value: f32) -> (tempfile::TempDir, PathBuf) {
    let folder = copy_of("goldens/single");
    let path = folder.path().join(part);
    let mut file = fs::read(&path).unwrap();
    let (_, dtype, range) = tensors(&file).into_iter().find(|(name, ..)| name == tensor).unwrap();
    fill(&mut file, dtype, range.start..range.start + dtype.bitsize() / 8, value);
    fs::write(&path, file).unwrap();
    (folder, path)
}

const CASES: [(&str, &str, &str, f32); 3] = [
    (TEXT_ENCODER, "text encoder", "model.layers.0.mlp.down_proj.weight", f32::NAN),
    (TRANSFORMER, "transformer", "layers.0.feed_forward.w2.weight", f32::NAN),
    (VAE, "VAE", "decoder.conv_out.bias", f32::INFINITY),
];

#[test]
fn offloaded_networks_name_their_tensors() {
    for (part, network, tensor, value) in CASES {
        let (folder, path) = broken(part, tensor, value);
        blames(draw(folder.path(), Offload::Sequential).unwrap_err(), &path, network, tensor);
    }
}

/// Writes token ids, latents and a caption, one of them modified by `change`.
fn inputs(file: &Path, change: Option<(&str, f32)>) {
    let mut floats: Vec<(&str, Vec<usize>)> = vec![
        ("transformer.a.latents", vec![1, 16, 4, 4]),
        ("transformer.a.times", vec![1]),
        ("transformer.a.caption.0", vec![3, 48]),
        ("vae.a.latents", vec![1, 16, 4, 4]),
    ];
    floats.retain(|(name, _)| change.is_none_or(|(only, _)| name.split('.').next() == only.split('.').next()));
    let values = |name: &str, shape: &[usize]| {
        let mut values = vec![0.5f32; shape.iter().product()];
        if let Some((_, value)) = change.filter(|(changed, _)| *changed == name) {
            *values.last_mut().unwrap() = value;
        }
        values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()
    };
    let ids = [3u32, 1, 2].iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
    let data: Vec<_> = floats.iter().map(|(name, shape)| (*name, shape, values(name, shape))).collect();
    let mut views: Vec<_> = data
        .iter()
        .map(|(name, shape, bytes)| (*name, TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap()))
        .collect();
    if change.is_none() {
        views.push(("text.a.ids", TensorView::new(Dtype::U32, vec![3], &ids).unwrap()));
    }
    safetensors::serialize_to_file(views, None, file).unwrap();
}

#[test]
fn stages_fail_like_full_runs() {
    for (part, network, tensor, value) in CASES {
        let (folder, path) = broken(part, tensor, value);
        let file = folder.path().join("in.safetensors");
        inputs(&file, None);
        let model = Model::open(folder.path()).unwrap();
        let read = block_on(Inputs::read(&file, model.config())).unwrap();
        let silent = &mut |_| ControlFlow::Continue(());
        let error = block_on(zimage::stages(BackendChoice::Cpu, &model, &read, silent)).unwrap_err();
        blames(error, &path, network, tensor);
    }
}

#[test]
fn stage_inputs_must_be_finite() {
    let folder = copy_of("goldens/single");
    let (model, file) = (Model::open(folder.path()).unwrap(), folder.path().join("in.safetensors"));
    for name in ["transformer.a.latents", "transformer.a.times", "transformer.a.caption.0", "vae.a.latents"] {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            inputs(&file, Some((name, value)));
            let error = block_on(Inputs::read(&file, model.config())).unwrap_err();
            let sentence = format!("{}: tensor {name}: expected finite values, found infinity or NaN", file.display());
            assert_eq!(error.to_string(), sentence);
        }
    }
}

#[test]
fn overflow_of_finite_weights_names_the_network() {
    let folder = copy_of("goldens/single");
    let path = folder.path().join(VAE);
    let mut file = fs::read(&path).unwrap();
    let list = tensors(&file);
    for name in ["decoder.conv_out.weight", "decoder.conv_norm_out.weight"] {
        let (_, dtype, range) = list.iter().find(|(other, ..)| other == name).unwrap().clone();
        fill(&mut file, dtype, range, 1e38);
    }
    fs::write(&path, file).unwrap();
    let error = draw(folder.path(), Offload::None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Device);
    let sentence = error.to_string();
    assert!(sentence.starts_with(&format!("{}: the VAE returned", path.parent().unwrap().display())), "{sentence}");
    assert!(sentence.contains("although its weights are finite"), "{sentence}");
    // The preview's latent2rgb map is also computed with the decoder, before the picture is.
    let model = Model::open(folder.path()).unwrap();
    let pipeline = block_on(Pipeline::load(Cpu::new(), &model, &mut Previewed)).unwrap();
    let job = request().check(model.config()).unwrap();
    let error = block_on(pipeline.generate(&job, &mut Previewed)).unwrap_err();
    assert!(error.to_string().contains("the VAE returned"), "{error}");
    // A single stage fails with the same error.
    let input = folder.path().join("in.safetensors");
    inputs(&input, Some(("vae.a.latents", 0.5)));
    let read = block_on(Inputs::read(&input, model.config())).unwrap();
    let error = block_on(stages::run(&Cpu::new(), &model, &read, &mut Previewed)).unwrap_err();
    assert!(error.to_string().contains("the VAE returned"), "{error}");
}

/// An observer that requests previews.
struct Previewed;

impl zimage::Progress for Previewed {
    fn update(&mut self, _: zimage::Stage) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn wants_preview(&self) -> bool {
        true
    }
}
