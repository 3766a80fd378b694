//! Where a model's bytes come from. This is the only place that knows: the rest asks for files by their path inside a
//! diffusers folder, whether that folder is on disk, compiled into the binary, or on another machine.
//!
//! Reading is asynchronous, because a browser cannot wait. What is on this machine is there at once: a future that reads
//! only that is ready when it is polled for the first time.

use super::excerpt;
use super::random::RandomTensors;
use super::remote::RemoteFiles;
use crate::error::{Error, Result};
use crate::future::at_once;
use bytes::Bytes;
use serde_json::Value;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

const INDEX: &str = "model_index.json";

/// The pipelines whose five parts are the ones that this crate runs.
const PIPELINES: [&str; 3] = ["ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline"];

/// How the text file begins that git leaves in place of a large file it has not fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
/// More than any such file has.
const LONGEST_LFS_POINTER: u64 = 1024;

/// A model in the layout of a diffusers folder.
#[derive(Clone)]
pub struct ModelFolder {
    name: String,
    source: Source,
    /// Files that stand in for those of the source, or beside them.
    replaced: Vec<(String, Bytes)>,
    /// Where weights come from that are not in the files.
    random: Option<RandomTensors>,
}

#[derive(Clone)]
enum Source {
    Disk(PathBuf),
    Memory(&'static [(&'static str, &'static [u8])]),
    Remote(Arc<dyn RemoteFiles>),
}

/// One file of a model, of which any part can be read.
#[derive(Debug, Clone)]
pub(super) struct ModelFile {
    /// For messages.
    pub path: PathBuf,
    /// Bytes.
    pub len: u64,
    contents: Contents,
}

#[derive(Debug, Clone)]
enum Contents {
    Here(Bytes),
    There { files: Arc<dyn RemoteFiles>, relative: String },
}

impl ModelFile {
    fn here(path: PathBuf, bytes: Bytes) -> Self {
        Self { path, len: bytes.len() as u64, contents: Contents::Here(bytes) }
    }

    /// A file on disk, mapped; its pages are loaded when they are read.
    ///
    /// # Errors
    /// [`Error::Io`] for what the system reports, [`Error::File`] when there is no such file or it is not a file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self::here(path.to_owned(), map(path)?))
    }

    /// How many bytes to read at once of what is read in pieces; `None` for a file on this machine, whose bytes take no memory
    /// until they are used.
    pub(super) fn piece(&self) -> Option<u64> {
        match &self.contents {
            Contents::Here(_) => None,
            Contents::There { files, .. } => Some(files.piece()),
        }
    }

    /// The bytes in `range`: those of a file on this machine are shared, not copied.
    ///
    /// # Errors
    /// [`Error::File`] for a range that the file does not have; those of remote files.
    pub(super) async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let part = match &self.contents {
            Contents::Here(bytes) => slice(bytes, &range),
            Contents::There { .. } if range.is_empty() => Some(Bytes::new()),
            Contents::There { files, relative } => {
                let bytes = files.read(relative, range.clone()).await?;
                (bytes.len() as u64 == range.end - range.start).then_some(bytes)
            }
        };
        part.ok_or_else(|| {
            let Range { start, end } = range;
            Error::file(&self.path, format!("bytes {start} to {end} of {} cannot be read", self.len))
        })
    }
}

fn slice(bytes: &Bytes, range: &Range<u64>) -> Option<Bytes> {
    let [start, end] = [range.start, range.end].map(usize::try_from);
    let (start, end) = (start.ok()?, end.ok()?);
    (start <= end && end <= bytes.len()).then(|| bytes.slice(start..end))
}

