//! The stages of a model, and whole pictures, on two backends.
//!
//! Each stage gets the same inputs on both backends, so a report shows the stage, and the block in
//! it, where they diverge.

use super::compare::{Options, compare, empty, outcome};
use super::finding::Finding;
use super::report::Report;
use super::{beyond_f16, noise, relative_error};
use crate::backend::{Backend, Branch, DeviceTensor};
use crate::catalogue::{Precision, Tolerance};
use crate::error::Result;
use crate::model::Model;
use crate::model::transformer::{Clock, ProbePoint, padded};
use crate::pipeline::Pipeline;
use crate::pipeline::request::Request;
use crate::tensor::HostTensor;
use std::ops::ControlFlow;

/// The tolerance of a whole network, block by block.
const STAGE: Tolerance = Tolerance::gemm(
    1e-4,
    3e-3,
    4e-2,
    "roundings of a block add up over the blocks: tens of them at the precision of one matrix product each",
);

/// The tolerance of a picture, as root mean square error relative to the range of a pixel: 40 dB
/// PSNR, and 30 dB with BF16 activations or operands.
const PICTURE: Tolerance = Tolerance::gemm(
    1e-2,
    1e-2,
    3.2e-2,
    "40 dB PSNR, differences that nobody sees; 30 dB where BF16 rounds, as that grows from step to step",
);

/// One prompt within the 32 tokens that captions are padded to, and one beyond them: a ragged
/// batch.
const PROMPTS: [&str; 2] = [
    "a red fox",
    "two owls on a wooden table beside a river, in the light of a summer morning, painted with thick strokes of oil \
     in green, orange and a little blue, with mountains and a small village far behind them",
];

/// Compares every op, then the stages and the pictures of each of `models` and of its variant by
/// [`beyond_f16`].
///
/// # Errors
/// Errors of the reference and of the models' files, and the candidate's error if a model does not
/// fit.
pub async fn compare_all<A, B>(
    mut reference: A,
    mut candidate: B,
    models: &[Model],
    options: &Options,
) -> Result<Report>
where
    A: Backend + 'static,
    B: Backend + 'static,
{
    let mut report = compare(&reference, &candidate, options).await?;
    for model in models {
        for beyond in [false, true] {
            let name = format!("{}{}", model.name(), if beyond { "-beyond-f16" } else { "" });
            if !STAGES.iter().any(|stage| chosen(stage, &name, options)) {
                continue;
            }
            let model = if beyond { beyond_f16(model).await? } else { model.clone() };
            let silent = &mut |_| ControlFlow::Continue(());
            let known = Pipeline::load(reference, &model, silent).await?;
            let other = Pipeline::load(candidate, &model, silent).await?;
            report.append(compare_pipelines(&name, &known, &other, options).await?);
            (reference, candidate) = (known.into_backend(), other.into_backend());
        }
    }
    Ok(report)
}

/// The stages, as rows of a report.
const STAGES: [&str; 4] = ["text_encoder", "transformer", "vae", "picture"];

/// True if the filter is part of `stage/model` or begins with it.
fn chosen(stage: &str, model: &str, options: &Options) -> bool {
    let name = format!("{stage}/{model}/");
    name.contains(&options.filter) || options.filter.starts_with(&name)
}

/// The values of a stage at one probe point, in F32, without padding.
struct Probed {
    point: String,
    values: Vec<f32>,
}

/// Compares the stages of one model, which both pipelines have loaded, and two of its pictures:
/// without and with guidance. `model` is its name, for the report. The cases are
/// `text_encoder/<model>/block-<i>`, `transformer/<model>/…` for every [`ProbePoint`] and the
/// velocity, `vae/<model>/decode` and `…/encode`, and `picture/<model>/plain` and `…/guided`. A
/// picture's error is its root mean square error over 255, so 0.01 is 40 dB PSNR. With
/// [`Options::full`] pictures have the model's own size and steps.
///
/// # Errors
/// Errors of the reference, because they leave nothing to compare with.
pub async fn compare_pipelines<A: Backend, B: Backend>(
    model: &str,
    reference: &Pipeline<A>,
    candidate: &Pipeline<B>,
    options: &Options,
) -> Result<Report> {
    let precision = Precision::of(reference.backend())?.coarser(Precision::of(candidate.backend())?);
    let mut report = empty(reference.backend(), candidate.backend(), precision, options);
    let prompts = PROMPTS.map(|prompt| reference.tokenizer().encode(prompt).map(|tokens| tokens.ids));
    let prompts = prompts.into_iter().collect::<Result<Vec<_>>>()?;
    let mut compare = |stage: &str, tolerance: Tolerance, known: Vec<Probed>, other: Result<Vec<Probed>>| {
        let others = match other {
            Ok(others) => others,
            Err(error) => {
                report.add(stage, outcome(format!("{stage}/{model}"), tolerance, precision, Err(error)));
                return;
            }
        };
        let measure = if stage == "picture" { picture_error } else { relative_error };
        for (known, other) in known.into_iter().zip(others) {
            let name = format!("{stage}/{model}/{}", known.point);
            if name.contains(&options.filter) {
                let finding = Finding { error: measure(&other.values, &known.values), problem: None };
                report.add(stage, outcome(name, tolerance, precision, Ok(finding)));
            }
        }
    };
    let [text, transformer, vae, picture] = STAGES;
    if chosen(text, model, options) {
        compare(text, STAGE, text_encoder(reference, &prompts).await?, text_encoder(candidate, &prompts).await);
    }
    if chosen(transformer, model, options) {
        let captions = captions(reference, &prompts, precision, options.seed);
        let known = transformer_step(reference, &captions, options).await?;
        compare(transformer, STAGE, known, transformer_step(candidate, &captions, options).await);
    }
    if chosen(vae, model, options) {
        compare(vae, STAGE, autoencoder(reference, options).await?, autoencoder(candidate, options).await);
    }
    if chosen(picture, model, options) {
        compare(picture, PICTURE, pictures(reference, options).await?, pictures(candidate, options).await);
    }
    Ok(report)
}

