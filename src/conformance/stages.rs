//! Single stages of a model on given inputs, with the unprocessed output of each network, for
//! comparison with other programs stage by stage.
//!
//! | input | is |
//! | --- | --- |
//! | `text.NAME.ids` | U32, I32 or I64 `[n]`: the token ids of a prompt, template included |
//! | `transformer.NAME.latents` | `[P, C, h, w]` |
//! | `transformer.NAME.times` | `[1]`, or `[N]` where `N = P`: 0 is noise, 1 the picture |
//! | `transformer.NAME.caption.i` | `[nᵢ, features]`, `i < N`: item `i` draws latents `i mod P` |
//! | `vae.NAME.latents` | `[B, C, h, w]`, scaled as the transformer reads them |
//!
//! | output, F32 | is |
//! | --- | --- |
//! | `text.NAME.features` | `[n, features]` |
//! | `transformer.NAME.velocity` | `[N, C, h, w]`, a prediction of (image − noise) |
//! | `vae.NAME.image` | `[B, H, W, 3]`, between about −1 and 1, not clamped |
//!
//! All prompts are encoded in one ragged batch, and all items of a `NAME` go through the
//! transformer in one. Inputs are F32, F16 or BF16 unless another type is named; captions are
//! rounded to the backend's activation type.

use crate::backend::Backend;
use crate::error::{Error, Result, excerpt};
use crate::model::Model;
use crate::model::config::{ModelConfig, TransformerConfig};
use crate::model::text_encoder::TextEncoder;
use crate::model::transformer::{Clock, Transformer, padded};
use crate::model::vae::Vae;
use crate::pipeline::finite::Network;
use crate::pipeline::progress::{Loading, Progress};
use crate::pipeline::prompt::MAX_TOKENS;
use crate::reserve::zeros;
use crate::tensor::HostTensor;
use crate::weights::{Part, Tensors};
use std::path::Path;

/// The inputs of the stages.
#[derive(Debug)]
pub struct Inputs {
    prompts: Vec<Named<Vec<u32>>>,
    forwards: Vec<Named<Forward>>,
    latents: Vec<Named<HostTensor>>,
}

/// A value with the name of its tensors in the file.
#[derive(Debug)]
struct Named<T> {
    name: String,
    value: T,
}

/// One call of the transformer.
#[derive(Debug)]
struct Forward {
    latents: HostTensor,
    times: Vec<f32>,
    captions: Vec<HostTensor>,
}

/// The tensors of an input file, with the model's configuration.
struct Reader<'a> {
    tensors: Tensors,
    config: &'a ModelConfig,
    path: &'a Path,
}

impl Inputs {
    /// Reads a safetensors file and checks it against the model.
    ///
    /// # Errors
    /// As [`Tensors::open_file`]; [`Error::Tensor`] for a tensor that is missing, does not fit the
    /// model or is not finite, and for one that no stage reads; [`Error::File`] for a file without
    /// tensors.
    pub async fn read(path: &Path, config: &ModelConfig) -> Result<Self> {
        let reader = Reader { tensors: Tensors::open_file(path).await?, config, path };
        let mut inputs = Self { prompts: Vec::new(), forwards: Vec::new(), latents: Vec::new() };
        for name in reader.names("text.", ".ids") {
            inputs.prompts.push(Named { value: reader.prompt(&format!("text.{name}.ids")).await?, name });
        }
        for name in reader.names("transformer.", ".latents") {
            inputs.forwards.push(Named { value: reader.forward(&format!("transformer.{name}")).await?, name });
        }
        for name in reader.names("vae.", ".latents") {
            let channels = config.vae.latent_channels;
            inputs
                .latents
                .push(Named { value: reader.latents(&format!("vae.{name}.latents"), channels, 1).await?, name });
        }
        if let Some(name) = reader.tensors.unread(|_| false).first() {
            let expected = "a name that a stage reads, such as text.a.ids, transformer.a.latents, .times and .caption.0 \
                            (then .1 and so on), or vae.a.latents";
            return Err(reader.fault(name, expected.into(), "a tensor that no stage reads".into()));
        }
        if reader.tensors.is_empty() {
            return Err(Error::file(path, "there is no tensor in it, so there is no stage to run"));
        }
        Ok(inputs)
    }
}

