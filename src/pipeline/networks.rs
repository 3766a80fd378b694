//! The three networks on the device: all of them, or the two large ones in turn where they do not fit together.

use super::finite::Network;
use super::progress::{Loading, Progress};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::model::text_encoder::TextEncoder;
use crate::model::transformer::Transformer;
use crate::model::vae::Vae;
use crate::weights::{ModelFolder, Tensors, excerpt};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which networks are on the device at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Offload {
    /// All of them where they fit, else as [`Offload::Sequential`].
    #[default]
    Auto,
    /// All of them, always.
    None,
    /// The text encoder until the prompts are encoded, then the transformer: a run loads what is not there, and the
    /// device needs memory for the larger of the two.
    Sequential,
}

impl Offload {
    const NAMES: [(&str, Offload); 3] =
        [("auto", Offload::Auto), ("none", Offload::None), ("sequential", Offload::Sequential)];

    /// What the command line calls it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, offload)| *offload == self).map_or("", |(name, _)| *name)
    }
}

impl FromStr for Offload {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, offload)| *offload)
            .ok_or_else(|| Error::Request(format!("there is no way {text:?} to offload: use auto, none or sequential")))
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many of the autoencoder's largest activation are alive at once, as what is not weights needs at most.
const ACTIVATIONS: u64 = 3;

/// The networks of a model.
#[derive(Debug)]
pub(super) struct Networks<B: Backend> {
    large: Large<B>,
    pub vae: Vae<B>,
    /// Also where all networks are on the device: a result that is not finite is traced to a tensor.
    files: Files,
}

/// The two networks that hold nearly all of the weights.
#[derive(Debug)]
enum Large<B: Backend> {
    Resident(Arc<TextEncoder<B>>, Arc<Transformer<B>>),
    InTurn(Mutex<Turn<B>>),
}

/// Whose turn it is.
#[derive(Debug)]
enum Turn<B: Backend> {
    Nobody,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a tensor of the text encoder's files is one that nothing reads.
fn leaves<B: Backend>(config: &ModelConfig) -> impl Fn(&str) -> bool + Copy {
    |name| TextEncoder::<B>::leaves(&config.text_encoder, name)
}

/// Bytes that the weights take on the device.
fn weights<B: Backend>(b: &B, tensors: &Tensors, leaves: impl Fn(&str) -> bool) -> u64 {
    let bytes = |tensor: crate::weights::Listing<'_>| match tensor.floating() {
        Some(stored) => tensor.elements() as u64 * b.weights(stored).size() as u64,
        None => tensor.bytes,
    };
    tensors.iter_but(leaves).map(bytes).sum()
}

impl<B: Backend> Networks<B> {
    /// Loads what is needed first; `progress` sees it. With it come sentences about tensors that nothing reads.
    pub(super) async fn load(
        b: &B,
        folder: &ModelFolder,
        config: &ModelConfig,
        offload: Offload,
        progress: &mut dyn Progress,
    ) -> Result<(Self, Vec<String>)> {
        let text_encoder = TextEncoder::<B>::open(folder).await?;
        let transformer = Transformer::<B>::open(folder).await?;
        let vae = Vae::<B>::open(folder).await?;
        let files = Files { folder: folder.clone(), text_encoder, transformer, vae };
        let left = leaves::<B>(config);
        let in_turn = match offload {
            Offload::Sequential => true,
            Offload::None => false,
            Offload::Auto => b.free_memory().is_some_and(|free| {
                let size = [config.defaults.height, config.defaults.width];
                let largest = config.vae.largest_decoded(size) as u64 * size_of::<f32>() as u64;
                let all = weights(b, &files.text_encoder, left)
                    + weights(b, &files.transformer, |_| false)
                    + weights(b, &files.vae, |_| false);
                all + ACTIVATIONS * largest > free
            }),
        };
        let later = if in_turn { files.transformer.bytes() } else { 0 };
        let all = files.text_encoder.bytes_but(left) + files.transformer.bytes() + files.vae.bytes();
        let loading = Loading::new(progress, all - later);
        loading.read(0)?;
        let text_encoder = files.text_encoder(b, config, &loading).await?;
        let resident = if in_turn { None } else { Some(files.transformer(b, config, &loading).await?) };
        let vae = Vae::load(b, &files.vae, &config.vae, &|bytes| loading.read(bytes)).await?;
        finish(b).await?;
        folder.check_unchanged()?;

        let of_files = [&files.text_encoder, &files.transformer, &files.vae].map(Tensors::warnings).concat();
        let mut warnings = vec![
            unread_warning(folder, "text_encoder", &files.text_encoder.unread(left)),
            unread_warning(folder, "vae", &files.vae.unread(|_| false)),
        ];
        let large = match resident {
            Some(transformer) => {
                warnings.insert(1, files.unread_of_transformer());
                Large::Resident(text_encoder, transformer)
            }
            None => Large::InTurn(Mutex::new(Turn::TextEncoder(text_encoder))),
        };
        let warnings = of_files.into_iter().chain(warnings.into_iter().flatten()).collect();
        Ok((Self { large, vae, files }, warnings))
    }

