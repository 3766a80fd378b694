//! Opening a part: selecting its files, and locating each tensor.

use super::file::{ModelFile, OpenFiles};
use super::folder::{LONGEST_CONFIG, ModelFolder};
use super::header::{Stored, read_header};
use super::index::{self, read_index};
use super::names::{HEAD, Library, TABLE};
use super::random::RandomTensors;
use super::tensors::{Entry, Tensors};
use crate::error::{Error, Result, excerpt};
use futures_util::future::try_join;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Suffixes of the scales' names in files with quantised weights.
const SCALES: [&str; 6] = ["scale", "scale_weight", "weight_scale", "weight_scale_inv", "scaled_fp8", "comfy_quant"];

impl Tensors {
    /// Opens `<part>/<stem>.safetensors`, or the shards that `<part>/<stem>.safetensors.index.json`
    /// names, and checks their headers; no tensor is read yet. If both exist, the index takes
    /// precedence, as in diffusers, or the single file for the `stem` of transformers, which is
    /// `model`. Tensors in a shard but not in the index are available like all others. Missing
    /// shards and tensors of the index are reported only by [`Tensors::take`]. In a folder with
    /// random weights no file is opened: nothing is listed, and every tensor is available.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Tensor`] for files that are missing, truncated or damaged; read
    /// errors.
    pub async fn open(folder: &ModelFolder, part: &str, stem: &str) -> Result<Self> {
        let single = format!("{part}/{stem}.safetensors");
        let index = format!("{single}.index.json");
        let mut tensors = Self::none(folder.path(&single), folder.random_weights().cloned());
        tensors.transform = folder.transform().cloned();
        if tensors.random.is_some() {
            return Ok(tensors);
        }
        let library = Library::of(stem);
        let both = try_join(folder.exists(&single), folder.exists(&index)).await?;
        let sharded = match both {
            (false, false) => return Err(no_weights(folder, part, stem).await),
            (false, true) => true,
            (true, false) => false,
            (true, true) => library == Library::Diffusers,
        };
        if both == (true, true) {
            let (read, left) = if sharded { (&index, &single) } else { (&single, &index) };
            tensors.warnings.push(format!(
                "{}: this file is read, as {} does, and not {}; remove the one that is old",
                folder.path(read).display(),
                library.name(),
                folder.path(left).display()
            ));
        }
        if sharded {
            tensors.path = folder.path(&index);
            tensors.add_shards(folder, part, &index, library).await?;
        } else {
            tensors.add(folder.file(&single).await?, Some(library)).await?;
        }
        if library == Library::Transformers {
            tensors.tie(folder, part).await?;
        }
        Ok(tensors)
    }

