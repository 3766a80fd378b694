//! Where a model's bytes come from. This is the only place that knows: the rest asks for files by their path inside a
//! diffusers folder, whether that folder is on disk or compiled into the binary.

use super::excerpt;
use crate::error::{Error, Result};
use bytes::Bytes;
use memmap2::Mmap;
use serde_json::Value;
use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

const INDEX: &str = "model_index.json";

/// The pipelines whose five parts are the ones that this crate runs.
const PIPELINES: [&str; 3] = ["ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline"];

/// How the text file begins that git leaves in place of a large file it has not fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// A model in the layout of a diffusers folder.
#[derive(Clone)]
pub struct ModelFolder {
    name: String,
    source: Source,
    /// Files that stand in for those of the source, or beside them.
    replaced: Vec<(String, Bytes)>,
}

#[derive(Clone)]
enum Source {
    Disk(PathBuf),
    Memory(&'static [(&'static str, &'static [u8])]),
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
        let folder = Self { name: display_name(path), source: Source::Disk(path.to_owned()), replaced: Vec::new() };
        if !folder.exists(INDEX) {
            return Err(Error::file(path, no_index(path)));
        }
        folder.check_pipeline()?;
        Ok(folder)
    }

    /// A model that is compiled into the program: pairs of a path inside the folder, such as `vae/config.json`, and the
    /// bytes of that file.
    pub fn in_memory(name: &str, files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self { name: name.to_owned(), source: Source::Memory(files), replaced: Vec::new() }
    }

    /// This model under another name, with `files` (pairs of a path inside the folder and that file's bytes) in the
    /// place of those that it has, or beside them. Only in memory: nothing is written.
    pub fn with_files(&self, name: &str, files: Vec<(String, Bytes)>) -> Self {
        Self { name: name.to_owned(), source: self.source.clone(), replaced: [files, self.replaced.clone()].concat() }
    }

    /// What to call the model when talking to the user.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where a file would be, for messages.
    pub fn path(&self, relative: &str) -> PathBuf {
        match &self.source {
            Source::Disk(root) => root.join(relative),
            Source::Memory(_) => Path::new(&self.name).join(relative),
        }
    }

    /// Whether there is a file of this path, relative to the folder and with `/` between its parts.
    pub fn exists(&self, relative: &str) -> bool {
        if self.replacement(relative).is_some() {
            return true;
        }
        match &self.source {
            Source::Disk(root) => stays_inside(relative) && root.join(relative).is_file(),
            Source::Memory(files) => files.iter().any(|(path, _)| *path == relative),
        }
    }

    /// The bytes of a file. One on disk is mapped, not copied: its pages are loaded when they are read, and everything
    /// sliced from the result shares the map.
    ///
    /// # Errors
    /// [`Error::Io`] for what the system reports, [`Error::File`] when there is no such file, when it is not a file, or
    /// when it is the pointer that git-lfs leaves in place of one.
    pub fn read(&self, relative: &str) -> Result<Bytes> {
        if let Some(bytes) = self.replacement(relative) {
            return Ok(bytes.clone());
        }
        let path = self.path(relative);
        if !stays_inside(relative) {
            return Err(Error::file(&path, "expected a path inside the model's folder"));
        }
        let bytes = match &self.source {
            Source::Disk(_) => map(&path)?,
            Source::Memory(files) => match files.iter().find(|(path, _)| *path == relative) {
                Some((_, bytes)) => Bytes::from_static(bytes),
                None => return Err(missing(&path)),
            },
        };
        if bytes.starts_with(LFS_POINTER) {
            return Err(Error::file(&path, "this is a git-lfs pointer, not the file itself; run git lfs pull"));
        }
        Ok(bytes)
    }

    fn replacement(&self, relative: &str) -> Option<&Bytes> {
        self.replaced.iter().find(|(path, _)| path == relative).map(|(_, bytes)| bytes)
    }

    /// The names of the files in one folder of the model, for messages that say what was found; empty when it cannot be
    /// listed.
    pub(super) fn list(&self, part: &str) -> Vec<String> {
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
        };
        names.sort();
        names
    }

    fn check_pipeline(&self) -> Result<()> {
        let path = self.path(INDEX);
        let index: Value = serde_json::from_slice(&self.read(INDEX)?)
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
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    // SAFETY: the map is read-only, lives as long as the `Bytes` that owns it, and is only ever read as bytes, for which
    // every value is valid. What cannot be ruled out is another program changing the file meanwhile: overwritten, it
    // shows other numbers; truncated, reading past its new end ends this process with SIGBUS. Every program that maps
    // weights accepts that; slices are checked against the length that the file had here.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
    Ok(Bytes::from_owner(map))
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
        assert_eq!(folder.read("vae/config.json").unwrap(), "{\"a\": 1}");
        assert!(folder.exists("vae/config.json") && !folder.exists("vae"));
        assert_eq!(folder.list("vae"), ["config.json", "weights.safetensors"]);
        let error = folder.read("vae/nothing").unwrap_err().to_string();
        assert!(error.starts_with("emoji/vae/nothing: there is no such file"), "{error}");
        assert!(folder.read("vae/weights.safetensors").unwrap_err().to_string().contains("run git lfs pull"));
        assert_eq!(format!("{folder:?}"), "ModelFolder(emoji, 3 files in memory)");
    }

    #[test]
    fn files_are_replaced_and_added_in_memory_only() {
        let file = |path: &str, text: &'static str| (path.to_owned(), Bytes::from(text));
        let folder = ModelFolder::in_memory("emoji", FILES);
        let other = folder.with_files("other", vec![file("vae/config.json", "{}"), file("vae/new.json", "[]")]);
        assert_eq!((other.name(), other.path("a")), ("other", PathBuf::from("other/a")));
        assert_eq!(other.read("vae/config.json").unwrap(), "{}");
        assert!(other.exists("vae/new.json") && other.exists("model_index.json") && !other.exists("vae"));
        assert_eq!(other.with_files("third", vec![file("vae/new.json", "1")]).read("vae/new.json").unwrap(), "1");
        assert_eq!(folder.read("vae/config.json").unwrap(), "{\"a\": 1}");
        assert!(!folder.exists("vae/new.json"));
    }

    #[test]
    fn paths_do_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("secret"), "x");
        write(&dir.path().join("m/model_index.json"), "{\"_class_name\": \"ZImagePipeline\"}");
        let folder = ModelFolder::open(&dir.path().join("m")).unwrap();
        let absolute = dir.path().join("secret");
        for path in ["../secret", "a/../../secret", "", "./../secret", absolute.to_str().unwrap()] {
            assert!(folder.read(path).unwrap_err().to_string().contains("inside the model's folder"), "{path}");
            assert!(!folder.exists(path), "{path}");
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
        assert!(folder.read("vae").unwrap_err().to_string().contains("expected a file"));
        assert!(folder.read("vae/empty").unwrap().is_empty());
    }
}