/// Root mean square error over 255.
fn picture_error(picture: &[f32], reference: &[f32]) -> f64 {
    let power: f64 = reference.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    let length = reference.len() as f64;
    let rms = if power > 0.0 { (power / length).sqrt() } else { 1.0 / length.sqrt() };
    relative_error(picture, reference) * rms / 255.0
}

/// A copy of an activation that is changed in place later: zeros plus the activation as a branch.
fn copy<B: Backend>(b: &B, x: &B::Tensor) -> Result<B::Tensor> {
    let width = x.shape().last().copied().unwrap_or(1);
    let rows = x.shape().iter().product::<usize>() / width.max(1);
    let mut zeros = b.upload(&HostTensor::rounded(b.activations(), &[1, rows, width], &vec![0.0; rows * width]))?;
    let x = x.reshaped(&[1, rows, width])?;
    b.residual(&mut zeros, Branch { y: &x, norm: None, gate: None, eps: 0.0 })?;
    Ok(zeros)
}

/// Copies of the tensors at the probe points, with the number of non-padding rows of each item;
/// empty for all rows.
struct Probes<B: Backend>(Vec<(String, Vec<usize>, B::Tensor)>);

impl<B: Backend> Probes<B> {
    fn push(&mut self, b: &B, point: String, rows: &[usize], x: &B::Tensor) -> Result<()> {
        self.0.push((point, rows.to_vec(), copy(b, x)?));
        Ok(())
    }

    async fn download(self, b: &B) -> Result<Vec<Probed>> {
        let mut probed = Vec::with_capacity(self.0.len());
        for (point, rows, tensor) in self.0 {
            let values = b.download(&tensor).await?.to_f32();
            let width = tensor.shape()[2];
            let item = values.len() / rows.len().max(1);
            let kept = |(values, rows): (&[f32], &usize)| values[..(rows * width).min(values.len())].to_vec();
            let values = if rows.is_empty() { values } else { values.chunks(item).zip(&rows).flat_map(kept).collect() };
            probed.push(Probed { point, values });
        }
        Ok(probed)
    }
}

async fn text_encoder<B: Backend>(pipeline: &Pipeline<B>, prompts: &[Vec<u32>]) -> Result<Vec<Probed>> {
    let b = pipeline.backend();
    let encoder = pipeline.text_encoder().await?;
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    let tokens = padded(lengths.iter().copied().max().unwrap_or(0));
    let mut probes = Probes(Vec::new());
    encoder.forward(b, prompts, tokens, &mut |i, x| probes.push(b, format!("block-{i}"), &lengths, x))?;
    probes.download(b).await
}

/// Text features on the host, as input of a transformer.
struct Captions {
    shape: [usize; 3],
    values: Vec<f32>,
    lengths: Vec<usize>,
}

/// Random text features. The text encoder's own are compared in its stage.
fn captions<B: Backend>(pipeline: &Pipeline<B>, prompts: &[Vec<u32>], precision: Precision, seed: u64) -> Captions {
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    let tokens = padded(lengths.iter().copied().max().unwrap_or(0));
    let shape = [prompts.len(), tokens, pipeline.config().transformer.cap_feat_dim];
    let values = noise(seed ^ 0xca97, shape.iter().product());
    Captions { shape, values: values.into_iter().map(|v| precision.round(v)).collect(), lengths }
}

