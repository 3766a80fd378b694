//! The source of a model's bytes. All other code asks for files by their path inside a diffusers
//! folder, which may be on disk, compiled into the binary, or remote.
//!
//! Reading is asynchronous, because a browser cannot wait. A future that reads only local files is
//! ready on its first poll.

mod hints;
mod mount;
mod source;

use super::file::{ModelFile, OpenFiles, missing};
use super::gguf::Gguf;
use super::names::Part;
use super::random::RandomTensors;
use super::remote::RemoteFiles;
use super::single::SingleFile;
use super::transform::Transform;
use super::weight_format::WeightFormat;
use crate::error::{Error, Result};
use crate::future::expect_ready;
use crate::json;
use bytes::Bytes;
use mount::Mount;
use serde::de::DeserializeOwned;
use serde_json::Value;
use source::Source;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const INDEX: &str = "model_index.json";
/// The folder of the tokenizer.
pub(super) const TOKENIZER: &str = "tokenizer";
/// Maximum bytes of a `model_index.json` or a config file.
pub(crate) const LONGEST_CONFIG: u64 = 1 << 20;

/// Pipelines whose five parts are those that this crate runs.
const PIPELINES: [&str; 3] = ["ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline"];

/// A model in the layout of a diffusers folder.
#[derive(Clone)]
pub struct ModelFolder {
    name: String,
    source: Source,
    /// The parts that are not in the source, by their folder's name.
    parts: BTreeMap<String, Mount>,
    /// Files that replace those of the source, or extend them.
    replaced: Vec<(String, Bytes)>,
    /// The source of weights that are not in the files.
    random: Option<RandomTensors>,
    transform: Option<Arc<dyn Transform>>,
    weights: WeightFormat,
    /// The networks whose large matrices are operands of FP8 gemms.
    fp8: &'static [Part],
    /// Whether the operands of the transformer's attention are in FP8.
    fp8_attention: bool,
}

/// The place of a file of the model.
enum Place<'a> {
    In(&'a Source, Cow<'a, str>),
    OneFile(&'a SingleFile),
}

impl ModelFolder {
    fn new(name: &str, source: Source) -> Self {
        let (parts, replaced) = (BTreeMap::new(), Vec::new());
        Self {
            name: name.to_owned(),
            source,
            parts,
            replaced,
            random: None,
            transform: None,
            weights: WeightFormat::AsIs,
            fp8: &[],
            fp8_attention: false,
        }
    }