impl Reader<'_> {
    /// The middle parts of all tensor names that have the given `start` and `end`.
    fn names(&self, start: &str, end: &str) -> Vec<String> {
        let between = |name: &str| name.strip_prefix(start)?.strip_suffix(end).map(str::to_owned);
        self.tensors.iter().filter_map(|tensor| between(tensor.name)).collect()
    }

    fn fault(&self, name: &str, expected: String, found: String) -> Error {
        Error::Tensor { path: self.path.to_owned(), tensor: excerpt(name), expected, found }
    }

    /// The tensor of this name and shape, checked to be finite.
    async fn take(&self, name: &str, shape: &[usize]) -> Result<HostTensor> {
        let tensor = self.tensors.take(name, shape).await?;
        match tensor.is_finite() {
            true => Ok(tensor),
            false => Err(self.fault(name, "finite values".into(), "infinity or NaN".into())),
        }
    }

    async fn prompt(&self, name: &str) -> Result<Vec<u32>> {
        let ids = self.tensors.take_numbers(name).await?;
        let embedded = self.config.text_encoder.vocab_size;
        if !(1..=MAX_TOKENS).contains(&ids.len()) {
            return Err(self.fault(name, format!("1 to {MAX_TOKENS} token ids"), ids.len().to_string()));
        }
        match ids.iter().find(|&&id| id as usize >= embedded) {
            Some(id) => {
                Err(self.fault(name, format!("ids below {embedded}, the size of the vocabulary"), id.to_string()))
            }
            None => Ok(ids),
        }
    }

    /// Latents of `channels` channels, with sides that are multiples of `multiple`.
    async fn latents(&self, name: &str, channels: usize, multiple: usize) -> Result<HostTensor> {
        let shape = self.tensors.shape(name).unwrap_or_default();
        let fits = |side: &usize| *side > 0 && side.is_multiple_of(multiple);
        match shape {
            [batch, c, sides @ ..] if *batch > 0 && *c == channels && sides.len() == 2 && sides.iter().all(fits) => {
                self.take(name, shape).await
            }
            _ => {
                let multiples = if multiple > 1 { format!(", h and w multiples of {multiple}") } else { String::new() };
                Err(self.fault(name, format!("latents [B, {channels}, h, w]{multiples}"), format!("{shape:?}")))
            }
        }
    }

    /// The tensors that begin with `name`.
    async fn forward(&self, name: &str) -> Result<Forward> {
        let TransformerConfig { in_channels, patch_size, cap_feat_dim, .. } = self.config.transformer;
        let latents = self.latents(&format!("{name}.latents"), in_channels, patch_size).await?;
        let mut captions = Vec::new();
        loop {
            let caption = format!("{name}.caption.{}", captions.len());
            let shape = match self.tensors.shape(&caption) {
                None if !captions.is_empty() => break,
                shape => shape.unwrap_or_default(),
            };
            // If the length does not fit, the error shows the model's width as expected.
            let rows = shape.first().copied().filter(|&rows| rows > 0).unwrap_or(1);
            captions.push(self.take(&caption, &[rows, cap_feat_dim]).await?);
        }
        let pictures = latents.shape()[0];
        let items = captions.len();
        if !items.is_multiple_of(pictures) {
            let expected = format!("a multiple of {pictures} captions, as there are {pictures} latents");
            return Err(self.fault(&format!("{name}.caption"), expected, items.to_string()));
        }
        let times = format!("{name}.times");
        let own = self.tensors.shape(&times) == Some(&[items]) && items == pictures;
        let times = self.take(&times, &[if own { items } else { 1 }]).await?.to_f32();
        Ok(Forward { latents, times, captions })
    }
}

/// Runs the stages that `inputs` requests and returns their results by name. Each network is loaded
/// only if needed, and one at a time; `progress` receives [`Stage::Load`](crate::Stage::Load) for
/// each.
///
/// # Errors
/// Errors of the model's files and of the backend, [`Error::Request`] for latents or captions
/// beyond the model's positions, [`Error::NonFinite`] for a result with infinite values or NaN, and
/// [`Error::Cancelled`].
pub async fn run<B: Backend>(
    b: &B,
    model: &Model,
    inputs: &Inputs,
    progress: &mut dyn Progress,
) -> Result<Vec<(String, HostTensor)>> {
    let folder = model.folder();
    let config = model.config();
    let mut results = Vec::new();
    if !inputs.prompts.is_empty() {
        let tensors = Tensors::of(folder, Part::TextEncoder).await?;
        let left = |name: &str| TextEncoder::<B>::leaves(&config.text_encoder, name);
        let loading = Loading::new(progress, tensors.bytes_but(left));
        let encoder = TextEncoder::load(b, &tensors, &config.text_encoder, &|bytes| loading.read(bytes)).await?;
        encode(b, &encoder, &tensors, &inputs.prompts, &mut results).await?;
        folder.check_unchanged()?;
        drop(encoder);
        b.trim();
    }
    if !inputs.forwards.is_empty() {
        let tensors = Tensors::of(folder, Part::Transformer).await?;
        let loading = Loading::new(progress, tensors.bytes());
        let transformer = Transformer::load(b, &tensors, &config.transformer, &|bytes| loading.read(bytes)).await?;
        for Named { name, value } in &inputs.forwards {
            let velocity = forward(b, &transformer, &config.transformer, value).await?;
            Network::Transformer.check(&velocity, &tensors).await?;
            results.push((format!("transformer.{name}.velocity"), velocity));
        }
        folder.check_unchanged()?;
        drop(transformer);
        b.trim();
    }
    if !inputs.latents.is_empty() {
        let tensors = Tensors::of(folder, Part::Vae).await?;
        let loading = Loading::new(progress, tensors.bytes());
        let vae = Vae::load(b, &tensors, &config.vae, &|bytes| loading.read(bytes)).await?;
        for Named { name, value } in &inputs.latents {
            let image = decode(b, &vae, value).await?;
            Network::Vae.check(&image, &tensors).await?;
            results.push((format!("vae.{name}.image"), image));
        }
        folder.check_unchanged()?;
        drop(vae);
        b.trim();
    }
    Ok(results)
}

