//! A model that is made of given files, which may be remote.

use super::assembly::{SCHEDULER, SCHEDULER_CLASS, class, class_of};
use super::file::{OpenFiles, is_weights};
use super::folder::{LONGEST_CONFIG, ModelFolder, TOKENIZER};
use super::names::Part;
use super::remote::RemoteFiles;
use super::single::SingleFile;
use crate::error::{Error, Result, excerpt};
use crate::json;
use bytes::Bytes;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files that tell a part or the scheduler by their class.
const CONFIGS: [&str; 2] = ["config.json", "scheduler_config.json"];
/// The files with a tokenizer's vocabulary.
const VOCABULARIES: [&str; 2] = ["tokenizer.json", "vocab.json"];
/// The files that a tokenizer reads beside its vocabulary.
const BESIDE: [&str; 5] =
    ["merges.txt", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json", "added_tokens.json"];

/// The given files, by what they are.
struct Given {
    files: ModelFolder,
    parts: BTreeMap<Part, Arc<SingleFile>>,
    configs: BTreeMap<Part, (PathBuf, Map<String, Value>)>,
    scheduler: Option<(PathBuf, Bytes)>,
    tokenizer: Option<PathBuf>,
    /// A file that belongs to a tokenizer.
    beside: Option<PathBuf>,
}

impl ModelFolder {
    /// The model that the `paths` of `files` make: safetensors and GGUF files with its parts,
    /// `tokenizer.json`, and the configurations `config.json` and `scheduler_config.json`. They
    /// replace the parts of `folder`. Without a folder they have to be the whole model, in which
    /// only configurations and the scheduler may be missing, and the tokenizer if a GGUF file has
    /// it. Headers and small files are read now, weights later.
    ///
    /// A file with one part replaces that part of a file with several.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is no part of a Z-Image model, which says what it is, and
    /// for two files with the same part; [`Error::MissingPart`] for a part that no file has; errors
    /// of `files`.
    pub async fn from_files(
        folder: Option<ModelFolder>,
        files: Arc<dyn RemoteFiles>,
        paths: &[String],
    ) -> Result<ModelFolder> {
        let mut given = Given {
            files: ModelFolder::unnamed(files),
            parts: BTreeMap::new(),
            configs: BTreeMap::new(),
            scheduler: None,
            tokenizer: None,
            beside: None,
        };
        for path in paths {
            given.add(path).await?;
        }
        given.model(folder, paths).await
    }
}

impl Given {
    async fn add(&mut self, path: &str) -> Result<()> {
        let file = Path::new(path);
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_weights(file) {
            self.add_weights(path).await
        } else if CONFIGS.contains(&name) {
            self.add_config(path).await
        } else if VOCABULARIES.contains(&name) {
            match self.tokenizer.replace(file.to_owned()) {
                Some(other) if other.parent() != file.parent() => Err(another(file, TOKENIZER, &other)),
                _ => Ok(()),
            }
        } else if BESIDE.contains(&name) {
            self.beside = Some(file.to_owned());
            Ok(())
        } else {
            let problem = "expected a .safetensors, .sft or .gguf file, tokenizer.json, config.json or \
                           scheduler_config.json";
            Err(Error::file(file, problem))
        }
    }

    async fn add_weights(&mut self, path: &str) -> Result<()> {
        let file = self.files.file(path).await?;
        let file = Arc::new(SingleFile::read(file, OpenFiles::default()).await?);
        let path = &file.file.path;
        if file.parts().is_empty() {
            return Err(Error::file(path, file.kind.explain()));
        }
        for &part in file.parts() {
            let Some(other) = self.parts.get(&part) else {
                self.parts.insert(part, file.clone());
                continue;
            };
            match (file.parts().len(), other.parts().len()) {
                (own, others) if own == others => return Err(another(path, part.name(), &other.file.path)),
                (own, others) if own < others => drop(self.parts.insert(part, file.clone())),
                _ => {}
            }
        }
        Ok(())
    }

    async fn add_config(&mut self, path: &str) -> Result<()> {
        let bytes = self.files.read_at_most(path, LONGEST_CONFIG).await?;
        let path = Path::new(path);
        let config: Value = json::parse(path, &bytes)?;
        let is = |wanted: &str| class(&config) == Some(wanted);
        let (part, scheduler) = (Part::ALL.into_iter().find(|&part| is(class_of(part))), is(SCHEDULER_CLASS));
        let other = match (part, config) {
            (Some(part), Value::Object(config)) => {
                self.configs.insert(part, (path.to_owned(), config)).map(|(other, _)| other)
            }
            (None, _) if scheduler => self.scheduler.replace((path.to_owned(), bytes)).map(|(other, _)| other),
            (_, config) => {
                let found = config.get("_class_name").map_or("nothing".into(), |class| excerpt(&class.to_string()));
                let problem = format!("_class_name: expected that of a part of Z-Image, found {found}");
                return Err(Error::file(path, problem));
            }
        };
        other.map_or(Ok(()), |other| Err(another(path, "configuration of the same part", &other)))
    }

    /// The model that the files make with the parts of `folder`.
    async fn model(mut self, folder: Option<ModelFolder>, paths: &[String]) -> Result<ModelFolder> {
        let whole = folder.is_some();
        let mut model = folder.unwrap_or_else(|| ModelFolder::without_files(""));
        let transformer = self.parts.get(&Part::Transformer).map(|file| file.file.path.clone());
        if let Some(name) = transformer.as_deref().and_then(Path::file_stem) {
            model.rename(&name.to_string_lossy());
        }
        let first = || paths.first().map(PathBuf::from);
        let missing = |part| Error::MissingPart { part, model: transformer.clone().or_else(first).unwrap_or_default() };
        for part in Part::ALL {
            match self.parts.get(&part) {
                Some(file) => model.add_part(part, file, self.configs.remove(&part).map(|(_, config)| config))?,
                None if !whole => return Err(missing(part.name())),
                None => {}
            }
        }
        if let Some((part, (path, _))) = self.configs.first_key_value() {
            return Err(Error::file(path, format!("expected the {} of this configuration with it", part.name())));
        }
        match (&self.tokenizer, &self.beside) {
            (Some(file), _) => model.mount_beside(TOKENIZER, &self.files, file),
            (None, Some(file)) => return Err(Error::file(file, "expected a tokenizer.json or vocab.json with it")),
            (None, None) if whole || model.add_tokenizer_of_text_encoder() => {}
            (None, None) => return Err(missing(TOKENIZER)),
        }
        if let Some((_, scheduler)) = self.scheduler {
            model.replace(SCHEDULER, scheduler);
        }
        model.add_scheduler(None).await?;
        Ok(model)
    }
}

/// The error for two files with the same part.
fn another(file: &Path, what: &str, other: &Path) -> Error {
    Error::file(file, format!("expected one {what}, found another one in {}", other.display()))
}