/// One guided call: one picture with two captions of unequal length.
async fn transformer_step<B: Backend>(
    pipeline: &Pipeline<B>,
    captions: &Captions,
    options: &Options,
) -> Result<Vec<Probed>> {
    let b = pipeline.backend();
    let transformer = pipeline.transformer().await?;
    let config = &pipeline.config().transformer;
    let size = if options.full {
        let [_, height, width] =
            pipeline.latent_size(pipeline.config().defaults.width, pipeline.config().defaults.height);
        [height, width]
    } else {
        // The picture has 60 patches, which need padding.
        [6 * config.patch_size, 10 * config.patch_size]
    };
    let items = captions.lengths.len();
    let image = padded(size[0] / config.patch_size * (size[1] / config.patch_size));
    let caption_rows: Vec<usize> = captions.lengths.iter().map(|&length| padded(length)).collect();
    let rows: Vec<usize> = caption_rows.iter().map(|caption| image + caption).collect();

    let mut probes = Probes(Vec::new());
    let mut probe = |stage: ProbePoint, x: &B::Tensor| match stage {
        ProbePoint::Timestep => probes.push(b, "timestep".into(), &[], x),
        ProbePoint::EmbedPatches => probes.push(b, "embed_patches".into(), &[], x),
        ProbePoint::EmbedCaption => probes.push(b, "embed_caption".into(), &caption_rows, x),
        ProbePoint::NoiseRefiner(i) => probes.push(b, format!("noise_refiner-{i}"), &[], x),
        ProbePoint::ContextRefiner(i) => probes.push(b, format!("context_refiner-{i}"), &caption_rows, x),
        ProbePoint::Layer(i) => probes.push(b, format!("layer-{i}"), &rows, x),
    };
    let features = b.upload(&HostTensor::rounded(b.activations(), &captions.shape, &captions.values))?;
    let refined = transformer.captions(b, &features, &captions.lengths, &mut probe)?;
    let sequence = transformer.sequence(b, &refined, 1, &(0..items).collect::<Vec<_>>(), size)?;
    let shape = [1, config.in_channels, size[0], size[1]];
    let latents = b.upload(&HostTensor::from_f32(&shape, &noise(options.seed ^ 0x1a7e, shape.iter().product())))?;
    let times = b.upload(&HostTensor::from_f32(&[1, 1], &[0.3 * config.t_scale as f32]))?;
    let step = b.upload(&HostTensor::from_u32(&[1], &[0]))?;
    let clock = Clock { times: &times, step: &step };
    let velocity = transformer.forward(b, &latents, clock, &refined, &sequence, &mut probe)?;
    let velocity = b.download(&velocity).await?.to_f32();
    let mut probed = probes.download(b).await?;
    probed.push(Probed { point: "velocity".into(), values: velocity });
    Ok(probed)
}

async fn autoencoder<B: Backend>(pipeline: &Pipeline<B>, options: &Options) -> Result<Vec<Probed>> {
    let b = pipeline.backend();
    let vae = pipeline.vae();
    let config = pipeline.config();
    let factor = config.vae.scale_factor();
    let [height, width] =
        if options.full { [config.defaults.height / factor, config.defaults.width / factor] } else { [7, 10] };
    let shape = [1, config.vae.latent_channels, height, width];
    let latents = HostTensor::from_f32(&shape, &noise(options.seed ^ 0xdec0, shape.iter().product()));
    let decoded = vae.decode_unrounded(b, &b.upload(&latents)?, 0..1)?;
    let decoded = Probed { point: "decode".into(), values: b.download(&decoded).await?.to_f32() };

    let shape = [1, height * factor, width * factor, 3];
    let levels = noise(options.seed ^ 0xe0c0, shape.iter().product());
    let pixels: Vec<u8> = levels.into_iter().map(|v| ((v + 1.0) * 127.99) as u8).collect();
    let encoded = vae.encode(b, &b.upload(&HostTensor::from_u8(&shape, &pixels))?)?;
    let encoded = Probed { point: "encode".into(), values: b.download(&encoded).await?.to_f32() };
    Ok(vec![decoded, encoded])
}

async fn pictures<B: Backend>(pipeline: &Pipeline<B>, options: &Options) -> Result<Vec<Probed>> {
    let multiple = pipeline.config().size_multiple();
    let mut request = Request { seed: options.seed, ..Request::new(PROMPTS[0]) };
    if !options.full {
        request.width = Some(8 * multiple);
        request.height = Some(6 * multiple);
        request.steps = Some(4);
    }
    let guided = Request {
        negative: vec!["a blurred photograph".into()],
        guidance: Some(3.0),
        cfg_normalization: 1.0,
        ..request.clone()
    };
    let mut probed = Vec::new();
    for (point, request) in [("plain", request), ("guided", guided)] {
        let job = request.check(pipeline.config())?;
        let (pictures, _) = pipeline.generate(&job, &mut |_| ControlFlow::Continue(())).await?;
        let values = pictures.iter().flat_map(HostTensor::to_f32).collect();
        probed.push(Probed { point: point.into(), values });
    }
    Ok(probed)
}