    /// The folder on disk that contains `model_index.json`.
    ///
    /// # Errors
    /// [`Error::File`] if the path does not exist, is not a folder, is one part of a model instead
    /// of the whole, or is the folder of another pipeline.
    pub fn open(path: &Path) -> Result<Self> {
        let kind = fs::metadata(path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::file(path, hints::absent(path)),
            _ => Error::io(path, e),
        })?;
        if !kind.is_dir() {
            return Err(Error::file(path, hints::no_folder(path)));
        }
        let folder = Self::new(&hints::display_name(path), Source::Disk(path.to_owned(), OpenFiles::default()));
        expect_ready(async {
            if !folder.exists(INDEX).await? {
                return Err(Error::file(path, hints::no_index(path)));
            }
            folder.check_pipeline().await
        })?;
        Ok(folder)
    }

    /// A remote folder, under the name that the user knows.
    ///
    /// # Errors
    /// [`Error::File`] if the folder has no `model_index.json` or belongs to another pipeline;
    /// errors of `files`.
    pub async fn remote(name: &str, files: Arc<dyn RemoteFiles>) -> Result<Self> {
        let folder = Self::new(name, Source::Remote { name: name.to_owned(), files });
        if !folder.exists(INDEX).await? {
            let problem = format!("this does not look like a diffusers folder: it has no {INDEX}");
            return Err(Error::file(Path::new(name), problem));
        }
        folder.check_pipeline().await?;
        Ok(folder)
    }

    /// A model compiled into the program: pairs of a path inside the folder, such as
    /// `vae/config.json`, and the bytes of that file.
    pub fn in_memory(name: &str, files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self::new(name, Source::Memory { name: name.to_owned(), files })
    }

    /// This model under another name, with `files` (pairs of a path inside the folder and that
    /// file's bytes) replacing or extending its own. This happens in memory only: nothing is
    /// written.
    pub fn with_files(&self, name: &str, files: Vec<(String, Bytes)>) -> Self {
        let replaced = [files, self.replaced.clone()].concat();
        let source = match self.source.clone() {
            Source::Memory { files, .. } => Source::Memory { name: name.to_owned(), files },
            Source::Remote { files, .. } => Source::Remote { name: name.to_owned(), files },
            disk @ Source::Disk(..) => disk,
        };
        Self { name: name.to_owned(), source, replaced, ..self.clone() }
    }

    /// This model under another name, with the weights of its files changed by `transform`.
    pub fn with_transform(&self, name: &str, transform: Arc<dyn Transform>) -> Self {
        Self { name: name.to_owned(), transform: Some(transform), ..self.clone() }
    }

    /// This model with random weights instead of its own, if any. `random` provides every tensor,
    /// for any name and shape.
    pub fn with_random_weights(mut self, random: RandomTensors) -> Self {
        self.random = Some(random);
        self
    }

    /// This model with its large matrices in another storage on the device.
    pub fn with_weights(mut self, weights: WeightFormat) -> Self {
        self.weights = weights;
        self
    }

    /// This model with the large matrices of these networks as operands of FP8 gemms.
    pub fn with_fp8(mut self, networks: &'static [Part]) -> Self {
        self.fp8 = networks;
        self
    }

    /// This model with the operands of the transformer's attention in FP8.
    pub fn with_fp8_attention(mut self, is_fp8: bool) -> Self {
        self.fp8_attention = is_fp8;
        self
    }

    /// True after [`ModelFolder::with_fp8_attention`].
    pub fn has_fp8_attention(&self) -> bool {
        self.fp8_attention
    }

    /// The storage of [`ModelFolder::with_weights`].
    pub fn weights(&self) -> WeightFormat {
        self.weights
    }

    /// The networks of [`ModelFolder::with_fp8`].
    pub fn fp8(&self) -> &'static [Part] {
        self.fp8
    }

    /// The transform of the weights in its files.
    pub(super) fn transform(&self) -> Option<&Arc<dyn Transform>> {
        self.transform.as_ref()
    }

    /// The source of weights that are not in the files.
    pub(super) fn random_weights(&self) -> Option<&RandomTensors> {
        self.random.as_ref()
    }

    /// The model's name, for display.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of a file, for messages. The file need not exist.
    pub fn path(&self, relative: &str) -> PathBuf {
        match self.place(relative) {
            Place::In(source, path) => source.path(&path),
            Place::OneFile(file) => file.file.path.clone(),
        }
    }

    /// The place of a file: in the model's own source, or where its part is mounted.
    fn place<'a>(&'a self, relative: &'a str) -> Place<'a> {
        let (part, rest) = relative.split_once('/').unwrap_or((relative, ""));
        match self.parts.get(part) {
            None => Place::In(&self.source, Cow::Borrowed(relative)),
            Some(Mount::File(file, _)) => Place::OneFile(file),
            Some(Mount::Folder(source, None)) => Place::In(source, Cow::Borrowed(rest)),
            Some(Mount::Folder(source, Some(folder))) => Place::In(source, Cow::Owned(format!("{folder}/{rest}"))),
        }
    }

    /// True if a file exists at this path, relative to the folder and separated by `/`.
    ///
    /// # Errors
    /// [`Error::Io`] if the system cannot tell, as in an unreadable folder; errors of remote files.
    pub async fn exists(&self, relative: &str) -> Result<bool> {
        if self.replacement(relative).is_some() {
            return Ok(true);
        }
        match self.place(relative) {
            Place::In(source, path) => source.exists(&path).await,
            Place::OneFile(_) => Ok(false),
        }
    }

    /// The bytes of a file. A large file on disk is mapped, not copied: its pages are loaded on
    /// demand, and all slices of the result share the mapping.
    ///
    /// # Errors
    /// [`Error::Io`] for system errors, [`Error::File`] if the path does not exist, is not a file,
    /// or is a git-lfs pointer; errors of remote files.
    pub async fn read(&self, relative: &str) -> Result<Bytes> {
        let file = self.file(relative).await?;
        file.read(0..file.len).await
    }

    /// The bytes of a file of at most `most` bytes.
    ///
    /// # Errors
    /// [`Error::File`] for a longer file, before any of it is read or fetched; errors of
    /// [`ModelFolder::read`].
    pub async fn read_at_most(&self, relative: &str, most: u64) -> Result<Bytes> {
        let file = self.file(relative).await?;
        if file.len > most {
            let problem = format!("expected at most {most} bytes, found {}", file.len);
            return Err(Error::file(&file.path, problem));
        }
        file.read(0..file.len).await
    }

    /// The header of a GGUF file. Of a remote file only the header is fetched, in pieces.
    ///
    /// # Errors
    /// Those of [`Gguf::open`]; errors of remote files.
    pub async fn gguf(&self, relative: &str) -> Result<Gguf> {
        Gguf::read(self.file(relative).await?).await
    }

    /// A JSON file of at most `most` bytes, parsed as in Python.
    ///
    /// # Errors
    /// Errors of [`ModelFolder::read_at_most`]; [`Error::File`] for broken JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&self, relative: &str, most: u64) -> Result<T> {
        json::parse(&self.path(relative), &self.read_at_most(relative, most).await?)
    }

    /// Checks that no file that weights are still read from has changed since it was opened: a
    /// mixture of old and new contents would be wrong without a sign. Files in memory, on a device
    /// or remote do not count.
    ///
    /// # Errors
    /// [`Error::File`] that names the changed file.
    pub fn check_unchanged(&self) -> Result<()> {
        self.source.check_unchanged()?;
        self.parts.values().try_for_each(|mount| match mount {
            Mount::Folder(source, _) => source.check_unchanged(),
            Mount::File(file, _) => file.open.check(),
        })
    }

    /// A file to read in parts, with the errors of [`ModelFolder::read`].
    pub(super) async fn file(&self, relative: &str) -> Result<ModelFile> {
        if let Some(bytes) = self.replacement(relative) {
            return Ok(ModelFile::in_memory(self.path(relative), bytes.clone()));
        }
        match self.place(relative) {
            Place::In(source, path) => source.file(&path).await,
            Place::OneFile(file) => Err(missing(&file.file.path.join(relative))),
        }
    }

    fn replacement(&self, relative: &str) -> Option<&Bytes> {
        self.replaced.iter().find(|(path, _)| path == relative).map(|(_, bytes)| bytes)
    }

    /// The names of the files in one folder of the model, for messages that list them; empty if the
    /// folder does not exist or cannot be listed.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder exists and may not be read.
    pub(super) async fn list(&self, part: &str) -> Result<Vec<String>> {
        match self.place(part) {
            Place::In(source, path) => source.list(&path).await,
            Place::OneFile(_) => Ok(Vec::new()),
        }
    }

    async fn check_pipeline(&self) -> Result<()> {
        let index: Value = self.json(INDEX, LONGEST_CONFIG).await?;
        match index.get("_class_name") {
            Some(Value::String(class)) if PIPELINES.contains(&class.as_str()) => Ok(()),
            class => Err(Error::file(&self.path(INDEX), hints::other_pipeline(class))),
        }
    }
}