impl ModelFolder {
    /// A folder on disk, the one that holds `model_index.json`.
    ///
    /// # Errors
    /// [`Error::File`] when it is not there, not a folder, one part of a model instead of the whole, or the folder of
    /// another pipeline.
    pub fn open(path: &Path) -> Result<Self> {
        let kind = fs::metadata(path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::file(path, "there is no such folder"),
            _ => Error::io(path, e),
        })?;
        if !kind.is_dir() {
            let problem = format!("expected a diffusers folder (the one with {INDEX}), found a single file");
            return Err(Error::file(path, problem));
        }
        let folder = Self {
            name: display_name(path),
            source: Source::Disk(path.to_owned()),
            replaced: Vec::new(),
            random: None,
        };
        at_once(async {
            if !folder.exists(INDEX).await? {
                return Err(Error::file(path, no_index(path)));
            }
            folder.check_pipeline().await
        })?;
        Ok(folder)
    }

    /// A folder that is somewhere else, under the name that the user knows it by.
    ///
    /// # Errors
    /// [`Error::File`] when it has no `model_index.json` or is the folder of another pipeline; those of `files`.
    pub async fn remote(name: &str, files: Arc<dyn RemoteFiles>) -> Result<Self> {
        let folder = Self { name: name.to_owned(), source: Source::Remote(files), replaced: Vec::new(), random: None };
        if !folder.exists(INDEX).await? {
            let problem = format!("this does not look like a diffusers folder: it has no {INDEX}");
            return Err(Error::file(Path::new(name), problem));
        }
        folder.check_pipeline().await?;
        Ok(folder)
    }

    /// A model that is compiled into the program: pairs of a path inside the folder, such as `vae/config.json`, and the
    /// bytes of that file.
    pub fn in_memory(name: &str, files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self { name: name.to_owned(), source: Source::Memory(files), replaced: Vec::new(), random: None }
    }

    /// This model under another name, with `files` (pairs of a path inside the folder and that file's bytes) in the
    /// place of those that it has, or beside them. Only in memory: nothing is written.
    pub fn with_files(&self, name: &str, files: Vec<(String, Bytes)>) -> Self {
        let replaced = [files, self.replaced.clone()].concat();
        Self { name: name.to_owned(), source: self.source.clone(), replaced, random: self.random.clone() }
    }

    /// This model with random weights in the place of those of its files, if it has any: [`RandomTensors::weight`] answers
    /// for every tensor, whatever its name and shape.
    pub fn with_random_weights(mut self) -> Self {
        self.random = Some(RandomTensors::default());
        self
    }

    /// Where the weights come from when they are not in the files.
    pub(super) fn random_weights(&self) -> Option<&RandomTensors> {
        self.random.as_ref()
    }

    /// What to call the model when talking to the user.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where a file would be, for messages.
    pub fn path(&self, relative: &str) -> PathBuf {
        match &self.source {
            Source::Disk(root) => root.join(relative),
            Source::Memory(_) | Source::Remote(_) => Path::new(&self.name).join(relative),
        }
    }

    /// Whether there is a file of this path, relative to the folder and with `/` between its parts.
    ///
    /// # Errors
    /// Those of remote files.
    pub async fn exists(&self, relative: &str) -> Result<bool> {
        if self.replacement(relative).is_some() {
            return Ok(true);
        }
        Ok(match &self.source {
            Source::Disk(root) => stays_inside(relative) && root.join(relative).is_file(),
            Source::Memory(files) => files.iter().any(|(path, _)| *path == relative),
            Source::Remote(files) => stays_inside(relative) && files.size(relative).await?.is_some(),
        })
    }

    /// The bytes of a file. One on disk is mapped, not copied: its pages are loaded when they are read, and everything
    /// sliced from the result shares the map.
    ///
    /// # Errors
    /// [`Error::Io`] for what the system reports, [`Error::File`] when there is no such file, when it is not a file, or
    /// when it is the pointer that git-lfs leaves in place of one; those of remote files.
    pub async fn read(&self, relative: &str) -> Result<Bytes> {
        let file = self.file(relative).await?;
        file.read(0..file.len).await
    }

    /// A file to be read in parts, with the errors of [`ModelFolder::read`].
    pub(super) async fn file(&self, relative: &str) -> Result<ModelFile> {
        let path = self.path(relative);
        if let Some(bytes) = self.replacement(relative) {
            return Ok(ModelFile::here(path, bytes.clone()));
        }
        if !stays_inside(relative) {
            return Err(Error::file(&path, "expected a path inside the model's folder"));
        }
        let file = match &self.source {
            Source::Disk(_) => ModelFile::open(&path)?,
            Source::Memory(files) => match files.iter().find(|(path, _)| *path == relative) {
                Some((_, bytes)) => ModelFile::here(path, Bytes::from_static(bytes)),
                None => return Err(missing(&path)),
            },
            Source::Remote(files) => match files.size(relative).await? {
                Some(len) => {
                    let contents = Contents::There { files: files.clone(), relative: relative.to_owned() };
                    ModelFile { path, len, contents }
                }
                None => return Err(missing(&path)),
            },
        };
        if file.len <= LONGEST_LFS_POINTER && file.read(0..file.len).await?.starts_with(LFS_POINTER) {
            return Err(Error::file(&file.path, "this is a git-lfs pointer, not the file itself; run git lfs pull"));
        }
        Ok(file)
    }

    fn replacement(&self, relative: &str) -> Option<&Bytes> {
        self.replaced.iter().find(|(path, _)| path == relative).map(|(_, bytes)| bytes)
    }

    /// The names of the files in one folder of the model, for messages that say what was found; empty when it cannot be
    /// listed.
    pub(super) async fn list(&self, part: &str) -> Vec<String> {
        let mut names: Vec<String> = match &self.source {
            Source::Disk(root) => fs::read_dir(root.join(part))
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect(),
            Source::Memory(files) => files
                .iter()
                .filter_map(|(path, _)| path.strip_prefix(part)?.strip_prefix('/'))
                .map(str::to_owned)
                .collect(),
            Source::Remote(files) => files.list(part).await.unwrap_or_default(),
        };
        names.sort();
        names
    }

    async fn check_pipeline(&self) -> Result<()> {
        let path = self.path(INDEX);
        let index: Value = serde_json::from_slice(&self.read(INDEX).await?)
            .map_err(|e| Error::file(&path, format!("broken JSON: {}", excerpt(&e.to_string()))))?;
        let found = match index.get("_class_name") {
            Some(Value::String(class)) if PIPELINES.contains(&class.as_str()) => return Ok(()),
            Some(other) => excerpt(&other.to_string()),
            None => "nothing".to_owned(),
        };
        let expected = PIPELINES.join(", ");
        Err(Error::file(&path, format!("_class_name: expected one of {expected}, found {found}; not a Z-Image model")))
    }
}

