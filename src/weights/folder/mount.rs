//! Parts of a model that are read from elsewhere than its own source.

use super::source::Source;
use super::{ModelFolder, TOKENIZER, hints};
use crate::error::Result;
use crate::weights::file::OpenFiles;
use crate::weights::gguf::GgufTokenizer;
use crate::weights::names::Spelling;
use crate::weights::remote::RemoteFiles;
use crate::weights::single::SingleFile;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

/// A part that is read from elsewhere than the model's own source.
#[derive(Debug, Clone)]
pub(super) enum Mount {
    /// The part's files: those of a source, or of a folder in it.
    Folder(Source, Option<String>),
    /// One file with the part's tensors, in a spelling, or with the tokenizer.
    File(Arc<SingleFile>, Option<Spelling>),
}

impl ModelFolder {
    /// The single file that has the tensors of a part, if the part comes from one.
    pub(in crate::weights) fn single_file(&self, part: &str) -> Option<(&Arc<SingleFile>, &Spelling)> {
        match self.parts.get(part) {
            Some(Mount::File(file, Some(spelling))) => Some((file, spelling)),
            _ => None,
        }
    }

    /// The tokenizer inside a text encoder's GGUF file, if the model's tokenizer comes from one.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if it is broken; read errors.
    pub(crate) async fn gguf_tokenizer(&self) -> Result<Option<GgufTokenizer>> {
        match self.tokenizer_file() {
            Some(file) => file.tokenizer().await.map(Some),
            None => Ok(None),
        }
    }

    /// The GGUF file that the model's tokenizer comes from, if it comes from one.
    pub(in crate::weights) fn tokenizer_file(&self) -> Option<&Arc<SingleFile>> {
        match self.parts.get(TOKENIZER) {
            Some(Mount::File(file, None)) => Some(file),
            _ => None,
        }
    }

    /// True if the model has a part, in its own source or mounted.
    pub(in crate::weights) async fn has(&self, part: &str) -> Result<bool> {
        Ok(self.parts.contains_key(part) || !self.list(part).await?.is_empty())
    }

    /// A model without any files of its own.
    pub(in crate::weights) fn without_files(name: &str) -> Self {
        Self::in_memory(name, &[])
    }

    /// Remote files that are no model: the path of each is its name in messages.
    pub(in crate::weights) fn unnamed(files: Arc<dyn RemoteFiles>) -> Self {
        Self::new("", Source::Remote { name: String::new(), files })
    }

    /// Changes the name for display. Messages name files as before.
    pub(in crate::weights) fn rename(&mut self, name: &str) {
        name.clone_into(&mut self.name);
    }

    /// Replaces a file, or adds one. This happens in memory only.
    pub(in crate::weights) fn replace(&mut self, path: &str, bytes: Bytes) {
        self.replaced.insert(0, (path.to_owned(), bytes));
    }

    /// The name of the model in a folder.
    pub(in crate::weights) fn display_name(path: &Path) -> String {
        hints::display_name(path)
    }

    /// Reads a part from the folder at `path`, or from the folder `inside` it.
    pub(in crate::weights) fn mount_folder(&mut self, part: &str, path: &Path, inside: Option<&str>) {
        let source = Source::Disk(path.to_owned(), OpenFiles::default());
        self.parts.insert(part.to_owned(), Mount::Folder(source, inside.map(str::to_owned)));
    }

    /// Reads a part from the folder of `file` in the source of `other`.
    pub(in crate::weights) fn mount_beside(&mut self, part: &str, other: &ModelFolder, file: &Path) {
        let folder = file.parent().and_then(Path::to_str).filter(|folder| !folder.is_empty());
        self.parts.insert(part.to_owned(), Mount::Folder(other.source.clone(), folder.map(str::to_owned)));
    }

    /// Reads a part from a single file, with `config` as its `config.json`.
    pub(in crate::weights) fn mount_file(
        &mut self,
        part: &str,
        file: Arc<SingleFile>,
        spelling: Spelling,
        config: Bytes,
    ) {
        self.parts.insert(part.to_owned(), Mount::File(file, Some(spelling)));
        self.replace(&format!("{part}/config.json"), config);
    }

    /// Reads the tokenizer from a GGUF file.
    pub(in crate::weights) fn mount_tokenizer_file(&mut self, file: Arc<SingleFile>) {
        self.parts.insert(TOKENIZER.to_owned(), Mount::File(file, None));
    }

    /// Reads the tokenizer from the `tokenizer.json` at `path`, whose content is `bytes`, and from
    /// the files next to it.
    pub(in crate::weights) fn mount_tokenizer_json(&mut self, path: &Path, bytes: Bytes) {
        let folder = path.parent().unwrap_or(Path::new(""));
        self.mount_folder(TOKENIZER, folder, None);
        self.replace(&format!("{TOKENIZER}/tokenizer.json"), bytes);
    }
}