impl fmt::Debug for ModelFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelFolder({:?}", self.source)?;
        self.parts.iter().try_for_each(|(part, mount)| write!(f, ", {part}: {mount:?}"))?;
        f.write_str(")")
    }
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
        assert_eq!(expect_ready(folder.read("vae/config.json")).unwrap(), "{\"a\": 1}");
        assert!(
            expect_ready(folder.exists("vae/config.json")).unwrap() && !expect_ready(folder.exists("vae")).unwrap()
        );
        assert_eq!(expect_ready(folder.list("vae")).unwrap(), ["config.json", "weights.safetensors"]);
        let error = expect_ready(folder.read("vae/nothing")).unwrap_err().to_string();
        assert!(error.starts_with("emoji/vae/nothing: there is no such file"), "{error}");
        assert!(
            expect_ready(folder.read("vae/weights.safetensors")).unwrap_err().to_string().contains("run git lfs pull")
        );
        assert_eq!(format!("{folder:?}"), "ModelFolder(emoji, 3 files in memory)");
    }

    #[test]
    fn files_are_replaced_and_added_in_memory_only() {
        let file = |path: &str, text: &'static str| (path.to_owned(), Bytes::from(text));
        let folder = ModelFolder::in_memory("emoji", FILES);
        let other = folder.with_files("other", vec![file("vae/config.json", "{}"), file("vae/new.json", "[]")]);
        assert_eq!((other.name(), other.path("a")), ("other", PathBuf::from("other/a")));
        assert_eq!(expect_ready(other.read("vae/config.json")).unwrap(), "{}");
        assert!(
            expect_ready(other.exists("vae/new.json")).unwrap()
                && expect_ready(other.exists("model_index.json")).unwrap()
                && !expect_ready(other.exists("vae")).unwrap()
        );
        assert_eq!(
            expect_ready(other.with_files("third", vec![file("vae/new.json", "1")]).read("vae/new.json")).unwrap(),
            "1"
        );
        assert_eq!(expect_ready(folder.read("vae/config.json")).unwrap(), "{\"a\": 1}");
        assert!(!expect_ready(folder.exists("vae/new.json")).unwrap());
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
                expect_ready(folder.read(path)).unwrap_err().to_string().contains("inside the model's folder"),
                "{path}"
            );
            assert!(!expect_ready(folder.exists(path)).unwrap(), "{path}");
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
    fn paths_that_are_not_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(INDEX), "{\"_class_name\": \"ZImagePipeline\"}");
        write(&dir.path().join("vae/empty"), "");
        let folder = ModelFolder::open(dir.path()).unwrap();
        assert!(expect_ready(folder.read("vae")).unwrap_err().to_string().contains("expected a file"));
        assert!(expect_ready(folder.read("vae/empty")).unwrap().is_empty());
    }
    /// Runs `check` as a user without read permissions, because root can read every folder.
    #[cfg(target_os = "linux")]
    fn as_nobody(check: impl FnOnce() + Send) {
        let drop_rights_and_check = || {
            // SAFETY: the raw call changes the user of this thread only, and fails without
            // privileges to drop.
            unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            check();
        };
        std::thread::scope(|scope| scope.spawn(drop_rights_and_check).join().unwrap());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn unreadable_folders_are_reported() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let root = dir.path().join("m");
        write(&root.join(INDEX), "{\"_class_name\": \"ZImagePipeline\"}");
        write(&root.join("vae/model.fp16.safetensors"), "");
        for path in [dir.path(), &root] {
            allow(path, 0o755);
        }
        let denied = |error: Error| {
            let error = error.to_string();
            assert!(error.contains("Permission denied"), "{error}");
        };
        allow(&root.join("vae"), 0o311);
        as_nobody(|| {
            let folder = ModelFolder::open(&root).unwrap();
            denied(expect_ready(folder.list("vae")).unwrap_err());
        });
        allow(&root.join("vae"), 0o600);
        as_nobody(|| {
            let folder = ModelFolder::open(&root).unwrap();
            denied(expect_ready(folder.exists("vae/config.json")).unwrap_err());
        });
        allow(&root, 0o600);
        as_nobody(|| denied(ModelFolder::open(&root).unwrap_err()));
        allow(&root, 0o755);
    }

    #[cfg(unix)]
    #[test]
    fn self_links_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(INDEX, dir.path().join(INDEX)).unwrap();
        let error = opened(dir.path());
        assert!(error.contains("model_index.json: ") && !error.contains("it has no model_index.json"), "{error}");
    }
}
