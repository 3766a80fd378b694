//! The places that the parts of a model come from, and the model that they make.

use super::assembly::{class, class_of};
use super::file::{ModelFile, OpenFiles, is_weights};
use super::folder::{ModelFolder, TOKENIZER};
use super::names::Part;
use super::single::SingleFile;
use crate::error::{Error, Result};
use crate::future::expect_ready;
use crate::json;
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files of a folder whose headers are read to find a part.
const MOST_LOOKED_AT: usize = 64;
/// Folders beside the one of a transformer's file that ComfyUI keeps the part in.
const COMFYUI: [(Part, &[&str]); 2] = [(Part::TextEncoder, &["text_encoders", "clip"]), (Part::Vae, &["vae"])];

/// The places that the parts of a model come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A diffusers folder, the folder of a transformer, or a file with a transformer.
    pub model: PathBuf,
    /// A file with a text encoder, its folder, or a diffusers folder; replaces that of the model.
    pub text_encoder: Option<PathBuf>,
    /// A file with an autoencoder, its folder, or a diffusers folder; replaces that of the model.
    pub vae: Option<PathBuf>,
    /// A `tokenizer.json`, a tokenizer's folder, a diffusers folder, or the GGUF file of a text
    /// encoder; replaces that of the model.
    pub tokenizer: Option<PathBuf>,
    /// Diffusers folders that parts come from if nothing else has them, the best one first.
    pub fallbacks: Vec<PathBuf>,
    /// The schedule's shift; replaces that of the model, whose other defaults stay. A model without
    /// a scheduler's file has the defaults of the published model with this shift.
    pub shift: Option<f64>,
}

impl Sources {
    /// The parts of a model at one place.
    pub fn of(model: impl Into<PathBuf>) -> Self {
        Self { model: model.into(), ..Self::default() }
    }
}

impl ModelFolder {
    /// The model that the sources make.
    ///
    /// A part that no source gives is looked for next to a single file: in a folder of its name, in
    /// the one file there that has it, and in the folders where ComfyUI keeps it. Then the
    /// fallbacks have their turn.
    ///
    /// # Errors
    /// Those of [`ModelFolder::open`]; [`Error::File`] for a file that has not the part, which says
    /// what it is; [`Error::MissingPart`] for a part that is nowhere.
    pub fn from_sources(sources: &Sources) -> Result<Self> {
        expect_ready(Builder::build(sources))
    }

    /// One part alone, from its folder, a diffusers folder or a file that has it. A text encoder
    /// has the tokenizer that is with it, if there is one.
    ///
    /// # Errors
    /// [`Error::File`] for a file or folder that has not the part; read errors.
    pub fn of_part(part: Part, path: &Path) -> Result<Self> {
        let sources = Sources { text_encoder: Some(path.to_owned()), ..Sources::default() };
        let name = match path.is_file() {
            true => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            false => ModelFolder::display_name(path),
        };
        let mut model = Builder { sources: &sources, folder: ModelFolder::without_files(&name), beside: None };
        expect_ready(async {
            model.add(part, path).await?;
            match part {
                Part::TextEncoder => match model.add_tokenizer().await {
                    Err(Error::MissingPart { .. }) => Ok(()),
                    added => added,
                },
                _ => Ok(()),
            }
        })?;
        Ok(model.folder)
    }
}

/// A model under construction.
struct Builder<'a> {
    sources: &'a Sources,
    folder: ModelFolder,
    /// The folder of the transformer's single file, if there is one.
    beside: Option<PathBuf>,
}

impl<'a> Builder<'a> {
    async fn build(sources: &'a Sources) -> Result<ModelFolder> {
        let path = &sources.model;
        let (folder, beside) = if path.is_file() {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let beside = path.parent().map(|parent| match parent.as_os_str().is_empty() {
                true => PathBuf::from("."),
                false => parent.to_owned(),
            });
            (ModelFolder::without_files(&name), beside)
        } else if is_part(path, Part::Transformer) {
            match path.canonicalize().ok().as_deref().and_then(Path::parent).filter(|parent| is_model(parent)) {
                Some(parent) => (ModelFolder::open(parent)?, None),
                None => (ModelFolder::without_files(&ModelFolder::display_name(path)), None),
            }
        } else {
            (ModelFolder::open(path)?, None)
        };
        let mut model = Builder { sources, folder, beside };
        model.add_transformer().await?;
        for (part, given) in [(Part::TextEncoder, &sources.text_encoder), (Part::Vae, &sources.vae)] {
            match given {
                Some(path) => model.add(part, path).await?,
                None if model.folder.has(part.folder()).await? => {}
                None => model.find(part).await?,
            }
        }
        model.add_tokenizer().await?;
        model.folder.add_scheduler(sources.shift).await?;
        Ok(model.folder)
    }

    /// Mounts the transformer, and all other parts of its file.
    async fn add_transformer(&mut self) -> Result<()> {
        let path = &self.sources.model;
        if path.is_file() {
            let file = single(path).await?;
            file.spelling(Part::Transformer)?;
            for part in file.parts() {
                self.add_file(*part, &file)?;
            }
        } else if is_part(path, Part::Transformer) {
            self.folder.mount_folder(Part::Transformer.folder(), path, None);
        }
        Ok(())
    }