    /// Opens a file on disk that is not part of a model, with the checks of [`Tensors::open`].
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::File`] and [`Error::Tensor`] for a file that is missing, truncated
    /// or damaged.
    pub async fn open_file(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::file(path, "there is no such file"));
        }
        let mut tensors = Self::none(path.to_owned(), None);
        tensors.add(ModelFile::open(path, &OpenFiles::default())?, None).await?;
        Ok(tensors)
    }

    fn none(path: PathBuf, random: Option<RandomTensors>) -> Self {
        Self {
            path,
            files: Vec::new(),
            prefix: "",
            entries: BTreeMap::new(),
            lost: BTreeMap::new(),
            scaled: false,
            warnings: Vec::new(),
            random,
            transform: None,
        }
    }

    /// Adds the tensors of a file, under the names of `library`. An existing tensor is replaced, as
    /// in the libraries, which load one file after the other.
    async fn add(&mut self, file: ModelFile, library: Option<Library>) -> Result<()> {
        for (stored, Stored { info, range }) in read_header(&file).await? {
            let name = library.map_or_else(|| (&*stored).into(), |library| library.own_name(&stored)).into_owned();
            self.scaled |= library.is_some() && stored.rsplit('.').next().is_some_and(|end| SCALES.contains(&end));
            if library == Some(Library::Transformers) && stored != name {
                self.prefix = "model.";
            }
            let stored = (stored != name).then_some(stored);
            let (dtype, shape) = (info.dtype, info.shape);
            let entry = Entry { file: self.files.len(), stored, dtype, shape, range, read: AtomicBool::new(false) };
            if let Some(other) = self.entries.get(&name) {
                let other_file = self.files.get(other.file).map_or(&file.path, |other| &other.path);
                self.warnings.push(format!(
                    "{}: the tensor {} of this file is read, and not {} of {}",
                    file.path.display(),
                    excerpt(entry.stored(&name)),
                    excerpt(other.stored(&name)),
                    other_file.display()
                ));
            }
            self.entries.insert(name, entry);
        }
        self.files.push(file);
        Ok(())
    }

    async fn add_shards(&mut self, folder: &ModelFolder, part: &str, index: &str, library: Library) -> Result<()> {
        let map = read_index(&self.path, &folder.read_at_most(index, index::LONGEST).await?)?;
        let path = |shard: &str| format!("{part}/{shard}");
        for shard in map.values().collect::<BTreeSet<_>>() {
            if folder.exists(&path(shard)).await? {
                self.add(folder.file(&path(shard)).await?, Some(library)).await?;
            } else {
                let missing = folder.path(&path(shard));
                self.warnings.push(format!("{}: there is no such file, though the index names it", missing.display()));
            }
        }
        if self.files.is_empty() {
            let shard = map.values().next().map_or_else(String::new, |shard| path(shard));
            return folder.file(&shard).await.map(|_| ());
        }
        for (stored, shard) in &map {
            let name = library.own_name(stored);
            if !self.entries.contains_key(&*name) {
                self.lost.insert(name.into_owned(), folder.path(&path(shard)));
            }
        }
        Ok(())
    }

    /// Maps the table of a language model to its head, if the files contain only the head and the
    /// config ties the two.
    async fn tie(&mut self, folder: &ModelFolder, part: &str) -> Result<()> {
        let config = format!("{part}/config.json");
        if self.entries.contains_key(TABLE) || !self.entries.contains_key(HEAD) || !folder.exists(&config).await? {
            return Ok(());
        }
        let config: Value = folder.json(&config, LONGEST_CONFIG).await?;
        if config.get("tie_word_embeddings") == Some(&Value::Bool(true))
            && let Some(mut head) = self.entries.remove(HEAD)
        {
            head.stored.get_or_insert_with(|| HEAD.to_owned());
            self.lost.remove(TABLE);
            self.entries.insert(TABLE.to_owned(), head);
        }
        Ok(())
    }
}

/// The error for a part without weights, which lists the folder's contents.
async fn no_weights(folder: &ModelFolder, part: &str, stem: &str) -> Error {
    const MOST_NAMES: usize = 8;
    let names = match folder.list(part).await {
        Ok(names) => names,
        Err(error) => return error,
    };
    // The name exists but is not a file: it is a folder or a broken link. Reading it gives the
    // specific error.
    for name in [format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json")] {
        if names.contains(&name)
            && let Err(error) = folder.read(&format!("{part}/{name}")).await
        {
            return error;
        }
    }
    let mut found = match names.len() {
        0 => "nothing".to_owned(),
        _ => names.iter().take(MOST_NAMES).map(|name| excerpt(name)).collect::<Vec<_>>().join(", "),
    };
    if names.len() > MOST_NAMES {
        found += ", …";
    }
    if let Some(variant) = names.iter().find_map(|name| variant(name, stem)) {
        found += &format!(
            "; these are the weights of the variant {}, which has to be asked for in diffusers and cannot be here; \
             remove {:?} from the names of the files and from the index",
            excerpt(variant),
            excerpt(&format!(".{variant}"))
        );
    } else if names.iter().any(|name| [".bin", ".gguf", ".pt", ".ckpt"].iter().any(|end| name.ends_with(end))) {
        found += "; only safetensors files are supported";
    }
    let expected = format!("{stem}.safetensors or {stem}.safetensors.index.json");
    Error::file(&folder.path(part), format!("expected {expected}, found {found}"))
}

/// The weight variant in a file name, such as `fp16` in `<stem>.fp16.safetensors`.
fn variant<'n>(name: &'n str, stem: &str) -> Option<&'n str> {
    let rest = name.strip_prefix(stem)?.strip_prefix('.')?;
    let single = rest.strip_suffix(".safetensors");
    single
        .or_else(|| rest.strip_prefix("safetensors.index.")?.strip_suffix(".json"))
        .filter(|variant| !variant.is_empty())
}
