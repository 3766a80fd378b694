//! The facts about a file or folder with weights that its headers tell.

use super::beside::{Beside, quantised};
use super::file::{ModelFile, OpenFiles};
use super::folder::{LONGEST_CONFIG, ModelFolder};
use super::identify::{ControlNet, Kind, needs};
use super::index::{self, read_index};
use super::lora::LoraInfo;
use super::names::{Part, Spelling};
use super::single::{SingleFile, kind};
use super::sources::config_beside;
use super::stored::Header;
use super::tensors::{READ, unread_type};
use crate::error::{Error, Result, excerpt};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
/// The part whose folder a folder of unknown content is read as.
const FOLDER: &str = "part";
/// The parts whose files have different names in a folder: those of diffusers, and of transformers.
const STEMS: [Part; 2] = [Part::Transformer, Part::TextEncoder];
/// Bytes of a tensor that are compared with zero at once.
const PIECE: u64 = 1 << 20;

/// A file with weights, or a folder with those of one network.
#[derive(Debug)]
#[non_exhaustive]
pub struct FileInfo {
    /// The file or folder.
    pub path: PathBuf,
    /// The number of files with weights: several for a folder with shards.
    pub files: usize,
    /// Their bytes, headers included.
    pub bytes: u64,
    /// The format of the file around the tensors.
    pub container: Container,
    /// The kind. That of [`ControlNet`] 2.0 and 2.1 is settled.
    pub kind: Kind,
    /// The tensors by the names of their element types, such as `BF16` or `Q4_K`.
    pub types: BTreeMap<String, Amount>,
    /// The number of weights with scales beside them by the name of their format: `fp8_scaled`,
    /// `float8_e4m3fn`, `float8_e5m2`, `mxfp8`, `nvfp4`, `int8_tensorwise`, or the last one
    /// `with convrot`.
    pub quantised: BTreeMap<String, usize>,
    /// The parts of a Z-Image model, those of [`Kind::parts`].
    pub parts: Vec<PartInfo>,
    /// The methods and ranks of a LoRA.
    pub lora: Option<LoraInfo>,
    /// True for a GGUF file with a tokenizer.
    pub has_tokenizer: bool,
    /// The reason why a file of a kind that is supported cannot be used: sizes that do not fit
    /// together, a type that is not read, a missing shard.
    pub problem: Option<Error>,
}

/// The format of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Container {
    /// Safetensors.
    Safetensors,
    /// GGUF.
    Gguf {
        /// The version of the format: 2 or 3.
        version: u32,
        /// The metadata's `general.architecture`, if there is one: `lumina2` for Z-Image.
        architecture: Option<String>,
    },
}

/// An amount of tensors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// The number of tensors.
    pub tensors: usize,
    /// Their elements. The scales beside quantised weights have none, and packed weights have
    /// theirs with padding.
    pub parameters: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A part of a Z-Image model in a file.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PartInfo {
    /// The part.
    pub part: Part,
    /// The prefix of its tensors' names.
    pub prefix: &'static str,
    /// Its tensors.
    pub amount: Amount,
    /// Its configuration in the layout of `config.json`: from the shapes of its tensors, and from a
    /// `config.json` next to them. `None` if the tensors do not fit together;
    /// [`FileInfo::problem`] has the reason.
    pub config: Option<Map<String, Value>>,
}

