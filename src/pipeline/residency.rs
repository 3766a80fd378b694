//! Residency: the networks on the device, as a [`Plan`] has them.

use super::finish;
use super::finite::Network;
use super::plan::{Expected, Needs, Plan, Residency};
use super::progress::{Loading, Progress};
use crate::backend::Backend;
use crate::error::{Result, excerpt};
use crate::model::config::ModelConfig;
use crate::model::text_encoder::TextEncoder;
use crate::model::transformer::Transformer;
use crate::model::vae::Vae;
use crate::sync::lock;
use crate::weights::{ModelFolder, Part, Tensors};
use std::sync::{Arc, Mutex};

/// The networks of a model.
#[derive(Debug)]
pub(super) struct Networks<B: Backend> {
    large: Large<B>,
    pub vae: Vae<B>,
    pub plan: Plan,
    /// Also where all networks are on the device: a result that is not finite is traced to a
    /// tensor.
    files: Files,
}

/// The two networks that have nearly all of the weights.
#[derive(Debug)]
enum Large<B: Backend> {
    Resident(Arc<TextEncoder<B>>, Arc<Transformer<B>>),
    InTurn(Mutex<Current<B>>),
}

/// The large network that is on the device.
#[derive(Debug)]
enum Current<B: Backend> {
    Neither,
    TextEncoder(Arc<TextEncoder<B>>),
    Transformer(Arc<Transformer<B>>),
}

/// The files of the networks.
#[derive(Debug)]
struct Files {
    folder: ModelFolder,
    text_encoder: Tensors,
    transformer: Tensors,
    vae: Tensors,
}

/// True for a tensor of the text encoder's files that is never read.
fn is_unused<B: Backend>(config: &ModelConfig) -> impl Fn(&str) -> bool + Copy {
    |name| TextEncoder::<B>::leaves(&config.text_encoder, name)
}

impl<B: Backend> Networks<B> {
    /// Loads the networks that a run needs first, as `residency` wants them; `progress` sees it.
    /// Returns warnings about the files as well.
    pub(super) async fn load(
        b: &B,
        folder: &ModelFolder,
        config: &ModelConfig,
        residency: &Residency,
        progress: &mut dyn Progress,
    ) -> Result<(Self, Vec<String>)> {
        let files = Files::open(folder).await?;
        let (_, plan) = files.plan(b, config, residency)?;
        let unused = is_unused::<B>(config);
        let in_turn = plan.in_turn;
        let later = if in_turn { files.transformer.bytes() } else { 0 };
        let all = files.text_encoder.bytes_but(unused) + files.transformer.bytes() + files.vae.bytes();
        let loading = Loading::new(progress, all - later);
        loading.read(0)?;
        let text_encoder = files.text_encoder(b, config, &plan, &loading).await?;
        let resident = if in_turn { None } else { Some(files.transformer(b, config, &plan, &loading).await?) };
        let vae = Vae::load(b, &files.vae, &config.vae, &|bytes| loading.read(bytes)).await?;
        finish(b).await?;
        folder.check_unchanged()?;

        let of_files = [&files.text_encoder, &files.transformer, &files.vae].map(Tensors::warnings).concat();
        let mut unread = vec![
            unread_warning(folder, "text_encoder", &files.text_encoder.unread(unused)),
            unread_warning(folder, "vae", &files.vae.unread(|_| false)),
        ];
        let large = match resident {
            Some(transformer) => {
                unread.insert(1, files.unread_of_transformer());
                Large::Resident(text_encoder, transformer)
            }
            None => Large::InTurn(Mutex::new(Current::TextEncoder(text_encoder))),
        };
        let warnings = of_files.into_iter().chain(unread.into_iter().flatten()).collect();
        Ok((Self { large, vae, plan, files }, warnings))
    }

    /// As [`ModelFolder::check_unchanged`], for the files of the networks.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.files.folder.check_unchanged()
    }

    /// A warning about tensors that nothing reads of a transformer that was loaded after
    /// [`Networks::load`].
    pub(super) fn unread(&self) -> Option<String> {
        match &self.large {
            Large::Resident(..) => None,
            Large::InTurn(_) => self.files.unread_of_transformer(),
        }
    }

    /// The weights of a network.
    pub(super) fn tensors(&self, network: Network) -> &Tensors {
        match network {
            Network::TextEncoder => &self.files.text_encoder,
            Network::Transformer => &self.files.transformer,
            Network::Vae => &self.files.vae,
        }
    }

    /// The text encoder, loaded in place of the transformer where they are on the device in turn.
    /// Its memory is freed when its last holder drops it.
    pub(super) async fn text_encoder(
        &self,
        b: &B,
        config: &ModelConfig,
        progress: &mut dyn Progress,
    ) -> Result<Arc<TextEncoder<B>>> {
        let current = match &self.large {
            Large::Resident(network, _) => return Ok(network.clone()),
            Large::InTurn(current) => current,
        };
        if let Current::TextEncoder(network) = &*lock(current) {
            return Ok(network.clone());
        }
        let bytes = self.files.text_encoder.bytes_but(is_unused::<B>(config));
        let load = async |loading: &Loading<'_>| self.files.text_encoder(b, config, &self.plan, loading).await;
        self.replace(b, current, Loading::new(progress, bytes), load, Current::TextEncoder).await
    }

    /// The transformer, loaded in place of the text encoder where they are on the device in turn.
    /// Its memory is freed when its last holder drops it.
    pub(super) async fn transformer(
        &self,
        b: &B,
        config: &ModelConfig,
        progress: &mut dyn Progress,
    ) -> Result<Arc<Transformer<B>>> {
        let current = match &self.large {
            Large::Resident(_, network) => return Ok(network.clone()),
            Large::InTurn(current) => current,
        };
        if let Current::Transformer(network) = &*lock(current) {
            return Ok(network.clone());
        }
        let loading = Loading::new(progress, self.files.transformer.bytes());
        let load = async |loading: &Loading<'_>| self.files.transformer(b, config, &self.plan, loading).await;
        self.replace(b, current, loading, load, Current::Transformer).await
    }

    /// Frees the large network on the device and loads another one there.
    async fn replace<N>(
        &self,
        b: &B,
        current: &Mutex<Current<B>>,
        loading: Loading<'_>,
        load: impl AsyncFnOnce(&Loading<'_>) -> Result<Arc<N>>,
        hold: impl FnOnce(Arc<N>) -> Current<B>,
    ) -> Result<Arc<N>> {
        *lock(current) = Current::Neither;
        b.trim();
        loading.read(0)?;
        let network = load(&loading).await?;
        finish(b).await?;
        self.check_unchanged()?;
        *lock(current) = hold(network.clone());
        Ok(network)
    }
}