    /// Mounts a part that is at `path`.
    async fn add(&mut self, part: Part, path: &Path) -> Result<()> {
        if path.is_file() {
            let file = single(path).await?;
            return self.add_file(part, &file);
        }
        let name = part.folder();
        if is_part(path, part) {
            self.folder.mount_folder(name, path, None);
        } else if is_part(&path.join(name), part) {
            self.folder.mount_folder(name, path, Some(name));
        } else {
            let kind = fs::metadata(path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Error::file(path, "there is no such file or folder"),
                _ => Error::io(path, error),
            })?;
            let what = if kind.is_dir() { "folder" } else { "thing that is no file" };
            let problem = format!("expected a {}, found a {what} without its config.json and weights", part.name());
            return Err(Error::file(path, problem));
        }
        Ok(())
    }

    /// Mounts a part of a single file, with its configuration.
    fn add_file(&mut self, part: Part, file: &Arc<SingleFile>) -> Result<()> {
        self.folder.add_part(part, file, config_beside(&file.file.path, part)?)
    }

    /// Mounts a part that no source gives.
    async fn find(&mut self, part: Part) -> Result<()> {
        if let Some(beside) = self.beside.clone() {
            if is_part(&beside.join(part.folder()), part) {
                return self.add(part, &beside.join(part.folder())).await;
            }
            let comfyui = COMFYUI.iter().find(|(other, _)| *other == part).map_or(&[][..], |(_, folders)| folders);
            let folders = comfyui.iter().flat_map(|folder| [beside.join(folder), beside.join("..").join(folder)]);
            for folder in [beside.clone()].into_iter().chain(folders) {
                if let Some(file) = only_file(&folder, part).await {
                    return self.add_file(part, &file);
                }
            }
        }
        let fallback = self.sources.fallbacks.iter().find(|folder| is_part(&folder.join(part.folder()), part));
        match fallback {
            Some(folder) => self.add(part, &folder.clone()).await,
            None => Err(self.missing(part.name())),
        }
    }

    fn missing(&self, part: &'static str) -> Error {
        Error::MissingPart { part, model: self.sources.model.clone() }
    }

    async fn add_tokenizer(&mut self) -> Result<()> {
        if let Some(path) = &self.sources.tokenizer {
            return self.mount_tokenizer(path).await;
        }
        if self.folder.has(TOKENIZER).await? || self.folder.add_tokenizer_of_text_encoder() {
            return Ok(());
        }
        let places = self.beside.iter().map(|beside| beside.join(TOKENIZER)).chain(self.beside.clone());
        let encoder = self.sources.text_encoder.iter().flat_map(|path| {
            let parent = path.parent().map(Path::to_owned).unwrap_or_default();
            [path.join(TOKENIZER), path.clone(), parent.join(TOKENIZER), parent]
        });
        let fallbacks = self.sources.fallbacks.iter().map(|folder| folder.join(TOKENIZER));
        match encoder.chain(places).chain(fallbacks).find(|folder| is_tokenizer(folder)) {
            Some(folder) => self.mount_tokenizer(&folder).await,
            None => Err(self.missing(TOKENIZER)),
        }
    }

    async fn mount_tokenizer(&mut self, path: &Path) -> Result<()> {
        if path.is_file() && path.extension().is_some_and(|end| end == "json") {
            let bytes = ModelFile::open(path, &OpenFiles::default())?;
            let bytes = bytes.read(0..bytes.len).await?;
            self.folder.mount_tokenizer_json(path, bytes);
        } else if path.is_file() {
            let file = single(path).await?;
            if !file.has_tokenizer() {
                let problem = "expected a tokenizer.json or a GGUF file with a tokenizer, found a file without one";
                return Err(Error::file(path, problem));
            }
            self.folder.mount_tokenizer_file(file);
        } else if is_tokenizer(path) {
            self.folder.mount_folder(TOKENIZER, path, None);
        } else if is_tokenizer(&path.join(TOKENIZER)) {
            self.folder.mount_folder(TOKENIZER, path, Some(TOKENIZER));
        } else {
            let problem = "expected a tokenizer: a file, or a folder with tokenizer.json or vocab.json";
            return Err(Error::file(path, problem));
        }
        Ok(())
    }
}

/// Opens a single file.
async fn single(path: &Path) -> Result<Arc<SingleFile>> {
    let open = OpenFiles::default();
    let file = ModelFile::open(path, &open)?;
    SingleFile::read(file, open).await.map(Arc::new)
}

/// The file in `folder` that has the part, if exactly one has it.
async fn only_file(folder: &Path, part: Part) -> Option<Arc<SingleFile>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).filter(|path| is_weights(path)).collect();
    paths.sort();
    let mut found = None;
    for path in paths.iter().take(MOST_LOOKED_AT) {
        // A file that cannot be read has not the part.
        let Ok(file) = single(path).await else { continue };
        if file.parts() == [part] && found.replace(file).is_some() {
            return None;
        }
    }
    found
}

/// The configuration in the folder of a single file, if it is that of the part.
pub(super) fn config_beside(file: &Path, part: Part) -> Result<Option<Map<String, Value>>> {
    let path = file.with_file_name("config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = fs::read(&path).map_err(|error| Error::io(&path, error))?;
    let config: Value = json::parse(&path, &bytes)?;
    let own = class(&config) == Some(class_of(part));
    match config {
        Value::Object(config) if own => Ok(Some(config)),
        _ => Ok(None),
    }
}

fn is_model(path: &Path) -> bool {
    path.join("model_index.json").is_file()
}

/// True for a part's folder in the layout of diffusers.
fn is_part(path: &Path, part: Part) -> bool {
    let stem = part.stem();
    let has = |name: String| path.join(name).is_file();
    has("config.json".into()) && (has(format!("{stem}.safetensors")) || has(format!("{stem}.safetensors.index.json")))
}

fn is_tokenizer(path: &Path) -> bool {
    ["tokenizer.json", "vocab.json"].iter().any(|name| path.join(name).is_file())
}