impl fmt::Debug for ModelFolder {
    /// Without the bytes of a model in memory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Disk(root) => write!(f, "ModelFolder({})", root.display()),
            Source::Memory(files) => write!(f, "ModelFolder({}, {} files in memory)", self.name, files.len()),
            Source::Remote(files) => write!(f, "ModelFolder({}, {files:?})", self.name),
        }
    }
}

fn stays_inside(relative: &str) -> bool {
    !relative.is_empty() && Path::new(relative).components().all(|part| matches!(part, Component::Normal(_)))
}

fn missing(path: &Path) -> Error {
    Error::file(path, "there is no such file: the model is incomplete; download it again")
}

fn map(path: &Path) -> Result<Bytes> {
    // Asked before opening: opening a named pipe would wait for its writer.
    let kind = fs::metadata(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => missing(path),
        _ => Error::io(path, e),
    })?;
    if !kind.is_file() {
        return Err(Error::file(path, "expected a file, found a folder or a device"));
    }
    if kind.len() == 0 {
        return Ok(Bytes::new());
    }
    map_file(path).map_err(|e| Error::io(path, e))
}

#[cfg(not(target_family = "wasm"))]
fn map_file(path: &Path) -> std::io::Result<Bytes> {
    let file = fs::File::open(path)?;
    // SAFETY: the map is read-only, lives as long as the `Bytes` that owns it, and is only ever read as bytes, for which
    // every value is valid. What cannot be ruled out is another program changing the file meanwhile: overwritten, it
    // shows other numbers; truncated, reading past its new end ends this process with SIGBUS. Every program that maps
    // weights accepts that; slices are checked against the length that the file had here.
    let map = unsafe { memmap2::Mmap::map(&file) }?;
    Ok(Bytes::from_owner(map))
}

/// Where there are no maps, a file is read as a whole.
#[cfg(target_family = "wasm")]
fn map_file(path: &Path) -> std::io::Result<Bytes> {
    fs::read(path).map(Bytes::from)
}

/// Why a folder without an index is refused, with a hint where the right one may be.
fn no_index(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match absolute.parent() {
        Some(parent) if parent.join(INDEX).is_file() => {
            format!("this is one part of a model; name the folder above it, {}", parent.display())
        }
        _ => format!(
            "this does not look like a diffusers folder: it has no {INDEX}; name the folder with {INDEX}, transformer, \
             text_encoder, tokenizer, vae and scheduler"
        ),
    }
}