/// Encodes all prompts in one batch and drops the padding rows.
async fn encode<B: Backend>(
    b: &B,
    encoder: &TextEncoder<B>,
    tensors: &Tensors,
    prompts: &[Named<Vec<u32>>],
    results: &mut Vec<(String, HostTensor)>,
) -> Result<()> {
    let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.value.clone()).collect();
    let tokens = padded(ids.iter().map(Vec::len).max().unwrap_or(0));
    let features = b.download(&encoder.forward(b, &ids, tokens, &mut |_, _| Ok(()))?).await?;
    let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
    Network::TextEncoder.check_rows(&features, &lengths, tensors).await?;
    let width = features.shape()[2];
    for (Named { name, value }, rows) in prompts.iter().zip(features.to_f32().chunks_exact(tokens * width)) {
        let own = HostTensor::from_f32(&[value.len(), width], &rows[..value.len() * width]);
        results.push((format!("text.{name}.features"), own));
    }
    Ok(())
}

async fn forward<B: Backend>(
    b: &B,
    transformer: &Transformer<B>,
    config: &TransformerConfig,
    Forward { latents, times, captions }: &Forward,
) -> Result<HostTensor> {
    let lengths: Vec<usize> = captions.iter().map(|caption| caption.shape()[0]).collect();
    let tokens = padded(lengths.iter().copied().max().unwrap_or(0));
    let item = tokens * config.cap_feat_dim;
    let mut features = zeros(captions.len() * item, "the features of captions")?;
    for (rows, caption) in features.chunks_exact_mut(item).zip(captions) {
        rows[..caption.len()].copy_from_slice(&caption.to_f32());
    }
    let shape = [captions.len(), tokens, config.cap_feat_dim];
    let features = b.upload(&HostTensor::rounded(b.activations(), &shape, &features))?;
    let refined = transformer.captions(b, &features, &lengths, &mut |_, _| Ok(()))?;

    let [pictures, _, height, width] = latents.shape() else {
        return Err(Error::internal("a stage's latents do not have rank 4"));
    };
    let items: Vec<usize> = (0..captions.len()).collect();
    let sequence = transformer.sequence(b, &refined, *pictures, &items, [*height, *width])?;
    let latents = b.upload(&HostTensor::try_from_f32(latents.shape(), &latents.try_to_f32()?)?)?;
    let scaled: Vec<f32> = times.iter().map(|time| time * config.t_scale as f32).collect();
    let times = b.upload(&HostTensor::from_f32(&[1, times.len()], &scaled))?;
    let step = b.upload(&HostTensor::from_u32(&[1], &[0]))?;
    let clock = Clock { times: &times, step: &step };
    b.download(&transformer.forward(b, &latents, clock, &refined, &sequence, &mut |_, _| Ok(()))?).await
}

/// Decodes one picture at a time, without tiles.
async fn decode<B: Backend>(b: &B, vae: &Vae<B>, latents: &HostTensor) -> Result<HostTensor> {
    let [batch, item @ ..] = latents.shape() else {
        return Err(Error::internal("a stage's latents do not have rank 4"));
    };
    let item_shape = [&[1], item].concat();
    let mut pixels = Vec::new();
    let mut shape = Vec::new();
    for values in latents.to_f32().chunks_exact(item.iter().product()) {
        let latents = b.upload(&HostTensor::from_f32(&item_shape, values))?;
        let image = b.download(&vae.decode_unrounded(b, &latents, 0..1)?).await?;
        pixels.extend(image.to_f32());
        shape = image.shape().to_vec();
    }
    shape[0] = *batch;
    Ok(HostTensor::from_f32(&shape, &pixels))
}
