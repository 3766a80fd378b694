//! Opening a part: selecting its files, and locating each tensor.

use super::beside::{Beside, quantised};
use super::file::{ModelFile, OpenFiles};
use super::folder::{LONGEST_CONFIG, ModelFolder};
use super::index::{self, read_index};
use super::names::{HEAD, Library, Part, Rows, Spelling, TABLE, Target};
use super::random::RandomTensors;
use super::read::read_header;
use super::safetensors;
use super::stored::{Header, Stored};
use super::tensors::{Entry, Tensors};
use super::weight_format::WeightFormat;
use crate::error::{Error, Result, excerpt};
use crate::tensor::Compute;
use futures_util::future::try_join;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The map from the stored names of a file to those that the model's code asks for.
#[derive(Debug, Clone, Copy)]
enum Naming<'a> {
    /// The stored names; nothing is quantised.
    Stored,
    /// A file in a diffusers folder.
    Library(Library),
    /// A part of a single file.
    Spelling(&'a Spelling),
}

impl Naming<'_> {
    fn targets(self, stored: &str) -> Vec<Target> {
        match self {
            Naming::Stored => vec![Target::whole(stored)],
            Naming::Library(library) => vec![Target::whole(library.own_name(stored))],
            Naming::Spelling(spelling) if spelling.is_unused(stored) => Vec::new(),
            Naming::Spelling(spelling) => spelling.targets(stored),
        }
    }
}

impl Tensors {
    /// Opens a part of a model, with the errors of [`Tensors::open`].
    ///
    /// # Errors
    /// As there.
    pub async fn of(folder: &ModelFolder, part: Part) -> Result<Self> {
        Self::open(folder, part.folder(), part.stem()).await
    }

    /// Opens `<part>/<stem>.safetensors`, or the shards that `<part>/<stem>.safetensors.index.json`
    /// names, and checks their headers; no tensor is read yet. If both exist, the index takes
    /// precedence, as in diffusers, or the single file for the `stem` of transformers, which is
    /// `model`. Tensors in a shard but not in the index are available like all others. Missing
    /// shards and tensors of the index are reported only by [`Tensors::take`]. In a folder with
    /// random weights no file is opened: nothing is listed, and every tensor is available. Of a
    /// part that comes from a single file, the tensors of that file have the names of the part.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Tensor`] for files that are missing, truncated or damaged; read
    /// errors.
    pub async fn open(folder: &ModelFolder, part: &str, stem: &str) -> Result<Self> {
        let single = format!("{part}/{stem}.safetensors");
        let index = format!("{single}.index.json");
        let mut tensors = Self::none(folder.path(&single), folder.random_weights().cloned());
        tensors.transform = folder.transform().cloned();
        let networks = [Part::Transformer, Part::TextEncoder];
        if let Some(network) = networks.into_iter().find(|network| network.folder() == part) {
            match folder.fp8().contains(&network) {
                true => tensors.compute = Compute::Fp8,
                false => tensors.weights = folder.weights(),
            }
            if network == Part::Transformer && folder.has_fp8_attention() {
                tensors.attention_in = Compute::Fp8;
            }
        }
        if tensors.random.is_some() {
            return Ok(tensors);
        }
        if let Some((single, spelling)) = folder.single_file(part) {
            tensors.path.clone_from(&single.file.path);
            tensors.prefix = spelling.prefix();
            tensors.add(&single.file, &single.header, Naming::Spelling(spelling))?;
            tensors.tie(folder, part).await?;
            tensors.cut_padding();
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
            tensors.add_file(folder.file(&single).await?, Naming::Library(library)).await?;
        }
        if library == Library::Transformers {
            tensors.tie(folder, part).await?;
        }
        tensors.cut_padding();
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
        tensors.add_file(ModelFile::open(path, &OpenFiles::default())?, Naming::Stored).await?;
        Ok(tensors)
    }

    fn none(path: PathBuf, random: Option<RandomTensors>) -> Self {
        Self {
            path,
            files: Vec::new(),
            prefix: "",
            entries: BTreeMap::new(),
            lost: BTreeMap::new(),
            warnings: Vec::new(),
            random,
            transform: None,
            weights: WeightFormat::AsIs,
            compute: Compute::Native,
            attention_in: Compute::Native,
        }
    }

    /// Reads the header of a file, and adds its tensors.
    async fn add_file(&mut self, file: ModelFile, naming: Naming<'_>) -> Result<()> {
        let header = match naming {
            Naming::Library(_) => safetensors::read_header(&file).await?,
            Naming::Stored | Naming::Spelling(_) => read_header(&file).await?,
        };
        self.add(&file, &header, naming)
    }

    /// Adds the tensors of a file. An existing tensor is replaced, as in the libraries, which load
    /// one file after the other.
    fn add(&mut self, file: &ModelFile, header: &Header, naming: Naming<'_>) -> Result<()> {
        let (mut quantised, beside) = match naming {
            Naming::Stored => Default::default(),
            Naming::Library(_) | Naming::Spelling(_) => quantised(header),
        };
        for (stored, Stored { dtype, shape, range }) in &header.tensors {
            if beside.contains(stored.as_str()) {
                continue;
            }
            let beside = quantised.remove(stored.as_str());
            let logical = beside.as_ref().map_or_else(|| shape.clone(), Beside::shape);
            for target in naming.targets(stored) {
                let divided = target.shape(&logical).zip(part_of(range, target.rows));
                let (shape, range) = divided.ok_or_else(|| Error::Tensor {
                    path: file.path.clone(),
                    tensor: excerpt(stored),
                    expected: "three stacked matrices of equal size".into(),
                    found: format!("{dtype} {shape:?}"),
                })?;
                let name = target.name;
                if matches!(naming, Naming::Library(Library::Transformers)) && *stored != name {
                    self.prefix = "model.";
                }
                let entry = Entry {
                    file: self.files.len(),
                    stored: (*stored != name).then(|| stored.clone()),
                    dtype: *dtype,
                    shape,
                    range,
                    beside: beside.clone().map(|beside| (beside, target.rows)),
                    read: OnceLock::new(),
                };
                self.insert(name, entry, file);
            }
        }
        self.files.push(file.clone());
        Ok(())
    }

    /// Adds an entry of `file`, with a warning if it replaces another one.
    fn insert(&mut self, name: String, entry: Entry, file: &ModelFile) {
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

    async fn add_shards(&mut self, folder: &ModelFolder, part: &str, index: &str, library: Library) -> Result<()> {
        let map = read_index(&self.path, &folder.read_at_most(index, index::LONGEST).await?)?;
        let path = |shard: &str| format!("{part}/{shard}");
        for shard in map.values().collect::<BTreeSet<_>>() {
            if folder.exists(&path(shard)).await? {
                self.add_file(folder.file(&path(shard)).await?, Naming::Library(library)).await?;
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

/// The bytes of some rows of a matrix at `range`; `None` if its bytes cannot be divided.
fn part_of(range: &Range<u64>, rows: Rows) -> Option<Range<u64>> {
    match rows {
        Rows::All => Some(range.clone()),
        Rows::Third(third) => {
            let bytes = range.end - range.start;
            let start = range.start + third as u64 * (bytes / 3);
            bytes.is_multiple_of(3).then(|| start..start + bytes / 3)
        }
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
        found += "; of a diffusers folder only safetensors files are read, and a GGUF file is named by itself";
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