/// The folder's own name, or the repository's when the folder is a snapshot in the Hugging Face cache, where folders
/// are named for commits: `models--owner--name/snapshots/commit`.
fn display_name(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut names = absolute.ancestors().map(|folder| folder.file_name().unwrap_or_default().to_string_lossy());
    let (own, parent, grandparent) = (names.next(), names.next(), names.next());
    if parent.as_deref() == Some("snapshots")
        && let Some(repository) = grandparent.as_deref().and_then(|name| name.strip_prefix("models--"))
    {
        return repository.rsplit("--").next().unwrap_or(repository).to_owned();
    }
    own.unwrap_or_default().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    static FILES: &[(&str, &[u8])] = &[
        ("model_index.json", b"{}"),
        ("vae/config.json", b"{\"a\": 1}"),
        ("vae/weights.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
    ];

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn opened(root: &Path) -> String {
        ModelFolder::open(root).unwrap_err().to_string()
    }

    #[test]
    fn memory_serves_its_files() {
        let folder = ModelFolder::in_memory("emoji", FILES);
        assert_eq!(folder.name(), "emoji");
        assert_eq!(at_once(folder.read("vae/config.json")).unwrap(), "{\"a\": 1}");
        assert!(at_once(folder.exists("vae/config.json")).unwrap() && !at_once(folder.exists("vae")).unwrap());
        assert_eq!(at_once(folder.list("vae")), ["config.json", "weights.safetensors"]);
        let error = at_once(folder.read("vae/nothing")).unwrap_err().to_string();
        assert!(error.starts_with("emoji/vae/nothing: there is no such file"), "{error}");
        assert!(at_once(folder.read("vae/weights.safetensors")).unwrap_err().to_string().contains("run git lfs pull"));
        assert_eq!(format!("{folder:?}"), "ModelFolder(emoji, 3 files in memory)");
    }

    #[test]
    fn files_are_replaced_and_added_in_memory_only() {
        let file = |path: &str, text: &'static str| (path.to_owned(), Bytes::from(text));
        let folder = ModelFolder::in_memory("emoji", FILES);
        let other = folder.with_files("other", vec![file("vae/config.json", "{}"), file("vae/new.json", "[]")]);
        assert_eq!((other.name(), other.path("a")), ("other", PathBuf::from("other/a")));
        assert_eq!(at_once(other.read("vae/config.json")).unwrap(), "{}");
        assert!(
            at_once(other.exists("vae/new.json")).unwrap()
                && at_once(other.exists("model_index.json")).unwrap()
                && !at_once(other.exists("vae")).unwrap()
        );
        assert_eq!(
            at_once(other.with_files("third", vec![file("vae/new.json", "1")]).read("vae/new.json")).unwrap(),
            "1"
        );
        assert_eq!(at_once(folder.read("vae/config.json")).unwrap(), "{\"a\": 1}");
        assert!(!at_once(folder.exists("vae/new.json")).unwrap());
    }

    #[test]
    fn paths_do_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("secret"), "x");
        write(&dir.path().join("m/model_index.json"), "{\"_class_name\": \"ZImagePipeline\"}");
        let folder = ModelFolder::open(&dir.path().join("m")).unwrap();
        let absolute = dir.path().join("secret");
        for path in ["../secret", "a/../../secret", "", "./../secret", absolute.to_str().unwrap()] {
            assert!(
                at_once(folder.read(path)).unwrap_err().to_string().contains("inside the model's folder"),
                "{path}"
            );
            assert!(!at_once(folder.exists(path)).unwrap(), "{path}");
        }
    }

    #[test]
    fn a_folder_is_checked_when_it_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("m");
        assert!(opened(&root).contains("there is no such folder"));
        write(&root.join("transformer/config.json"), "{}");
        assert!(opened(&root).contains("it has no model_index.json"));
        assert!(opened(&root.join("transformer/config.json")).contains("found a single file"));
        write(&root.join(INDEX), "{\"_class_name\": \"FluxPipeline\"}");
        let error = opened(&root);
        assert!(
            error.contains("m/model_index.json: _class_name") && error.contains("found \"FluxPipeline\""),
            "{error}"
        );
        assert!(opened(&root.join("transformer")).contains("name the folder above it"));
        write(&root.join(INDEX), "{\"_class_name\": }");
        assert!(opened(&root).contains("broken JSON: expected value at line 1"));
        write(&root.join(INDEX), "[]");
        assert!(opened(&root).contains("found nothing"));
        write(&root.join(INDEX), "{\"_class_name\": \"ZImageImg2ImgPipeline\"}");
        assert_eq!(ModelFolder::open(&root).unwrap().name(), "m");
    }

    #[test]
    fn a_cached_snapshot_has_its_repository_s_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("models--Tongyi-MAI--Z-Image-Turbo/snapshots/0123abcd");
        write(&root.join(INDEX), "{\"_class_name\": \"ZImagePipeline\"}");
        assert_eq!(ModelFolder::open(&root).unwrap().name(), "Z-Image-Turbo");
    }

    #[test]
    fn files_that_are_none_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(INDEX), "{\"_class_name\": \"ZImagePipeline\"}");
        write(&dir.path().join("vae/empty"), "");
        let folder = ModelFolder::open(dir.path()).unwrap();
        assert!(at_once(folder.read("vae")).unwrap_err().to_string().contains("expected a file"));
        assert!(at_once(folder.read("vae/empty")).unwrap().is_empty());
    }
}