impl Files {
    async fn open(folder: &ModelFolder) -> Result<Self> {
        let text_encoder = Tensors::of(folder, Part::TextEncoder).await?;
        let transformer = Tensors::of(folder, Part::Transformer).await?;
        let vae = Tensors::of(folder, Part::Vae).await?;
        Ok(Self { folder: folder.clone(), text_encoder, transformer, vae })
    }

    fn plan<B: Backend>(&self, b: &B, config: &ModelConfig, residency: &Residency) -> Result<(Needs, Plan)> {
        let expected = residency.expected.clone().unwrap_or_else(|| Expected::default_of(config));
        let tensors = [&self.text_encoder, &self.transformer, &self.vae];
        let limits = residency.limits(b)?;
        let needs = Needs::of(b, config, tensors, &expected);
        let plan = Plan::new(&needs, limits);
        Ok((needs, plan))
    }

    fn unread_of_transformer(&self) -> Option<String> {
        unread_warning(&self.folder, "transformer", &self.transformer.unread(|_| false))
    }

    async fn text_encoder<B: Backend>(
        &self,
        b: &B,
        config: &ModelConfig,
        plan: &Plan,
        loading: &Loading<'_>,
    ) -> Result<Arc<TextEncoder<B>>> {
        let (config, on_read) = (&config.text_encoder, &|bytes| loading.read(bytes));
        TextEncoder::load_streamed(b, &self.text_encoder, config, plan.text_encoder, on_read).await.map(Arc::new)
    }

    async fn transformer<B: Backend>(
        &self,
        b: &B,
        config: &ModelConfig,
        plan: &Plan,
        loading: &Loading<'_>,
    ) -> Result<Arc<Transformer<B>>> {
        let (config, on_read) = (&config.transformer, &|bytes| loading.read(bytes));
        Transformer::load_streamed(b, &self.transformer, config, plan.transformer, on_read).await.map(Arc::new)
    }
}

/// The plan for a model on a backend, without loading it.
pub(super) async fn plan<B: Backend>(
    b: &B,
    folder: &ModelFolder,
    config: &ModelConfig,
    residency: &Residency,
) -> Result<(Needs, Plan, u64)> {
    let files = Files::open(folder).await?;
    let bytes = files.text_encoder.bytes_but(is_unused::<B>(config)) + files.transformer.bytes() + files.vae.bytes();
    let (needs, plan) = files.plan(b, config, residency)?;
    // A model without files has as many bytes as on the device.
    let made = needs.text_encoder.total() + needs.transformer.total() + needs.vae;
    Ok((needs, plan, if bytes == 0 { made } else { bytes }))
}

/// A warning about the tensors of a part that nothing reads.
fn unread_warning(folder: &ModelFolder, part: &str, names: &[String]) -> Option<String> {
    const SHOWN: usize = 3;
    if names.is_empty() {
        return None;
    }
    let list: Vec<String> = names.iter().take(SHOWN).map(|name| excerpt(name)).collect();
    let rest = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    Some(format!("{}: nothing reads the tensors {}{rest}", folder.path(part).display(), list.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_one_short_line_whatever_the_names() {
        let folder = ModelFolder::in_memory("emoji", &[]);
        let warning =
            |names: &[&str]| unread_warning(&folder, "vae", &names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(warning(&[]), None);
        assert_eq!(warning(&["a"]).unwrap(), "emoji/vae: nothing reads the tensors a");
        assert_eq!(warning(&["a", "b", "c", "d"]).unwrap(), "emoji/vae: nothing reads the tensors a, b, c and 1 more");
        let hostile = warning(&["\u{1b}[2J\n", &"x".repeat(1_000_000)]).unwrap();
        assert!(hostile.len() < 500 && !hostile.contains(char::is_control), "{hostile}");
    }
}