impl Amount {
    fn add(&mut self, other: Self) {
        self.tensors += other.tensors;
        self.parameters = self.parameters.saturating_add(other.parameters);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl FileInfo {
    /// All tensors.
    pub fn amount(&self) -> Amount {
        let mut sum = Amount::default();
        self.types.values().for_each(|amount| sum.add(*amount));
        sum
    }

    /// The names of the parts that drawing needs besides those of the file; none for a file that is
    /// no part of a model.
    pub fn needs(&self) -> Vec<&'static str> {
        needs(self.kind.parts(), self.has_tokenizer)
    }
}

/// Inspects a safetensors or GGUF file, or a folder with the `config.json` and the weights of one
/// network. The file's first bytes tell its format. Only headers are read, and the few bytes that
/// tell the format of quantised weights and the version of a ControlNet.
///
/// # Errors
/// [`Error::File`] and [`Error::Tensor`] for a path that does not exist, and for a file that is
/// truncated, damaged or of another format, which the message names; read errors. A file that is
/// sound but cannot be used has a [`FileInfo::problem`].
pub async fn inspect(path: &Path) -> Result<FileInfo> {
    if path.is_dir() {
        return inspect_folder(path).await;
    }
    if !path.exists() {
        return Err(Error::file(path, "there is no such file or folder"));
    }
    let open = OpenFiles::default();
    let file = SingleFile::read(ModelFile::open(path, &open)?, open).await?;
    let mut info = FileInfo::new(path, std::slice::from_ref(&file), file.kind.clone()).await?;
    for part in file.kind.parts() {
        let config = config_of(&file, *part);
        info.add_part(*part, std::slice::from_ref(&file), config);
    }
    Ok(info)
}

/// True for a folder that [`inspect`] reads: one with a `config.json` and weights under the names
/// that diffusers and transformers give them.
pub fn is_part_folder(path: &Path) -> bool {
    let has = |name: String| path.join(name).is_file();
    let has_weights = |part: Part| {
        has(format!("{}.safetensors", part.stem())) || has(format!("{}.safetensors.index.json", part.stem()))
    };
    has(CONFIG.to_owned()) && STEMS.into_iter().any(has_weights)
}

async fn inspect_folder(path: &Path) -> Result<FileInfo> {
    if !is_part_folder(path) {
        let names = STEMS.map(|part| format!("{}.safetensors", part.stem())).join(" or ");
        return Err(Error::file(path, format!("expected a folder with {CONFIG} and {names}, found none of them")));
    }
    let mut folder = ModelFolder::without_files(&ModelFolder::display_name(path));
    folder.mount_folder(FOLDER, path, None);
    let (files, missing) = shards(&folder).await?;
    // A part may be divided in any way, so its kind is that of all files together.
    let mut all = Header::default();
    for file in &files {
        all.tensors.extend(file.header.tensors.clone());
        all.metadata.extend(file.header.metadata.clone());
    }
    let mut info = FileInfo::new(path, &files, kind(&all)).await?;
    info.problem = missing.or(info.problem);
    let config: Map<String, Value> = folder.json(&format!("{FOLDER}/{CONFIG}"), LONGEST_CONFIG).await?;
    for part in info.kind.parts().to_vec() {
        info.add_part(part, &files, Ok(config.clone()));
    }
    Ok(info)
}

/// The files with weights in the mounted folder, and the error for the first that is missing.
async fn shards(folder: &ModelFolder) -> Result<(Vec<SingleFile>, Option<Error>)> {
    let mut names = BTreeSet::new();
    for part in STEMS {
        let single = format!("{}.safetensors", part.stem());
        let index = format!("{FOLDER}/{single}.index.json");
        let has_single = folder.exists(&format!("{FOLDER}/{single}")).await?;
        // Of both, diffusers reads the index, and transformers the file.
        let reads_single = has_single && (part == Part::TextEncoder || !folder.exists(&index).await?);
        if reads_single {
            names.insert(single);
        } else if folder.exists(&index).await? {
            let bytes = folder.read_at_most(&index, index::LONGEST).await?;
            names.extend(read_index(&folder.path(&index), &bytes)?.into_values());
        }
        if !names.is_empty() {
            break;
        }
    }
    let (mut files, mut missing) = (Vec::new(), None);
    for name in names {
        let file = format!("{FOLDER}/{name}");
        match folder.file(&file).await {
            Ok(file) => files.push(SingleFile::read(file, OpenFiles::default()).await?),
            Err(error) if !folder.exists(&file).await? => missing = missing.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    match (files.is_empty(), missing) {
        (true, Some(missing)) => Err(missing),
        (_, missing) => Ok((files, missing)),
    }
}

/// The configuration of a part of a single file.
fn config_of(file: &SingleFile, part: Part) -> Result<Map<String, Value>> {
    let spelling = file.spelling(part)?;
    match file.config(&spelling, config_beside(&file.file.path, part)?)? {
        Value::Object(config) => Ok(config),
        _ => Err(Error::internal("a configuration is no object")),
    }
}

impl FileInfo {
    /// The facts that do not depend on parts.
    async fn new(path: &Path, files: &[SingleFile], kind: Kind) -> Result<Self> {
        let mut info = Self {
            path: path.to_owned(),
            files: files.len(),
            bytes: files.iter().map(|file| file.file.len).fold(0, u64::saturating_add),
            container: Container::Safetensors,
            kind,
            types: BTreeMap::new(),
            quantised: BTreeMap::new(),
            parts: Vec::new(),
            lora: None,
            has_tokenizer: files.iter().any(SingleFile::has_tokenizer),
            problem: None,
        };
        for file in files {
            info.add_file(file).await?;
        }
        if let Kind::ControlNet(version) = info.kind {
            info.kind = Kind::ControlNet(settled(version, files).await?);
        }
        if matches!(info.kind, Kind::Lora(_)) {
            let tensors = files.iter().flat_map(|file| &file.header.tensors);
            info.lora = Some(LoraInfo::of(tensors.map(|(name, stored)| (name.as_str(), stored.shape.as_slice()))));
        }
        Ok(info)
    }

    async fn add_file(&mut self, SingleFile { file, header, .. }: &SingleFile) -> Result<()> {
        if let Some(version) = gguf_version(file).await? {
            let architecture = header.metadata.get("general.architecture").and_then(Value::as_str).map(excerpt);
            self.container = Container::Gguf { version, architecture };
        }
        let (weights, beside) = quantised(header);
        for (name, amount) in amounts(header, &weights, &beside) {
            self.types.entry(header.tensors[name].dtype.to_string()).or_default().add(amount);
        }
        for (name, beside) in &weights {
            match beside.format(file, name).await {
                Ok(format) => *self.quantised.entry(format).or_default() += 1,
                Err(error @ Error::Tensor { .. }) => self.problem = self.problem.take().or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn add_part(&mut self, part: Part, files: &[SingleFile], config: Result<Map<String, Value>>) {
        let names = files.iter().flat_map(|file| file.header.tensors.keys().map(String::as_str));
        let Some(spelling) = Spelling::of(part, names) else { return };
        let mut problem = None;
        let mut amount = Amount::default();
        for SingleFile { file, header, .. } in files {
            let (weights, beside) = quantised(header);
            let own = |name: &str| !spelling.is_unused(name) && !spelling.targets(name).is_empty();
            for (name, of) in amounts(header, &weights, &beside).filter(|(name, _)| own(name)) {
                amount.add(of);
                let stored = &header.tensors[name];
                let is_read = stored.dtype.format().is_some() || weights.contains_key(name) || beside.contains(name);
                if !is_read && problem.is_none() {
                    let found = format!("{} {:?}, {}", stored.dtype, stored.shape, unread_type(stored.dtype));
                    let (path, tensor) = (file.path.clone(), excerpt(name));
                    problem = Some(Error::Tensor { path, tensor, expected: READ.into(), found });
                }
            }
        }
        let config = config.map_err(|error| problem = problem.take().or(Some(error))).ok();
        self.problem = self.problem.take().or(problem);
        self.parts.push(PartInfo { part, prefix: spelling.prefix(), amount, config });
    }
}

/// The tensors of a file with the amount of each. `beside` are the tensors beside weights.
fn amounts<'h>(
    header: &'h Header,
    weights: &BTreeMap<&str, Beside>,
    beside: &BTreeSet<&str>,
) -> impl Iterator<Item = (&'h str, Amount)> {
    header.tensors.iter().map(|(name, stored)| {
        let shape = match weights.get(name.as_str()) {
            Some(weight) => weight.shape(),
            None => stored.shape.clone(),
        };
        let elements = shape.iter().fold(1, |product: u64, &size| product.saturating_mul(size as u64));
        let parameters = if beside.contains(name.as_str()) { 0 } else { elements };
        (name.as_str(), Amount { tensors: 1, parameters, bytes: stored.range.end - stored.range.start })
    })
}

/// The version of a GGUF file; `None` for a file of another format. The header has been checked.
async fn gguf_version(file: &ModelFile) -> Result<Option<u32>> {
    let start = file.read(0..file.len.min(8)).await?;
    Ok(match *start {
        [b'G', b'G', b'U', b'F', a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d])),
        _ => None,
    })
}

/// The version of a ControlNet, from the values of the tensor that tells 2.0 from 2.1.
async fn settled(version: ControlNet, files: &[SingleFile]) -> Result<ControlNet> {
    for SingleFile { file, header, .. } in files {
        let decides = header.tensors.iter().find(|(name, _)| name.ends_with(ControlNet::DECIDES));
        let Some((_, stored)) = decides.filter(|_| version == ControlNet::V2) else { continue };
        let mut start = stored.range.start;
        while start < stored.range.end {
            let end = stored.range.end.min(start + PIECE);
            if file.read(start..end).await?.iter().any(|&byte| byte != 0) {
                return Ok(version.settled(false));
            }
            start = end;
        }
        return Ok(version.settled(true));
    }
    Ok(version)
}