    /// As [`ModelFolder::check_unchanged`], of the files that the networks came from.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.files.folder.check_unchanged()
    }

    /// A sentence about tensors of a transformer that came later than [`Networks::load`], and that nothing read.
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

    /// Which of the two ways was taken.
    pub(super) fn offload(&self) -> Offload {
        match self.large {
            Large::Resident(..) => Offload::None,
            Large::InTurn(_) => Offload::Sequential,
        }
    }

    /// The text encoder, loaded in place of the transformer where they take turns. Whoever holds it keeps its memory.
    pub(super) async fn text_encoder(
        &self,
        b: &B,
        config: &ModelConfig,
        progress: &mut dyn Progress,
    ) -> Result<Arc<TextEncoder<B>>> {
        let (files, turn) = match &self.large {
            Large::Resident(network, _) => return Ok(network.clone()),
            Large::InTurn(turn) => (&self.files, turn),
        };
        if let Turn::TextEncoder(network) = &*lock(turn) {
            return Ok(network.clone());
        }
        make_room(b, turn);
        let loading = Loading::new(progress, files.text_encoder.bytes_but(leaves::<B>(config)));
        loading.read(0)?;
        let network = files.text_encoder(b, config, &loading).await?;
        finish(b).await?;
        self.check_unchanged()?;
        *lock(turn) = Turn::TextEncoder(network.clone());
        Ok(network)
    }

    /// The transformer, loaded in place of the text encoder where they take turns. Whoever holds it keeps its memory.
    pub(super) async fn transformer(
        &self,
        b: &B,
        config: &ModelConfig,
        progress: &mut dyn Progress,
    ) -> Result<Arc<Transformer<B>>> {
        let (files, turn) = match &self.large {
            Large::Resident(_, network) => return Ok(network.clone()),
            Large::InTurn(turn) => (&self.files, turn),
        };
        if let Turn::Transformer(network) = &*lock(turn) {
            return Ok(network.clone());
        }
        make_room(b, turn);
        let loading = Loading::new(progress, files.transformer.bytes());
        loading.read(0)?;
        let network = files.transformer(b, config, &loading).await?;
        finish(b).await?;
        self.check_unchanged()?;
        *lock(turn) = Turn::Transformer(network.clone());
        Ok(network)
    }
}

impl Files {
    fn unread_of_transformer(&self) -> Option<String> {
        unread_warning(&self.folder, "transformer", &self.transformer.unread(|_| false))
    }

    async fn text_encoder<B: Backend>(
        &self,
        b: &B,
        config: &ModelConfig,
        loading: &Loading<'_>,
    ) -> Result<Arc<TextEncoder<B>>> {
        let on_read = &|bytes| loading.read(bytes);
        TextEncoder::load(b, &self.text_encoder, &config.text_encoder, on_read).await.map(Arc::new)
    }

    async fn transformer<B: Backend>(
        &self,
        b: &B,
        config: &ModelConfig,
        loading: &Loading<'_>,
    ) -> Result<Arc<Transformer<B>>> {
        let on_read = &|bytes| loading.read(bytes);
        Transformer::load(b, &self.transformer, &config.transformer, on_read).await.map(Arc::new)
    }
}

/// Lets go of the network whose turn it was.
fn make_room<B: Backend>(b: &B, turn: &Mutex<Turn<B>>) {
    *lock(turn) = Turn::Nobody;
    b.trim();
}

/// What the device could not take shows when it is done. What was kept for the way there is not needed any more.
async fn finish<B: Backend>(b: &B) -> Result<()> {
    b.wait(b.event()?).await?;
    b.trim();
    Ok(())
}

/// One sentence about the tensors of a part that nothing reads.
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
